//! Chains of backups of a pretended disk, put together again from what their manifests say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use matriarch_core::Lsn;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::changes::Relation;
use super::super::manifest::Summary;
use super::*;
use crate::format::{hex, sha256};

const PER_FILE: u32 = 8;
const BLOCK: usize = PAGE;

/// Files by their paths.
type Disk = BTreeMap<String, Vec<u8>>;
/// Contents of frames, by backup, pack and number.
type Packs = BTreeMap<(String, u32, u32), Vec<u8>>;

fn summary(backup: &str) -> Summary {
    Summary {
        version: 1,
        backup: backup.to_owned(),
        system_identifier: "1".to_owned(),
        major: 18,
        timeline: 1,
        start_lsn: Lsn(1),
        stop_lsn: Lsn(2),
        start_time: Timestamp::UNIX_EPOCH,
        stop_time: Timestamp::UNIX_EPOCH,
        from_standby: false,
        data_checksums: true,
        size: 0,
        stored: 0,
        packs: 1,
        backup_label: String::new(),
        control: String::new(),
        tablespaces: Vec::new(),
        damaged: Vec::new(),
        increment: None,
        fallback: None,
    }
}

fn files(disk: &Disk) -> Vec<Found> {
    let file = |(path, content): (&String, &Vec<u8>)| {
        let name = path.strip_prefix("base/5/").unwrap_or_default();
        let segment = relation_file(name).map(|file| file.segment);
        Found { path: path.clone(), size: content.len() as u64, mode: 0o600, segment }
    };
    disk.iter().map(file).collect()
}

/// Does the work, as the workers do; the manifest, and how many bytes were stored.
fn take_backup(name: &str, disk: &Disk, work: Work, parent: Option<&Manifest>, packs: &mut Packs) -> (Manifest, usize) {
    let files = files(disk);
    let (mut frames, mut taken, mut stored) = (Vec::new(), work.taken, 0);
    for task in work.tasks {
        let pieces: Vec<Vec<Part>> = match task.as_slice() {
            [one] => (0..one.length)
                .step_by(FRAME)
                .map(|at| vec![Part { offset: one.offset + at, length: (one.length - at).min(FRAME as u64), ..*one }])
                .collect(),
            _ => vec![task],
        };
        for parts in pieces {
            let bytes =
                |part: &Part| &disk[&files[part.file as usize].path][part.offset as usize..][..part.length as usize];
            let content = parts.iter().map(bytes).collect::<Vec<&[u8]>>().concat();
            assert!(content.len() <= FRAME);
            let parts: Vec<(u32, u64, u64)> = parts.iter().map(|part| (part.file, part.offset, part.length)).collect();
            let digest = sha256(&content);
            if let Some(place) = work.known.get(&digest) {
                taken.push(Taken { place: *place, digest, parts });
                continue;
            }
            stored += content.len();
            let index = frames.len() as u32;
            frames.push(Line::Frame(0, index, 0, content.len() as u64, hex(&digest), parts));
            packs.insert((name.to_owned(), 0, index), content);
        }
    }
    let (needs, earlier) = super::super::increment::frames(parent, taken);
    let mut lines: Vec<Line> = files.into_iter().map(|file| Line::File(file.path, file.size, file.mode)).collect();
    lines.extend(earlier);
    lines.extend(frames);
    let increment = parent.map(|parent| super::super::manifest::Increment {
        parent: parent.summary.backup.clone(),
        needs,
        found_by: super::super::manifest::FoundBy::Digests,
        because: None,
        reused: 0,
    });
    (Manifest { summary: Summary { increment, ..summary(name) }, lines }, stored)
}

/// As a restore does it: every byte at most once.
fn restore(manifest: &Manifest, packs: &Packs) -> Disk {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in &manifest.lines {
        if let Line::File(path, size, _) = line {
            files.push((path.clone(), vec![0; *size as usize]));
        }
    }
    let mut written: Vec<(u32, u64, u64)> = Vec::new();
    for line in &manifest.lines {
        let (backup, pack, index, sha256_of, parts) = match line {
            Line::Frame(pack, index, _, _, digest, parts) => (&manifest.summary.backup, pack, index, digest, parts),
            Line::Earlier(which, pack, index, _, _, digest, parts) => {
                (&manifest.summary.needs()[*which as usize], pack, index, digest, parts)
            }
            _ => continue,
        };
        let mut content = packs[&(backup.clone(), *pack, *index)].as_slice();
        assert_eq!(hex(&sha256(content)), *sha256_of);
        for (file, at, length) in parts {
            let (part, rest) = content.split_at(*length as usize);
            if *file != NOWHERE {
                written.push((*file, *at, at + length));
                files[*file as usize].1[*at as usize..(at + length) as usize].copy_from_slice(part);
            }
            content = rest;
        }
        assert!(content.is_empty());
    }
    written.sort();
    assert!(written.is_sorted_by(|one, next| one.0 != next.0 || one.2 <= next.1), "written twice");
    files.into_iter().collect()
}

/// A pretended cluster: relations of up to two files, things that are none, and a log of what changes.
struct Cluster {
    disk: Disk,
    changes: Changes,
    random: SmallRng,
}

impl Cluster {
    fn relation(number: u32) -> Relation {
        Relation { space: 1663, database: 5, number }
    }

    fn page(&mut self) -> Vec<u8> {
        let seed: u64 = self.random.random();
        seed.to_le_bytes().repeat(BLOCK / 8)
    }

    fn path(number: u32, segment: u32) -> String {
        if segment == 0 { format!("base/5/{number}") } else { format!("base/5/{number}.{segment}") }
    }

    fn write(&mut self, number: u32, block: u32, logged: bool) {
        let page = self.page();
        let file = self.disk.entry(Cluster::path(number, block / PER_FILE)).or_default();
        let at = (block % PER_FILE) as usize * BLOCK;
        if file.len() < at + BLOCK {
            file.resize(at + BLOCK, 0);
        }
        file[at..at + BLOCK].copy_from_slice(&page);
        if logged {
            self.changes.block(Cluster::relation(number), block);
        }
    }

    fn cut_off(&mut self, number: u32, blocks: u32) {
        for segment in 0..2 {
            let kept = blocks.saturating_sub(segment * PER_FILE).min(PER_FILE) as usize * BLOCK;
            if let Some(file) = self.disk.get_mut(&Cluster::path(number, segment)) {
                file.truncate(kept);
            }
        }
        self.changes.limit(Cluster::relation(number), blocks);
    }

    fn something_happens(&mut self) {
        let number = self.random.random_range(10..18);
        let block = self.random.random_range(0..2 * PER_FILE);
        match self.random.random_range(0..12) {
            0 => self.cut_off(number, block),
            1 => {
                self.disk.retain(|path, _| !path.starts_with(&format!("base/5/{number}")));
                self.changes.limit(Cluster::relation(number), 0);
            }
            2 => {
                let bytes = self.page();
                self.disk.insert(format!("base/5/{number}_fsm"), bytes);
            }
            3 => {
                let length = self.random.random_range(0..5000);
                let bytes = self.page()[..length].to_vec();
                self.disk.insert(format!("pg_xact/{number:04}"), bytes);
            }
            4 => {
                // Longer by empty pages, of which the log does not tell.
                if let Some(file) = self.disk.get_mut(&Cluster::path(number, 0)).filter(|file| file.len() < 4 * BLOCK) {
                    file.resize(4 * BLOCK, 0);
                }
            }
            _ => self.write(number, block, true),
        }
    }
}

#[test]
fn every_backup_of_a_chain_is_the_disk_as_it_was() {
    for seed in 0..25 {
        let random = SmallRng::seed_from_u64(seed);
        let mut cluster = Cluster { disk: Disk::new(), changes: Changes::default(), random };
        for number in 10..18 {
            (0..2 * PER_FILE).for_each(|block| cluster.write(number, block, false));
        }
        cluster.disk.insert("base/5/99".to_owned(), vec![7; FRAME + 2 * BLOCK]);
        let mut packs = Packs::new();
        let (mut parent, _) = take_backup("0", &cluster.disk, Work::full(&files(&cluster.disk)), None, &mut packs);
        assert!(restore(&parent, &packs) == cluster.disk);
        for round in 1..6 {
            cluster.changes = Changes::default();
            for _ in 0..cluster.random.random_range(0..20) {
                cluster.something_happens();
            }
            let told = cluster.random.random_bool(0.7).then_some(&cluster.changes);
            let work = compare(&parent, &files(&cluster.disk), told, PER_FILE);
            let (next, _) = take_backup(&round.to_string(), &cluster.disk, work, Some(&parent), &mut packs);
            assert!(restore(&next, &packs) == cluster.disk, "seed {seed}, backup {round}");
            parent = next;
        }
    }
}

#[test]
fn what_did_not_change_is_neither_read_nor_stored() {
    let random = SmallRng::seed_from_u64(1);
    let mut cluster = Cluster { disk: Disk::new(), changes: Changes::default(), random };
    (0..2 * PER_FILE).for_each(|block| cluster.write(10, block, false));
    cluster.disk.insert("PG_VERSION".to_owned(), b"18\n".to_vec());
    let mut packs = Packs::new();
    let (full, stored) = take_backup("0", &cluster.disk, Work::full(&files(&cluster.disk)), None, &mut packs);
    assert_eq!(stored, 16 * BLOCK + 3);
    for told in [Some(&cluster.changes), None] {
        let work = compare(&full, &files(&cluster.disk), told, PER_FILE);
        assert_eq!(work.bytes(), if told.is_some() { 3 } else { 16 * BLOCK as u64 + 3 });
        let (same, stored) = take_backup("1", &cluster.disk, work, Some(&full), &mut packs);
        assert_eq!((stored, same.summary.needs()), (0, ["0".to_owned()].as_slice()));
    }
    cluster.write(10, 3, true);
    let work = compare(&full, &files(&cluster.disk), Some(&cluster.changes), PER_FILE);
    let (next, stored) = take_backup("1", &cluster.disk, work, Some(&full), &mut packs);
    assert_eq!(stored, BLOCK, "one block");
    assert!(restore(&next, &packs) == cluster.disk);
    // So much has changed since that little of the first frame is left: it is given up.
    (0..13).for_each(|block| cluster.write(10, block, true));
    let work = compare(&next, &files(&cluster.disk), Some(&cluster.changes), PER_FILE);
    let (last, stored) = take_backup("2", &cluster.disk, work, Some(&next), &mut packs);
    assert_eq!((stored, last.summary.needs()), (16 * BLOCK, ["0".to_owned()].as_slice()), "PG_VERSION is as it was");
    assert!(restore(&last, &packs) == cluster.disk);
}

#[test]
fn damage_that_nobody_reads_again_is_still_told() {
    let random = SmallRng::seed_from_u64(1);
    let mut cluster = Cluster { disk: Disk::new(), changes: Changes::default(), random };
    (0..2 * PER_FILE).for_each(|block| cluster.write(10, block, false));
    let mut packs = Packs::new();
    let (mut full, _) = take_backup("0", &cluster.disk, Work::full(&files(&cluster.disk)), None, &mut packs);
    let page = |path: &str, block| DamagedPage { path: path.to_owned(), block };
    full.summary.damaged = vec![page("base/5/10", 2), page("base/5/10.1", 9), page("base/5/11", 0)];
    cluster.write(10, 2, true);
    let told = compare(&full, &files(&cluster.disk), Some(&cluster.changes), PER_FILE).damaged;
    assert_eq!(told, [page("base/5/10.1", 9)], "what is read is looked at again");
    assert_eq!(compare(&full, &files(&cluster.disk), None, PER_FILE).damaged, []);
}
