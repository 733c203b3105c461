//! Reading a tar from a stream: ustar, GNU's long names and sizes, and POSIX extended headers, as Go and Python write them. One that
//! ends without the mark of its end was cut off.

pub mod write;

use std::io::Read;

use super::Unfit;

const BLOCK: usize = 512;
/// Names and extended headers are short; more is rubbish.
const LONGEST: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A link or a device, which nobody needs here.
    Other,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without a slash or a dot at its beginning, and without a slash at its end.
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    /// Where its headers begin in the tar.
    pub start: u64,
    /// Where those of the next one do.
    pub end: u64,
}

/// What the headers before an entry's own say about it.
#[derive(Default)]
struct Ahead {
    path: Option<String>,
    size: Option<u64>,
}

/// Reports every entry with its content, of which what is not read is passed over. `from` is the tar from its byte `begin` on, where
/// an entry begins. Where its end is.
pub fn read(
    mut from: impl Read,
    begin: u64,
    mut each: impl FnMut(&Entry, &mut dyn Read) -> Result<(), Unfit>,
) -> Result<u64, Unfit> {
    let mut ahead = Ahead::default();
    let (mut start, mut at) = (begin, begin);
    loop {
        let mut header = [0; BLOCK];
        from.read_exact(&mut header).map_err(|error| Unfit::Content(format!("the tar has no end: {error}")))?;
        if header == [0; BLOCK] {
            // Whoever decodes verifies the end only when it is read.
            std::io::copy(&mut from, &mut std::io::sink())?;
            return Ok(start);
        }
        verify(&header)?;
        let own = number(&header[124..136])?;
        at += BLOCK as u64;
        if matches!(header[156], b'L' | b'x' | b'K' | b'g') {
            let content = extra(&mut from, own)?;
            at += own + padding(own);
            match header[156] {
                b'L' => ahead.path = Some(text(&content)),
                b'x' => extended(&content, &mut ahead)?,
                _ => {}
            }
            continue;
        }
        let Ahead { path, size } = std::mem::take(&mut ahead);
        let path = path.unwrap_or_else(|| own_path(&header));
        let kind = match header[156] {
            b'5' => Kind::Folder,
            b'0' | 0 | b'7' if path.ends_with('/') => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File,
            _ => Kind::Other,
        };
        let size = if kind == Kind::File { size.unwrap_or(own) } else { 0 };
        let mode = number(&header[100..108])? as u32 & 0o777;
        let after = size.checked_next_multiple_of(BLOCK as u64).and_then(|padded| at.checked_add(padded));
        at = after.ok_or_else(|| Unfit::Content(format!("a header of the tar claims {size} bytes")))?;
        let entry = Entry { path: clean(&path).to_owned(), kind, mode, size, start, end: at };
        let mut content = from.by_ref().take(size);
        each(&entry, &mut content)?;
        std::io::copy(&mut content, &mut std::io::sink())?;
        if content.limit() > 0 {
            return Err(Unfit::Content(format!("the tar ends within {}", entry.path)));
        }
        skip(&mut from, padding(size))?;
        start = at;
    }
}

fn verify(header: &[u8; BLOCK]) -> Result<(), Unfit> {
    let sum: u64 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    match number(&header[148..156]) {
        Ok(stored) if stored == sum => Ok(()),
        _ => Err(Unfit::Content("a header of the tar is damaged".to_owned())),
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn skip(from: &mut impl Read, bytes: u64) -> Result<(), Unfit> {
    let copied = std::io::copy(&mut from.take(bytes), &mut std::io::sink())?;
    match copied == bytes {
        true => Ok(()),
        false => Err(Unfit::Content("the tar ends within an entry".to_owned())),
    }
}

/// The content of an entry about the next one.
fn extra(from: &mut impl Read, size: u64) -> Result<Vec<u8>, Unfit> {
    if size > LONGEST {
        return Err(Unfit::Content(format!("a header of the tar claims {size} bytes")));
    }
    let mut content = vec![0; size as usize];
    from.read_exact(&mut content)?;
    skip(from, padding(size))?;
    Ok(content)
}

/// `LENGTH key=value\n`, the length being that of all of it.
fn extended(mut rest: &[u8], ahead: &mut Ahead) -> Result<(), Unfit> {
    let bad = || Unfit::Content("an extended header of the tar is damaged".to_owned());
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize = text(&rest[..space]).parse().map_err(|_| bad())?;
        if length <= space + 1 || length > rest.len() {
            return Err(bad());
        }
        let (record, after) = rest.split_at(length);
        let record = text(&record[space + 1..length - 1]);
        let (key, value) = record.split_once('=').ok_or_else(bad)?;
        match key {
            "path" => ahead.path = Some(value.to_owned()),
            "size" => ahead.size = Some(value.parse().map_err(|_| bad())?),
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

fn own_path(header: &[u8; BLOCK]) -> String {
    let name = text(&header[..100]);
    match text(&header[345..500]) {
        prefix if header[257..263] == *b"ustar\0" && !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    }
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Octal digits, or GNU's binary number.
fn number(field: &[u8]) -> Result<u64, Unfit> {
    let bad = || Unfit::Content("a number in a header of the tar is none".to_owned());
    if field[0] & 0x80 != 0 {
        let bytes = field.get(field.len() - 8..).and_then(|bytes| bytes.first_chunk::<8>()).ok_or_else(bad)?;
        return Ok(u64::from_be_bytes(*bytes) & (u64::MAX >> 1));
    }
    let digits = text(field);
    match digits.trim() {
        "" => Ok(0),
        digits => u64::from_str_radix(digits, 8).map_err(|_| bad()),
    }
}

fn clean(path: &str) -> &str {
    let path = path.trim_end_matches('/').trim_start_matches('/');
    match path {
        "." => "",
        path => path.strip_prefix("./").unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar of one file and one folder, as the tool of that name writes it.
    fn made(format: &str, long: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("base/5")).unwrap();
        let file = folder.path().join(long);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, vec![7; 700]).unwrap();
        let mut command = std::process::Command::new("tar");
        let output = command.args(["-C", &folder.path().display().to_string(), "--format", format, "-cf", "-"]);
        let output = output.args(["./base/5", long]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn entries(tar: &[u8]) -> Result<Vec<(String, Kind, u64)>, String> {
        entries_from(tar, 0).map(|(entries, _)| entries)
    }

    /// The entries from a place on, and where each begins; then the end.
    type Found = (Vec<(String, Kind, u64)>, Vec<u64>);

    fn entries_from(tar: &[u8], begin: u64) -> Result<Found, String> {
        let (mut found, mut places) = (Vec::new(), Vec::new());
        let read = read(&tar[begin as usize..], begin, |entry, content| {
            assert!(places.last().is_none_or(|end| *end == entry.start), "there is no gap");
            places.pop();
            places.extend([entry.start, entry.end]);
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            assert!(bytes.iter().all(|byte| *byte == 7));
            found.push((entry.path.clone(), entry.kind, bytes.len() as u64));
            Ok(())
        });
        match read {
            Ok(end) => {
                assert!(places.last().is_none_or(|last| *last == end));
                Ok((found, places))
            }
            Err(unfit) => Err(unfit.to_string()),
        }
    }

    #[test]
    fn reads_every_form_and_notices_every_cut() {
        let long = format!("base/{}/1259", "a".repeat(120));
        for (format, name) in [("ustar", "base/6/1259"), ("gnu", &long), ("pax", &long)] {
            let tar = made(format, name);
            let expected = [("base/5".to_owned(), Kind::Folder, 0), (name.to_owned(), Kind::File, 700)];
            assert_eq!(entries(&tar).unwrap(), expected, "{format}");
            let (_, places) = entries_from(&tar, 0).unwrap();
            for (place, left) in places.iter().zip((0..=expected.len()).rev()) {
                let rest = entries_from(&tar, *place).unwrap().0;
                assert_eq!(rest.as_slice(), &expected[expected.len() - left..], "{format} from {place}");
            }
            let end = tar.len() - tar.iter().rev().take_while(|byte| **byte == 0).count();
            for cut in (0..end).step_by(256) {
                assert!(entries(&tar[..cut]).is_err(), "{format} cut at {cut}");
            }
            let mut flipped = tar.clone();
            flipped[3] ^= 1;
            assert!(entries(&flipped).unwrap_err().contains("damaged"));
        }
    }

    #[test]
    fn numbers_may_be_binary() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]).unwrap(), (2 << 32) + 1);
        assert!(number(b"0000x44\0").is_err());
        assert_eq!((clean("./"), clean("/"), clean("./a/b"), clean("/a/")), ("", "", "a/b", "a"));
    }
}
