//! Writing a tar: ustar, with a POSIX extended header before an entry whose name or size does not fit into its own.

use std::io::{self, Write};

use super::{BLOCK, padding};

/// Who shall own the files, where the user who unpacks them may give them away: PostgreSQL's user, as everybody calls it.
const OWNER: &[u8] = b"postgres";
/// More does not fit into eleven octal digits.
const LARGEST: u64 = (1 << 33) - 1;

/// A tar that is being written.
#[derive(Debug)]
pub struct Builder<W> {
    to: W,
    time: u64,
    size: u64,
    left: u64,
}

impl<W: Write> Builder<W> {
    /// Begins one. All its entries are of this time, in seconds since 1970.
    pub fn new(to: W, time: u64) -> Builder<W> {
        Builder { to, time, size: 0, left: 0 }
    }

    /// A folder; without a path it is the one that the tar is unpacked into.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(&format!("{}/", if path.is_empty() { "." } else { path }), b'5', mode, 0)
    }

    /// Begins a file of so many bytes.
    pub fn file(&mut self, path: &str, mode: u32, size: u64) -> io::Result<()> {
        (self.size, self.left) = (size, size);
        self.entry(path, b'0', mode, size)
    }

    /// How much of the file is written.
    pub fn written(&self) -> u64 {
        self.size - self.left
    }

    /// Adds to the file.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        let rest = self.left.checked_sub(bytes.len() as u64);
        self.left = rest.ok_or_else(|| io::Error::other("a file has more content than was announced"))?;
        self.to.write_all(bytes)
    }

    /// Adds zeros to the file, up to this place of it.
    pub fn zeros_to(&mut self, at: u64) -> io::Result<()> {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        while self.written() < at {
            let count = (at - self.written()).min(ZEROS.len() as u64);
            self.content(&ZEROS[..count as usize])?;
        }
        Ok(())
    }

    /// Ends the file; what is missing of it is zero.
    pub fn end_file(&mut self) -> io::Result<()> {
        self.zeros_to(self.size)?;
        self.pad(self.size)
    }

    /// Ends the tar.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        Ok(self.to)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.to.write_all(&[0; BLOCK][..padding(size) as usize])
    }

    fn entry(&mut self, path: &str, kind: u8, mode: u32, size: u64) -> io::Result<()> {
        let mut extended = String::new();
        if path.len() > 100 {
            extended.push_str(&record("path", path));
        }
        if size > LARGEST {
            extended.push_str(&record("size", &size.to_string()));
        }
        if !extended.is_empty() {
            self.header("PaxHeaders/next", b'x', 0o644, extended.len() as u64)?;
            self.to.write_all(extended.as_bytes())?;
            self.pad(extended.len() as u64)?;
        }
        self.header(path, kind, mode, if size > LARGEST { 0 } else { size })
    }

    fn header(&mut self, path: &str, kind: u8, mode: u32, size: u64) -> io::Result<()> {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &path.as_bytes()[..path.len().min(100)]);
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", self.time.min(LARGEST)).as_bytes());
        put(148, &[b' '; 8]);
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        put(265, OWNER);
        put(297, OWNER);
        put(329, b"0000000");
        put(337, b"0000000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.to.write_all(&header)
    }
}

/// `LENGTH key=value\n`, the length being that of all of it.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::door::tar::{Kind, read};

    fn built(long: &str) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new(), 1_795_258_154);
        tar.folder("", 0o700).unwrap();
        tar.folder("base/5", 0o750).unwrap();
        tar.file(long, 0o640, 700).unwrap();
        tar.content(&[7; 100]).unwrap();
        tar.zeros_to(650).unwrap();
        tar.content(&[8; 10]).unwrap();
        assert!(tar.content(&[0; 41]).is_err(), "more than was announced");
        tar.end_file().unwrap();
        tar.file("empty", 0o600, 0).unwrap();
        tar.end_file().unwrap();
        tar.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_here_and_by_others() {
        for long in ["base/5/1259".to_owned(), format!("{}/{}", "a".repeat(90), "ä".repeat(60))] {
            let tar = built(&long);
            let mut found = Vec::new();
            let seen = read(tar.as_slice(), 0, |entry, content| {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                found.push((entry.path.clone(), entry.kind, entry.mode, bytes));
                Ok(())
            });
            assert!(seen.is_ok(), "{seen:?}");
            let names: Vec<(&str, Kind, u32)> =
                found.iter().map(|(path, kind, mode, _)| (&**path, *kind, *mode)).collect();
            let files = [(&*long, Kind::File, 0o640), ("empty", Kind::File, 0o600)];
            assert_eq!(names, [[("", Kind::Folder, 0o700), ("base/5", Kind::Folder, 0o750)], files].concat());
            let content = [&[7; 100][..], &[0; 550], &[8; 10], &[0; 40]].concat();
            assert_eq!(found[2].3, content);

            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("x.tar");
            std::fs::write(&file, &tar).unwrap();
            let mut command = std::process::Command::new("tar");
            let command = command.arg("-C").arg(folder.path()).arg("--no-same-owner").arg("-xf").arg(&file);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(std::fs::read(folder.path().join(&long)).unwrap(), content);
        }
    }

    #[test]
    fn a_file_of_many_gigabytes_is_announced() {
        let mut tar = Builder::new(Vec::new(), 0);
        tar.file("large", 0o600, 9 << 30).unwrap();
        let seen = read(tar.to.as_slice(), 0, |entry, _| {
            assert_eq!((&*entry.path, entry.size), ("large", 9 << 30));
            Ok(())
        });
        assert!(seen.unwrap_err().to_string().contains("ends within large"));
    }

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record("path", "a"), "9 path=a\n");
        let record = record("path", &"b".repeat(100));
        assert_eq!(record.split(' ').next().unwrap(), record.len().to_string());
    }
}
