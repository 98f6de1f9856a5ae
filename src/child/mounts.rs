//! The rootfs and everything that is mounted in it. A target is resolved once, inside the rootfs, and used as a
//! descriptor from then on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::{Child, Opened};
use crate::error::{Doing, Error, Result};
use crate::plan::{self, Op, Pivot, Propagation, Tree};
use crate::run::antechamber;
use crate::sys::mount::{self, Attr, FsOption};
use crate::sys::{Call, SysError, root};

const RDONLY: Attr = Attr { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

fn propagation(flag: u64) -> Attr {
    Attr { propagation: flag, ..Attr::default() }
}

fn is(file: impl AsFd, kind: FileType) -> Result<bool> {
    let stat = rustix::fs::fstat(file).call("fstat", String::new).doing("look at it")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == kind)
}

impl Child<'_> {
    /// Opened while the process is still the parent's user: root of a user namespace may not enter a folder that is closed to
    /// others.
    pub fn find_place(&mut self) -> Result<()> {
        if self.in_.plan.tree == Tree::Clone {
            let path = self.rootfs().0;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let place = rustix::fs::open(path, flags, Mode::empty()).call("open", || format!("{path:?}"));
            self.place = Some(place.doing("find the rootfs").map_err(|e| e.field("root.path"))?);
        }
        Ok(())
    }

    /// In the antechamber the rootfs has an empty directory waiting; in a copy of the host's namespace it covers itself.
    pub fn attach_rootfs(&mut self) -> Result<()> {
        match self.in_.plan.tree {
            Tree::Antechamber => {
                mount::move_mount_to_path(&self.in_.rootfs, Path::new(antechamber::ROOTFS)).doing("attach the rootfs")
            }
            Tree::Clone => {
                // Nothing that is done in here shall reach the host.
                mount::mount_setattr_at(CWD, Path::new("/"), propagation(libc::MS_SLAVE), true)
                    .doing("cut the mount namespace off the host's")?;
                let place = self.place.take().ok_or_else(|| Error::new("the rootfs's place was not opened"))?;
                mount::move_mount(&self.in_.rootfs, place, self.rootfs().0).doing("attach the rootfs")
            }
            Tree::OpenTree => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::open("/", flags, Mode::empty()).call("open", || "\"/\"".into());
                self.in_.rootfs = root.doing("open the root of the new mount namespace")?;
                mount::set_root_propagation(&self.in_.rootfs, self.rootfs().1).doing("set the rootfs's propagation")
            }
            Tree::Host | Tree::Joined => Ok(()),
        }
    }

    /// The rootfs as the host names it, and its propagation.
    fn rootfs(&self) -> (&Path, u64) {
        let rootfs = self.in_.plan.steps.iter().find_map(|s| match &s.op {
            Op::OpenRootfs { path, propagation } => Some((path.as_path(), *propagation)),
            _ => None,
        });
        rootfs.unwrap_or((Path::new("/"), libc::MS_PRIVATE))
    }

    /// A bind mount.
    pub fn attach(&mut self, slot: usize, target: &Path, nofollow: bool, copy_symlink: bool) -> Result<()> {
        let tree = match self.in_.slots.get_mut(slot).and_then(Option::take) {
            Some(Opened::Tree(tree)) => tree,
            Some(Opened::Link(link)) if copy_symlink => return self.copy_link(&link, target),
            _ => return Err(Error::new("the parent opened nothing for this step")),
        };
        let onto = if nofollow { self.existing_link(target)? } else { None };
        let onto = match onto {
            Some(link) => link,
            None if is(&tree, FileType::Directory)? => {
                root::make_dir(&self.in_.rootfs, target).doing("make the target")?
            }
            None => root::make_file(&self.in_.rootfs, target).doing("make the target")?,
        };
        self.check_place(&onto, target)?;
        if !is(&tree, FileType::Directory)? && is(&onto, FileType::Directory)? {
            // move_mount(2) would say EINVAL; Docker looks for mount(2)'s words.
            return Err(Error::new("attach the mount: not a directory").hint("a file can only be mounted on a file"));
        }
        mount::move_mount(&tree, &onto, target).doing("attach the mount")
    }

    /// A link in the image may lead a harmless looking target into /proc; or to the root, which the mount would cover
    /// for those only who come to it by "/..".
    fn check_place(&self, onto: &OwnedFd, target: &Path) -> Result<()> {
        let hint = "a symbolic link in the image leads there";
        let fs = rustix::fs::fstatfs(onto).call("fstatfs", String::new).doing("check the target")?;
        if fs.f_type as i64 == libc::PROC_SUPER_MAGIC && !plan::may_cover_proc(target) {
            let words = format!("{} cannot be mounted because it is inside /proc", target.display());
            return Err(Error::new(words).hint(hint));
        }
        if mount::same_place(onto, &self.in_.rootfs).doing("check the target")? {
            return Err(Error::new("a mount cannot cover the root of the container").hint(hint));
        }
        Ok(())
    }

    fn existing_link(&self, target: &Path) -> Result<Option<OwnedFd>> {
        match root::resolve_nofollow(&self.in_.rootfs, target) {
            Ok(found) if is(&found, FileType::Symlink)? => Ok(Some(found)),
            Err(e) if e.errno != Errno::ENOENT => Err(e).doing("resolve the target"),
            _ => Ok(None),
        }
    }

    fn copy_link(&self, link: &Path, target: &Path) -> Result<()> {
        let (dir, name) = root::parent(&self.in_.rootfs, target).doing("make the target's directory")?;
        match rustix::fs::symlinkat(link, &dir, name).call("symlinkat", || format!("{link:?}, {target:?}")) {
            Err(e) if e.errno == Errno::EEXIST => {
                let old = rustix::fs::readlinkat(&dir, name, Vec::new());
                let same = old.is_ok_and(|o| o.to_bytes() == link.as_os_str().as_encoded_bytes());
                if same { Ok(()) } else { Err(e).doing("copy the symbolic link") }
            }
            r => r.doing("copy the symbolic link"),
        }
    }

    /// A new file system.
    pub fn mount(&mut self, op: &Op) -> Result<()> {
        let Op::Mount { target, fstype, source, options, attrs, propagation, copy_up, slot } = op else {
            return Err(Error::new("not a mount"));
        };
        let ordinary = matches!(fstype.as_str(), "proc" | "sysfs");
        let (onto, existed) = self.mount_point(target, fstype, ordinary)?;
        if !ordinary {
            self.check_place(&onto, target)?;
        }
        if options.iter().any(|(_, v)| v.as_ref().is_some_and(|v| v.len() > plan::LONGEST_VALUE)) {
            mount_long(fstype, source, &onto, options, *attrs, target)?;
            let fs = root::resolve(&self.in_.rootfs, target).doing("find what was mounted")?;
            return self.attached(fs, propagation, *slot);
        }
        let mut all: Vec<FsOption> = Vec::with_capacity(options.len() + 2);
        if !source.is_empty() {
            all.push(("source".into(), Some(source.clone())));
        }
        if fstype == "tmpfs" && existed && !options.iter().any(|(k, _)| k == "mode") {
            // As the directory was, so is what covers it.
            let stat = rustix::fs::fstat(&onto).call("fstat", String::new).doing("look at the target")?;
            all.push(("mode".into(), Some(format!("{:o}", stat.st_mode & 0o7777))));
        }
        all.extend(options.iter().cloned());
        let fs = match mount::new_fs(fstype, &all, *attrs) {
            Err(e) if e.errno == Errno::EPERM && self.in_.plan.namespaces.user() && ordinary => {
                self.existing(fstype, *attrs).map_err(|_| Error::sys("make the file system", e))?
            }
            fs => fs.doing("make the file system")?,
        };
        if *copy_up && fstype == "tmpfs" {
            super::copy_up::copy(&onto, &fs)?;
        }
        mount::move_mount(&fs, &onto, target).doing("attach the file system")?;
        self.attached(fs, propagation, *slot)
    }

    /// The procfs or sysfs that is there, where a new one may not be mounted: its pid or network namespace belongs to another
    /// user namespace. It shows that one's processes or devices then, as crun has it.
    fn existing(&self, fstype: &str, attrs: u64) -> Result<OwnedFd> {
        let path = Path::new(if fstype == "proc" { "/proc" } else { "/sys" });
        let fs = mount::open_tree(CWD, path, true, false).doing("take the file system that is there")?;
        let attr = Attr { set: attrs & !libc::MOUNT_ATTR__ATIME, clear: 0, propagation: libc::MS_PRIVATE };
        mount::mount_setattr(&fs, attr, true).doing("set the mount's options")?;
        Ok(fs)
    }

    /// What is still to be done with a mount once it is attached.
    fn attached(&mut self, fs: OwnedFd, propagation: &[Propagation], slot: Option<usize>) -> Result<()> {
        set_propagation(&fs, propagation)?;
        if let Some(slot) = slot {
            self.in_.slots[slot] = Some(Opened::Tree(fs));
        }
        Ok(())
    }

    /// The directory to mount on, and whether it was there. proc and sysfs must not be led elsewhere by a link: whoever
    /// writes labels and sysctls relies on their places (CVE-2019-19921, CVE-2025-54867).
    fn mount_point(&self, target: &Path, fstype: &str, ordinary: bool) -> Result<(OwnedFd, bool)> {
        let rootfs = &self.in_.rootfs;
        let wrong = || {
            Error::new(format!("filesystem {fstype:?} must be mounted on ordinary directory"))
                .hint("the image has a symbolic link or a file in its place")
        };
        let open = |path: &Path| match ordinary {
            // By the lookup itself: what is looked at first may be swapped afterwards.
            true => root::open_ordinary_dir(rootfs, path),
            false => root::open(rootfs, path, OFlags::PATH | OFlags::DIRECTORY),
        };
        let told = |e: SysError| match e.errno {
            Errno::ELOOP | Errno::ENOTDIR if ordinary => wrong(),
            _ => Error::sys("resolve the target", e),
        };
        match open(target) {
            Err(e) if e.errno == Errno::ENOENT => {
                let made = root::make_dir(rootfs, target).doing("make the target")?;
                let made = if ordinary { open(target).map_err(told)? } else { made };
                Ok((made, false))
            }
            found => found.map(|f| (f, true)).map_err(told),
        }
    }

    /// A tmpfs or /dev that was kept writable for the targets in it.
    pub fn late_readonly(&mut self, slot: usize) -> Result<()> {
        match self.in_.slots.get_mut(slot).and_then(Option::take) {
            Some(Opened::Tree(fs)) => mount::mount_setattr(&fs, RDONLY, false).doing("make the mount read-only"),
            _ => Err(Error::new("the mount is not there")),
        }
    }

    /// `remount`: the options of what is mounted there already.
    pub fn remount(&mut self, target: &Path, attrs: &[(Attr, bool)], propagation: &[Propagation]) -> Result<()> {
        let at = root::resolve(&self.in_.rootfs, target).doing("resolve the target")?;
        for (attr, recursive) in attrs.iter().filter(|(a, _)| a.propagation == 0) {
            mount::mount_setattr(&at, *attr, *recursive).doing("change the mount")?;
        }
        set_propagation(&at, propagation)
    }

    /// Files are covered by /dev/null, directories by one empty read-only tmpfs for all of them. What is not there needs
    /// no mask.
    pub fn mask(&mut self, path: &Path, null: usize) -> Result<()> {
        let at = match root::resolve(&self.in_.rootfs, path) {
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            r => r.doing("resolve the path")?,
        };
        let cover = if is(&at, FileType::Directory)? {
            match &self.empty {
                Some(empty) => {
                    mount::open_tree(empty, Path::new(""), false, false).doing("copy the empty directory")?
                }
                None => {
                    let option = |k: &str, v: &str| (k.to_owned(), Some(v.to_owned()));
                    let options = [option("nr_blocks", "1"), option("nr_inodes", "1"), option("mode", "755")];
                    let empty =
                        mount::new_fs("tmpfs", &options, libc::MOUNT_ATTR_RDONLY).doing("make an empty directory")?;
                    self.empty.insert(empty).try_clone().call("dup", String::new).doing("keep the empty directory")?
                }
            }
        } else {
            match self.in_.slots.get(null) {
                Some(Some(Opened::Tree(tree))) if self.null_attached => {
                    mount::open_tree(tree, Path::new(""), false, false).doing("copy the mount of /dev/null")?
                }
                Some(Some(Opened::Tree(tree))) => {
                    self.null_attached = true;
                    tree.try_clone().call("dup", String::new).doing("keep the mount of /dev/null")?
                }
                _ => return Err(Error::new("the parent did not open /dev/null")),
            }
        };
        mount::move_mount(&cover, &at, path).doing("cover the path")
    }

    /// The path covered by itself, read-only.
    pub fn readonly_path(&mut self, path: &Path) -> Result<()> {
        let at = match root::resolve(&self.in_.rootfs, path) {
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            r => r.doing("resolve the path")?,
        };
        let tree = mount::open_tree(&at, Path::new(""), true, false).doing("copy the mount")?;
        mount::mount_setattr(&tree, RDONLY, false).doing("make the copy read-only")?;
        mount::move_mount(&tree, &at, path).doing("cover the path by its read-only copy")
    }

    /// The root's own mount.
    pub fn root_readonly(&mut self) -> Result<()> {
        mount::mount_setattr(&self.in_.rootfs, RDONLY, false).doing("make the root read-only")
    }

    /// Shared or unbindable, at last.
    pub fn root_propagation(&mut self, flag: u64, recursive: bool) -> Result<()> {
        mount::mount_setattr(&self.in_.rootfs, propagation(flag), recursive).doing("set the propagation of the root")
    }

    /// Makes the rootfs the root and leaves nothing of the old one in reach.
    pub fn pivot(&mut self, how: Pivot) -> Result<()> {
        let enter = || rustix::process::fchdir(&self.in_.rootfs).call("fchdir", || "the rootfs".into());
        enter().doing("enter the rootfs")?;
        match how {
            Pivot::Done => {}
            Pivot::PivotRoot => {
                mount::pivot_here().doing("change the root")?;
                mount::detach_here().doing("leave the old root")?;
            }
            Pivot::MoveRoot => {
                detach_kernel_mounts(self.rootfs().0)?;
                mount::move_mount_to_path(&self.in_.rootfs, Path::new("/")).doing("move the rootfs onto the root")?;
                mount::chroot_here().doing("change the root")?;
            }
            Pivot::Chroot => mount::chroot_here().doing("change the root")?,
        }
        rustix::process::chdir("/").call("chdir", || "\"/\"".into()).doing("enter the new root")
    }

    /// A procfs that the container cannot have changed: the host's or the antechamber's before the root is left, a new
    /// one where neither is.
    pub fn procfs(&mut self) -> Result<&OwnedFd> {
        if self.proc.is_none() {
            let proc = if self.in_.plan.tree == Tree::OpenTree {
                mount::new_fs("proc", &[], 0).doing("make a private procfs")?
            } else {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open("/proc", flags, Mode::empty())
                    .call("open", || "\"/proc\"".into())
                    .doing("open /proc")?
            };
            let fs = rustix::fs::fstatfs(&proc).call("fstatfs", || "/proc".into()).doing("check /proc")?;
            if fs.f_type as i64 != libc::PROC_SUPER_MAGIC {
                return Err(Error::new("/proc is no procfs"));
            }
            self.proc = Some(proc);
        }
        self.proc.as_ref().ok_or_else(|| Error::new("no procfs"))
    }
}

fn set_propagation(mount: impl AsFd, words: &[Propagation]) -> Result<()> {
    for word in words {
        mount::mount_setattr(&mount, propagation(word.flag), word.recursive).doing("set the propagation")?;
    }
    Ok(())
}

/// include/uapi/linux/mount.h; not in every C library's headers.
const MS_NOSYMFOLLOW: u64 = 1 << 8;

/// mount(2), for options beyond what fsconfig(2) takes.
fn mount_long(
    fstype: &str,
    source: &str,
    onto: &OwnedFd,
    options: &[FsOption],
    attrs: u64,
    target: &Path,
) -> Result<()> {
    let flags = [
        (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
        (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW),
    ];
    let flags = flags.iter().filter(|(a, _)| attrs & a != 0).fold(0, |f, (_, ms)| f | ms);
    let word = |(k, v): &FsOption| v.as_ref().map_or_else(|| k.clone(), |v| format!("{k}={v}"));
    let data: Vec<_> = options.iter().filter(|(k, _)| k != "ro").map(word).collect();
    mount::mount_legacy(fstype, source, onto.as_fd(), flags, &data.join(","))
        .doing(format!("mount on {}", target.display()))
}

/// `--no-pivot` leaves the old root below the new one; its whole procfs and sysfs must not stay in there, or a user
/// namespace inside the container could mount its own.
fn detach_kernel_mounts(rootfs: &Path) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").call("read", || "/proc/self/mountinfo".into());
    let text = text.doing("list the mounts of the old root")?;
    let mounts: procfs_core::process::MountInfos = procfs_core::FromRead::from_read(text.as_bytes())
        .map_err(|e| Error::new(format!("list the mounts of the old root: {e}")))?;
    let whole = |m: &procfs_core::process::MountInfo| matches!(m.fs_type.as_str(), "proc" | "sysfs") && m.root == "/";
    for old in mounts.into_iter().filter(|m| whole(m) && !m.mount_point.starts_with(rootfs)) {
        match mount::detach(&old.mount_point) {
            // Gone already, with the one that it was on.
            Err(e) if !matches!(e.errno, Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => {
                return Err(e).doing("detach a mount of the old root");
            }
            _ => {}
        }
    }
    Ok(())
}
