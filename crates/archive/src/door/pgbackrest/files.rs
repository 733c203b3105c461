//! The files of a backup into a new directory, each verified against the digest that its manifest has.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, digest};
use futures_util::{StreamExt, stream as stream_of};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Stanza;
use super::cipher::Decrypted;
use super::manifest::{Contents, Member};
use crate::base::CONTROL;
use crate::door::codec::Codec;
use crate::door::stream::{self, RANGE, Stream};
use crate::door::{LABEL, Unfit, is_left_out};
use crate::format::hex;
use crate::restore::{Last, Onto, RestoreError};

/// Files that a thread looks at before the next one is begun.
const AT_A_TIME: usize = 32;

/// Files that follow each other in one object, read as one.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    object: String,
    start: u64,
    end: u64,
    members: Vec<Member>,
}

/// What all of a backup's files share.
struct Work {
    onto: Onto,
    codec: Codec,
    passphrase: Option<String>,
    /// The files that come last.
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

/// Writes the files of a backup but those that come last, which are the answer.
pub async fn unpack(stanza: &Stanza, label: &str, onto: &Onto) -> Result<Last, RestoreError> {
    let Contents { folders, files, codec, passphrase, .. } = stanza.contents(label).await?;
    let work = Arc::new(Work { onto: onto.clone(), codec, passphrase, kept: Mutex::default() });
    let manifest = format!("backup/{}/{label}/backup.manifest", stanza.name);
    let broken = |unfit: Unfit| unfit.about(&stanza.repository, &manifest);
    for (path, mode) in &folders {
        onto.tree.folder_at(path, *mode).map_err(broken)?;
    }
    let (empty, mut full): (Vec<Member>, Vec<Member>) =
        files.into_iter().filter(|one| !is_left_out(&one.path)).partition(|one| one.size == 0);
    for member in &empty {
        onto.tree.file_at(&member.path, member.mode).map_err(broken)?;
    }
    if onto.goes_on {
        full = missing(&work, full).await?.map_err(broken)?;
    }
    let turns = Arc::new(Semaphore::new(onto.workers.max(1)));
    let mut all: JoinSet<Result<(), RestoreError>> = JoinSet::new();
    for batch in batches(full) {
        let turn = Arc::clone(&turns).acquire_owned().await;
        let turn = turn.map_err(|error| RestoreError::Worker(error.to_string()))?;
        let (repository, work) = (stanza.repository.clone(), Arc::clone(&work));
        let object = format!("backup/{}/{}", stanza.name, batch.object);
        all.spawn(async move {
            let _turn = turn;
            stream::take(&repository, &object, batch.start..batch.end, move |stream| work.batch(batch, stream)).await
        });
        while let Some(ended) = all.try_join_next() {
            ended.map_err(|error| RestoreError::Worker(error.to_string()))??;
        }
    }
    while let Some(ended) = all.join_next().await {
        ended.map_err(|error| RestoreError::Worker(error.to_string()))??;
    }
    let mut kept = work.kept.lock().unwrap_or_else(PoisonError::into_inner);
    let mut of = |name: &str| kept.remove(name).unwrap_or_default();
    Ok(Last { label: String::from_utf8_lossy(&of(LABEL)).into_owned(), control: of(CONTROL) })
}

/// Those of them that an earlier try has not written, as their digests say.
async fn missing(work: &Arc<Work>, files: Vec<Member>) -> Result<Result<Vec<Member>, Unfit>, RestoreError> {
    let mut files = files.into_iter();
    let groups = std::iter::from_fn(move || {
        let group: Vec<Member> = files.by_ref().take(AT_A_TIME).collect();
        (!group.is_empty()).then_some(group)
    });
    let looks = stream_of::iter(groups).map(|group| {
        let work = Arc::clone(work);
        tokio::task::spawn_blocking(move || group.into_iter().map(|one| work.look(one)).collect::<Result<Vec<_>, _>>())
    });
    let mut looks = looks.buffer_unordered(work.onto.workers.max(1));
    let mut left = Vec::new();
    while let Some(looked) = looks.next().await {
        match looked.map_err(|error| RestoreError::Worker(error.to_string()))? {
            Ok(found) => left.extend(found.into_iter().flatten()),
            Err(unfit) => return Ok(Err(unfit)),
        }
    }
    Ok(Ok(left))
}

/// What lies together is read together, the longest first, so that no worker begins the longest at the end.
fn batches(mut files: Vec<Member>) -> Vec<Batch> {
    files.sort_by(|one, other| (&one.object, one.at).cmp(&(&other.object, other.at)));
    let mut batches: Vec<Batch> = Vec::new();
    for member in files {
        let end = member.at.saturating_add(member.stored);
        match batches.last_mut() {
            Some(last) if last.object == member.object && last.end == member.at && end - last.start <= RANGE => {
                last.end = end;
                last.members.push(member);
            }
            _ => batches.push(Batch { object: member.object.clone(), start: member.at, end, members: vec![member] }),
        }
    }
    batches.sort_by_key(|batch| std::cmp::Reverse(batch.end - batch.start));
    batches
}

impl Work {
    /// The file, unless it is there.
    fn look(&self, member: Member) -> Result<Option<Member>, Unfit> {
        let Some(mut file) = self.onto.tree.left_at(&member.path)? else { return Ok(Some(member)) };
        if file.metadata().map_or(u64::MAX, |meta| meta.len()) != member.size {
            return Ok(Some(member));
        }
        let (mut sum, mut buffer) = (Context::new(&SHA1_FOR_LEGACY_USE_ONLY), vec![0; 256 << 10]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => sum.update(&buffer[..read]),
                Err(_) => return Ok(Some(member)),
            }
        }
        if member.sha1.as_deref() != Some(hex(sum.finish().as_ref()).as_str()) {
            return Ok(Some(member));
        }
        self.onto.tree.keep_at(&member.path, member.mode)?;
        self.onto.progress.found(member.size);
        Ok(None)
    }

    fn batch(&self, batch: Batch, mut stream: Stream) -> Result<(), Unfit> {
        for member in batch.members {
            let mut stored = stream.by_ref().take(member.stored);
            self.member(&member, &mut stored).map_err(|unfit| match unfit {
                Unfit::Content(why) => Unfit::Content(format!("{}: {why}", member.path)),
                unfit => unfit,
            })?;
            // What a decoder had no need to look at.
            std::io::copy(&mut stored, &mut std::io::sink())?;
        }
        Ok(())
    }

    fn member(&self, member: &Member, stored: impl Read) -> Result<(), Unfit> {
        let codec = if member.raw && self.codec == Codec::Gzip { Codec::Deflate } else { self.codec };
        let mut content = match &self.passphrase {
            Some(passphrase) => codec.reader(Decrypted::new(stored, passphrase, member.raw))?,
            None => codec.reader(stored)?,
        };
        let mut sum = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        let mut size = 0;
        if [CONTROL, LABEL].contains(&member.path.as_str()) {
            let mut kept = Vec::new();
            content.take(1 << 20).read_to_end(&mut kept)?;
            sum.update(&kept);
            size = kept.len() as u64;
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(member.path.clone(), kept);
        } else {
            let mut file = self.onto.tree.file_at(&member.path, member.mode)?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                let read = content.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                sum.update(&buffer[..read]);
                file.write(&buffer[..read])?;
                size += read as u64;
                self.onto.progress.add(read as u64);
            }
        }
        if size != member.size {
            return Err(Unfit::Content(format!("it has {size} bytes, and its manifest says {}", member.size)));
        }
        match &member.sha1 {
            Some(expected) if *expected == hex(sum.finish().as_ref()) => Ok(()),
            Some(_) => Err(Unfit::Content("its content does not have the digest that its manifest says".to_owned())),
            None => Err(Unfit::Content("its manifest has no digest of it".to_owned())),
        }
    }
}

/// The digest that pgBackRest uses.
pub fn sha1(content: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, content).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(object: &str, at: u64, stored: u64) -> Member {
        let (path, object) = (format!("{object}@{at}"), object.to_owned());
        Member { path, object, at, raw: false, stored, size: 1, sha1: None, mode: 0o600 }
    }

    #[test]
    fn neighbours_in_a_bundle_are_read_as_one() {
        let files =
            vec![member("b", 10, 5), member("a", 0, 3), member("b", 0, 10), member("b", 40, 2), member("b", 15, RANGE)];
        let found = batches(files);
        let ranges: Vec<(&str, u64, u64, usize)> =
            found.iter().map(|one| (&*one.object, one.start, one.end, one.members.len())).collect();
        assert_eq!(ranges, [("b", 15, 15 + RANGE, 1), ("b", 0, 15, 2), ("a", 0, 3, 1), ("b", 40, 42, 1)]);
    }
}
