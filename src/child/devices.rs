//! Device nodes and links in /dev. What must be a device is checked by its number before it is used.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};

use super::Child;
use crate::error::{Doing, Error, Result};
use crate::plan::DeviceKind;
use crate::sys::{Call, root};

/// The device number of /dev/null (Documentation/admin-guide/devices.txt).
pub const NULL: u64 = makedev_const(1, 3);

const fn makedev_const(major: u64, minor: u64) -> u64 {
    major << 8 | minor
}

/// Whether the descriptor is the character device 1:3.
pub fn is_null(fd: impl AsFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice && s.st_rdev == NULL)
}

impl Child<'_> {
    /// mknod(2). A node that is there already is good if it is the same device.
    pub fn device(
        &mut self,
        path: &Path,
        kind: DeviceKind,
        number: (u32, u32),
        mode: u32,
        owner: (u32, u32),
    ) -> Result<()> {
        let (dir, name) = root::parent(&self.in_.rootfs, path).doing("make the device's directory")?;
        let kind = match kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let dev = makedev(number.0, number.1);
        let args = || format!("{path:?}, {kind:?}, {}:{}", number.0, number.1);
        match rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(mode), dev).call("mknodat", args) {
            Err(e) if e.errno == Errno::EEXIST => {
                let there = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).call("fstatat", args);
                let there = there.doing("look at what is in the device's place")?;
                let same =
                    FileType::from_raw_mode(there.st_mode) == kind && (kind == FileType::Fifo || there.st_rdev == dev);
                if !same {
                    return Err(Error::new(format!(
                        "the image has something else than the device at {}",
                        path.display()
                    ))
                    .hint("mount a tmpfs on /dev, as every engine does"));
                }
            }
            r => r.doing("make the device")?,
        }
        if owner != (0, 0) {
            let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
            rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .call("fchownat", || format!("{path:?}, {}, {}", owner.0, owner.1))
                .doing("give the device its owner")?;
        }
        Ok(())
    }

    /// A symbolic link where nothing is, or with `replace` in the place of what is there.
    pub fn link(&mut self, path: &Path, target: &str, replace: bool) -> Result<()> {
        let (dir, name) = root::parent(&self.in_.rootfs, path).doing("make the link's directory")?;
        if replace {
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()).call("unlinkat", || format!("{path:?}")) {
                Err(e) if e.errno != Errno::ENOENT => return Err(e).doing("remove what is in the link's place"),
                _ => {}
            }
        }
        match rustix::fs::symlinkat(target, &dir, name).call("symlinkat", || format!("{target:?}, {path:?}")) {
            Err(e) if e.errno == Errno::EEXIST => Ok(()),
            r => r.doing("make the link"),
        }
    }

    /// A stdio that is the host's /dev/null becomes the container's, so that no descriptor of the host's /dev stays.
    pub fn reopen_dev_null(&mut self) -> Result<()> {
        for fd in 0..3 {
            // 0 to 2 are open for the process's whole life: Rust opens those that are not.
            let stdio = match fd {
                0 => rustix::stdio::stdin(),
                1 => rustix::stdio::stdout(),
                _ => rustix::stdio::stderr(),
            };
            if is_null(stdio) {
                self.reopen(fd)?;
            }
        }
        Ok(())
    }

    fn reopen(&self, fd: i32) -> Result<()> {
        let null = match root::open(&self.in_.rootfs, Path::new("/dev/null"), OFlags::RDWR | OFlags::NOFOLLOW) {
            Err(e) if e.errno == Errno::ENOENT => return Ok(()), // a container without /dev keeps the host's
            r => r.doing("open the container's /dev/null")?,
        };
        if !is_null(&null) {
            return Err(Error::new("the container's /dev/null is not the device 1:3"));
        }
        let null: BorrowedFd<'_> = null.as_fd();
        match fd {
            0 => rustix::stdio::dup2_stdin(null),
            1 => rustix::stdio::dup2_stdout(null),
            _ => rustix::stdio::dup2_stderr(null),
        }
        .call("dup2", || format!("{fd}"))
        .doing("take the container's /dev/null for stdio")
    }
}
