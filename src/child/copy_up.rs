//! `tmpcopyup`: what the rootfs has at the target is copied into the tmpfs before that is attached. What is mounted below
//! is somebody else's (a whole /proc, not masked yet) and stays out: of it there is an empty directory or file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Uid};

use crate::error::{Doing, Result};
use crate::sys::{self, Call};

/// Copies everything in the directory `from` (an `O_PATH` descriptor) to the root of the detached mount `to`.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let from = open_dir(from.as_fd(), Path::new(".")).doing("open the directory to copy")?;
    tree(&from, to.as_fd()).doing("copy what the image has there")
}

fn open_dir(dir: BorrowedFd<'_>, name: &Path) -> sys::Result<OwnedFd> {
    open(dir, name, OFlags::DIRECTORY)
}

fn open(dir: BorrowedFd<'_>, name: &Path, flags: OFlags) -> sys::Result<OwnedFd> {
    // O_NONBLOCK: it may be a fifo by now.
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve).call("openat2", || format!("{name:?}, NO_XDEV"))
}

/// Nothing, if another mount begins here.
fn unless_mounted<T>(opened: sys::Result<T>) -> sys::Result<Option<T>> {
    match opened {
        Err(e) if e.errno == Errno::EXDEV => Ok(None),
        r => r.map(Some),
    }
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
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let args = || format!("{name:?}");
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).call("fstatat", args)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).call("mkdirat", args)?;
                if let Some(sub_from) = unless_mounted(open_dir(from.as_fd(), path))? {
                    tree(&sub_from, open_dir(to, path)?.as_fd())?;
                }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new()).call("readlinkat", args)?;
                rustix::fs::symlinkat(target, to, name).call("symlinkat", args)?;
            }
            FileType::RegularFile => {
                let source = unless_mounted(open(from.as_fd(), path, OFlags::empty()))?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, write, mode).call("openat", args)?;
                if let Some(source) = source {
                    std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target))
                        .call("copy", args)?;
                }
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
