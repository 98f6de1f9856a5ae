//! `tmpcopyup`: what the rootfs has at the target is copied into the tmpfs before that is attached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Uid};

use crate::error::{Doing, Result};
use crate::sys::{self, Call};

/// Copies everything in the directory `from` (an `O_PATH` descriptor) to the root of the detached mount `to`.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let from = open_dir(from.as_fd(), Path::new(".")).doing("open the directory to copy")?;
    tree(&from, to.as_fd()).doing("copy what the image has there")
}

fn open_dir(dir: BorrowedFd<'_>, name: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat", || format!("{name:?}"))
}

fn tree(from: &OwnedFd, to: BorrowedFd<'_>) -> sys::Result<()> {
    let mut space = Vec::with_capacity(8192);
    let mut entries = RawDir::new(from, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.call("getdents64", String::new)?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let args = || format!("{name:?}");
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).call("fstatat", args)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).call("mkdirat", args)?;
                let sub_from = open_dir(from.as_fd(), Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())))?;
                let sub_to = open_dir(to, Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())))?;
                tree(&sub_from, sub_to.as_fd())?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).call("readlinkat", args)?;
                rustix::fs::symlinkat(target, to, name).call("symlinkat", args)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let source = rustix::fs::openat(from, name, read, Mode::empty()).call("openat", args)?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, write, mode).call("openat", args)?;
                std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target)).call("copy", args)?;
            }
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).call("mknodat", args)?;
            }
            _ => continue,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        if stat.st_uid != 0 || stat.st_gid != 0 {
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).call("fchownat", args)?;
            // chown takes the set-user-id bit away.
            if kind != FileType::Symlink && stat.st_mode & 0o6000 != 0 {
                rustix::fs::chmodat(to, name, mode, AtFlags::empty()).call("fchmodat", args)?;
            }
        }
    }
    Ok(())
}
