//! Answers the kernel's questions about the disk.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::files::Files;
use super::{Call, Switches, locked};

/// The kernel asks again each time: names and sizes change under its hands at a power cut.
const TTL: Duration = Duration::ZERO;

/// An answer that waits for the end of a stall.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The disk as the kernel sees it.
#[derive(Debug)]
pub(super) struct Mounted {
    pub files: Arc<Mutex<Files>>,
    pub switches: Arc<Mutex<Switches>>,
}

impl Mounted {
    /// The error that a call on a file is to fail with.
    fn broken(&self, call: Call, number: u64) -> Result<(), Errno> {
        let switches = locked(&self.switches);
        let Some(broken) = switches.broken.get(&call) else { return Ok(()) };
        match broken.hits(&locked(&self.files).shown(number)) {
            true => Err(Errno::from_i32(broken.answer.raw_os_error())),
            false => Ok(()),
        }
    }

    /// Does it now, or after the stall.
    fn in_time(&self, number: u64, job: Job) {
        let shown = locked(&self.files).shown(number);
        let mut switches = locked(&self.switches);
        match &mut switches.waiting {
            Some((text, waiting)) if shown.contains(text.as_str()) => waiting.push(job),
            _ => {
                drop(switches);
                job();
            }
        }
    }
}

fn attributes(number: u64, metadata: &fs::Metadata) -> FileAttr {
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        kind if kind.is_fifo() => FileType::NamedPipe,
        kind if kind.is_socket() => FileType::Socket,
        _ => FileType::RegularFile,
    };
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(number),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind,
        perm: u16::try_from(metadata.mode() & 0o7777).expect("twelve bits"),
        nlink: u32::try_from(metadata.nlink()).unwrap_or(1),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(answer: io::Result<(u64, fs::Metadata)>, reply: ReplyEntry) {
    match answer {
        Ok((number, metadata)) => reply.entry(&TTL, &attributes(number, &metadata), Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

fn empty(answer: io::Result<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut files = locked(&self.files);
        let answer = files.child(parent.0, name).and_then(|path| files.entry(&path));
        entry(answer, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match locked(&self.files).metadata(ino.0) {
            Ok(metadata) => reply.attr(&TTL, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut files = locked(&self.files);
        let mut change = || {
            let path = files.path(ino.0)?.clone();
            if let Some(mode) = mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::lchown(&path, uid, gid)?;
            }
            if let Some(size) = size {
                files.resize(ino.0, size)?;
            }
            fs::symlink_metadata(&path)
        };
        match change() {
            Ok(metadata) => reply.attr(&TTL, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match locked(&self.files).path(ino.0).and_then(fs::read_link) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        let mut files = locked(&self.files);
        let mut make = || {
            let path = files.child(parent.0, name)?;
            fs::OpenOptions::new().write(true).create_new(true).mode(mode & 0o7777).open(&path)?;
            files.made(&path, (req.uid(), req.gid()))
        };
        entry(make(), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let mut files = locked(&self.files);
        let mut make = || {
            let path = files.child(parent.0, name)?;
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
            files.made(&path, (req.uid(), req.gid()))
        };
        entry(make(), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut files = locked(&self.files);
        let answer = files.child(parent.0, name).and_then(|path| files.unlink(&path));
        empty(answer, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut files = locked(&self.files);
        let answer = files.child(parent.0, name).and_then(|path| files.remove_folder(&path));
        empty(answer, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let mut files = locked(&self.files);
        let path = files.child(parent.0, name);
        entry(path.and_then(|path| files.symlink(target, &path, (req.uid(), req.gid()))), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            // Whoever asks for more than POSIX has a way without.
            return reply.error(Errno::EINVAL);
        }
        let mut files = locked(&self.files);
        let paths = files.child(parent.0, name).and_then(|from| Ok((from, files.child(newparent.0, newname)?)));
        empty(paths.and_then(|(from, to)| files.rename(&from, &to)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mut files = locked(&self.files);
        let path = files.child(newparent.0, newname);
        entry(path.and_then(|path| files.link(ino.0, &path)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = flags.0 & i32::try_from(rustix::fs::OFlags::TRUNC.bits()).expect("a small flag") != 0;
        match locked(&self.files).open_handle(ino.0, truncate) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let mut files = locked(&self.files);
        let mut make = || {
            let path = files.child(parent.0, name)?;
            let exclusive = flags & i32::try_from(rustix::fs::OFlags::EXCL.bits()).expect("a small flag") != 0;
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).create_new(exclusive).mode(mode & 0o7777).open(&path)?;
            let (number, metadata) = files.made(&path, (req.uid(), req.gid()))?;
            Ok::<_, io::Error>((number, metadata, files.open_handle(number, false)?))
        };
        match make() {
            Ok((number, metadata, handle)) => {
                let attributes = attributes(number, &metadata);
                reply.created(&TTL, &attributes, Generation(0), FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Err(errno) = self.broken(Call::Read, ino.0) {
            return reply.error(errno);
        }
        match locked(&self.files).read(fh.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Err(errno) = self.broken(Call::Write, ino.0) {
            return reply.error(errno);
        }
        let (files, data) = (self.files.clone(), data.to_vec());
        self.in_time(
            ino.0,
            Box::new(move || match locked(&files).write(fh.0, offset, &data) {
                Ok(()) => reply.written(u32::try_from(data.len()).expect("the kernel writes less at once")),
                Err(error) => reply.error(error.into()),
            }),
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.files).close_handle(fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if let Err(errno) = self.broken(Call::Sync, ino.0) {
            return reply.error(errno);
        }
        let files = self.files.clone();
        self.in_time(
            ino.0,
            Box::new(move || {
                locked(&files).synced(ino.0);
                reply.ok();
            }),
        );
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut files = locked(&self.files);
        let mut list = || -> io::Result<Vec<(u64, FileType, std::ffi::OsString)>> {
            let path = files.path(ino.0)?.clone();
            let mut names: Vec<_> = fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
            names.sort_by_key(fs::DirEntry::file_name);
            let mut all = vec![(ino.0, FileType::Directory, ".".into()), (ino.0, FileType::Directory, "..".into())];
            for name in names {
                // It may be gone since.
                if let Ok((number, metadata)) = files.entry(&name.path()) {
                    all.push((number, attributes(number, &metadata).kind, name.file_name()));
                }
            }
            Ok(all)
        };
        let all = match list() {
            Ok(all) => all,
            Err(error) => return reply.error(error.into()),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (number, kind, name)) in all.into_iter().enumerate().skip(start) {
            if reply.add(INodeNo(number), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        if let Err(errno) = self.broken(Call::Write, ino.0) {
            return reply.error(errno);
        }
        empty(locked(&self.files).allocate(fh.0, offset, length), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match locked(&self.files).path(super::files::ROOT).map(|root| rustix::fs::statvfs(root.as_path())) {
            Ok(Ok(space)) => {
                let size = u32::try_from(space.f_frsize).unwrap_or(4096);
                let (blocks, free) = (space.f_blocks, space.f_bfree);
                reply.statfs(blocks, free, space.f_bavail, space.f_files, space.f_ffree, size, 255, size);
            }
            _ => reply.error(Errno::EIO),
        }
    }
}
