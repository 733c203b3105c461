//! What a member's folder lies on.

use std::path::Path;

use matriarch_testkit::disk::Ballast;
use matriarch_testkit::faulty::{Call, FaultyDisk, Loss};
use matriarch_testkit::volume::Volume;
use rustix::io::Errno;

/// Which disks the hosts of a cluster have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// The machine's own.
    Plain,
    /// An ext4 file system of so many mebibytes each: really full, really frozen.
    Volumes(u64),
    /// Disks that fail at will, and lose at a power cut what was not synchronised.
    Faulty,
}

/// The disk of one host.
#[derive(Debug)]
pub enum Disk {
    Plain,
    Volume(Volume, Option<Ballast>),
    Faulty(FaultyDisk),
}

/// The write-ahead log's folder.
const WAL: &str = "pg_wal";
/// The folder of all tables and indexes.
const TABLES: &str = "data/base/";

impl Disk {
    /// Mounts it on a member's folder.
    pub fn mount(disks: Disks, folder: &Path) -> Disk {
        let missing = "what a lab can be built on can mount, too";
        match disks {
            Disks::Plain => Disk::Plain,
            Disks::Volumes(size) => {
                Disk::Volume(Volume::mount(folder, size).expect("it can be mounted").expect(missing), None)
            }
            Disks::Faulty => Disk::Faulty(FaultyDisk::mount(folder).expect("it can be mounted").expect(missing)),
        }
    }

    /// No byte fits any more, until [`Disk::mend`].
    pub fn fill(&mut self) {
        match self {
            Disk::Plain => panic!("the machine's own disk is not to be filled"),
            Disk::Volume(volume, ballast) => *ballast = Some(volume.fill().expect("it can be filled")),
            Disk::Faulty(disk) => disk.fail(Call::Write, "", Errno::NOSPC),
        }
    }

    /// Writes and syncs hang, until [`Disk::mend`].
    pub fn stall(&mut self) {
        match self {
            Disk::Plain => panic!("the machine's own disk is not to be stopped"),
            Disk::Volume(volume, _) => volume.freeze().expect("it can be frozen"),
            Disk::Faulty(disk) => disk.stall(""),
        }
    }

    /// Only writes and syncs of the write-ahead log hang.
    pub fn stall_wal(&mut self) {
        self.faulty().stall(WAL);
    }

    /// Syncs of the write-ahead log answer with an I/O error, until [`Disk::mend`].
    pub fn fail_wal_syncs(&mut self) {
        self.faulty().fail(Call::Sync, WAL, Errno::IO);
    }

    /// Reads of tables answer with an I/O error, until [`Disk::mend`]. What the kernel or PostgreSQL has in memory needs none.
    pub fn fail_reads(&mut self) {
        self.faulty().fail(Call::Read, TABLES, Errno::IO);
    }

    /// Writes answer with an I/O error, but those of the write-ahead log, until [`Disk::mend`].
    pub fn fail_writes(&mut self) {
        self.faulty().fail_but(Call::Write, WAL, Errno::IO);
    }

    /// Syncs answer with an I/O error, but those of the write-ahead log, until [`Disk::mend`].
    pub fn fail_syncs(&mut self) {
        self.faulty().fail_but(Call::Sync, WAL, Errno::IO);
    }

    fn faulty(&self) -> &FaultyDisk {
        match self {
            Disk::Faulty(disk) => disk,
            _ => panic!("only a faulty disk can do that"),
        }
    }

    /// All is as it should be.
    pub fn mend(&mut self) {
        match self {
            Disk::Plain => {}
            Disk::Volume(volume, ballast) => {
                *ballast = None;
                // It says so when it was not frozen.
                let _ = volume.thaw();
            }
            Disk::Faulty(disk) => {
                disk.mend();
                disk.go_on();
            }
        }
    }

    /// The host has lost its power. What was not synchronised is gone if the disk is one that can forget.
    pub fn power_cut(&mut self, seed: u64) {
        if let Disk::Faulty(disk) = self {
            let loss = if seed.is_multiple_of(2) { Loss::All } else { Loss::Some(seed) };
            let lost = disk.power_cut(loss).expect("it comes back");
            eprintln!("a power cut took {lost} changes of files and names ({loss:?})");
        }
    }
}
