//! A tiny mount namespace, made once and kept: a read-only tmpfs with an empty directory for the rootfs, a procfs and a
//! sysfs (without a whole one of each in sight, a user namespace may not mount its own). A container's mount namespace is
//! a copy of this one, which takes the same time however many mounts the host has, and no container's process ever
//! holds the host's mounts.
//!
//! It lies in `/run/tare/@tare/antechamber/mnt`, for real root only, whatever `--root` says. It may be unmounted and
//! removed at any time and is made again when it is missing; where it cannot be made, the host's namespace is copied.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Doing, Error, Result};
use crate::sys::mount::{self, Attr};
use crate::sys::{Call, clone, process, socket};

/// Where the rootfs is attached in it.
pub const ROOTFS: &str = "/rootfs";

/// What containers share, beside the containers' own directories.
pub const SHARED: &str = "/run/tare/@tare";
const DIR: &str = "antechamber";
const FILE: &str = "mnt";

/// Opens (and makes) the directory of what containers share. It must be root's alone.
pub fn shared() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(SHARED, flags, Mode::empty()).call("open", || SHARED.into());
    let dir = match open() {
        Err(e) if e.errno == Errno::ENOENT => {
            use std::os::unix::fs::DirBuilderExt;
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o711);
            builder.create("/run/tare").call("mkdir", || "/run/tare".into()).doing("make /run/tare")?;
            match builder.recursive(false).mode(0o700).create(SHARED).call("mkdir", || SHARED.into()) {
                Err(e) if e.errno != Errno::EEXIST => {
                    return Err(e).doing("make the directory of what containers share");
                }
                _ => open(),
            }
        }
        r => r,
    };
    let dir = dir.doing("open the directory of what containers share")?;
    let stat = rustix::fs::fstat(&dir).call("fstat", || SHARED.into()).doing("check the shared directory")?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(Error::new(format!("{SHARED} is not the runtime's alone")));
    }
    Ok(dir)
}

/// Opens (and makes) a folder in it.
pub fn shared_folder(name: &str) -> Result<OwnedFd> {
    let shared = shared()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&shared, name, flags, Mode::empty()).call("openat", || format!("{SHARED}/{name}"));
    match open() {
        Err(e) if e.errno == Errno::ENOENT => {
            let made = rustix::fs::mkdirat(&shared, name, Mode::from_raw_mode(0o700)).call("mkdirat", || name.into());
            match made {
                Err(e) if e.errno != Errno::EEXIST => Err(e),
                _ => open(),
            }
        }
        r => r,
    }
    .doing("open a folder of what containers share")
}

/// The namespace, made if it is missing.
pub fn open() -> Result<OwnedFd> {
    let shared = shared()?;
    if let Some(found) = find(&shared) {
        return Ok(found);
    }
    rustix::fs::flock(&shared, FlockOperation::LockExclusive).call("flock", || SHARED.into()).doing("lock")?;
    match find(&shared) {
        Some(made_meanwhile) => Ok(made_meanwhile),
        None => make(&shared),
    }
}

fn find(shared: &OwnedFd) -> Option<OwnedFd> {
    const NSFS_MAGIC: i64 = 0x6e73_6673; // include/uapi/linux/magic.h
    let path = Path::new(DIR).join(FILE);
    let fd = rustix::fs::openat(shared, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let nsfs = rustix::fs::fstatfs(&fd).is_ok_and(|fs| fs.f_type == NSFS_MAGIC);
    nsfs.then_some(fd)
}

/// Makes the namespace and binds its file.
///
/// A mount namespace's file can only be bound in an older namespace. Linux 6.18 tells the age by a number that each CPU
/// takes from a batch of its own, so outside of the first namespace the new one may be taken for the older, and bind
/// has EINVAL; made on another CPU it has another number.
fn make(shared: &OwnedFd) -> Result<OwnedFd> {
    const TRIES: usize = 8;
    let mut made = make_here(shared);
    if made.as_ref().is_err_and(|e| e.errno() == Some(Errno::EINVAL)) {
        let affinity = || sched_getaffinity(None).call("sched_getaffinity", String::new).doing("read the CPU affinity");
        let before = affinity()?;
        process::reset_affinity();
        let all = affinity()?;
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(TRIES) {
            let mut one = CpuSet::new();
            one.set(cpu);
            let moved = sched_setaffinity(None, &one).is_ok();
            made = if moved { make_here(shared) } else { made };
            if made.is_ok() {
                break;
            }
        }
        let _ = sched_setaffinity(None, &before);
    }
    made?;
    find(shared).ok_or_else(|| Error::new("the antechamber is not where it was bound"))
}

/// Makes the namespace in a child, and binds its file while the child lives.
fn make_here(shared: &OwnedFd) -> Result<()> {
    let (ours, theirs) = socket::pair().doing("make a socket pair")?;
    let Some(child) = clone::clone3(libc::CLONE_NEWNS as u64, None).doing("make the antechamber")? else {
        drop(ours); // so that it ends, and lets go of the lock, when the parent does
        let message = match furnish() {
            Ok(()) => Vec::from(*b"+"),
            Err(e) => e.to_string().into_bytes(),
        };
        let _ = socket::send(&theirs, &message);
        let _ = socket::receive(&theirs, 1); // until the parent has bound the file
        process::exit_now(0)
    };
    drop(theirs);
    let made = match socket::receive(&ours, 4096).doing("wait for the antechamber")? {
        Some((message, _)) if message == b"+" => bind(shared, child.pid),
        Some((message, _)) => Err(Error::new(String::from_utf8_lossy(&message).into_owned())),
        None => Err(Error::new("the process that makes the antechamber has died")),
    };
    drop(ours);
    clone::wait(&child.pidfd).doing("wait for the antechamber's maker")?;
    made
}

/// In the child, in its own mount namespace.
fn furnish() -> Result<()> {
    let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
    mount::mount_setattr_at(CWD, Path::new("/"), private, true).doing("cut the antechamber off")?;
    let option = |k: &str, v: &str| (k.to_owned(), Some(v.to_owned()));
    let options = [option("source", "tare"), option("size", "4k"), option("nr_inodes", "8"), option("mode", "755")];
    let attrs = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let root = mount::new_fs("tmpfs", &options, attrs).doing("make the antechamber's root")?;
    for dir in ["rootfs", "proc", "sys"] {
        rustix::fs::mkdirat(&root, dir, Mode::from_raw_mode(0o755)).call("mkdirat", || dir.into()).doing("furnish")?;
    }
    mount::move_mount_to_path(&root, Path::new(SHARED)).doing("attach the antechamber")?;
    rustix::process::fchdir(&root).call("fchdir", String::new).doing("enter the antechamber")?;
    for (fs, dir) in [("proc", "proc"), ("sysfs", "sys")] {
        let new = mount::new_fs(fs, &[], attrs).doing("furnish the antechamber")?;
        mount::move_mount_to_path(&new, Path::new(dir)).doing("furnish the antechamber")?;
    }
    mount::pivot_here().doing("enter the antechamber")?;
    mount::detach_here().doing("leave the host's mounts")?;
    let readonly = Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() };
    mount::mount_setattr(&root, readonly, false).doing("make the antechamber read-only")
}

/// Binds the child's namespace file. A mount that others see, too, cannot hold it (EINVAL: it would be copied to them);
/// then the directory becomes a private mount of its own.
fn bind(shared: &OwnedFd, pid: i32) -> Result<()> {
    let exists = |r: Result<(), crate::sys::SysError>| match r {
        Err(e) if e.errno != Errno::EEXIST => Err(e),
        _ => Ok(()),
    };
    let dir = Path::new(SHARED).join(DIR);
    let file = dir.join(FILE);
    let touch = || {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&file, flags, Mode::from_raw_mode(0o600)).map(drop).call("open", || format!("{file:?}"))
    };
    let made = rustix::fs::mkdirat(shared, DIR, Mode::from_raw_mode(0o700)).call("mkdirat", || format!("{dir:?}"));
    exists(made).and_then(|()| touch()).doing("make the antechamber's file")?;
    let source = format!("/proc/{pid}/ns/mnt");
    let bind =
        || rustix::mount::mount_bind(source.as_str(), &file).call("mount", || format!("{source} → {file:?}, BIND"));
    let set =
        |path: &Path, propagation| mount::mount_setattr_at(CWD, path, Attr { propagation, ..Attr::default() }, false);
    match bind() {
        Err(e) if e.errno == Errno::EINVAL => {
            rustix::mount::mount_bind(&dir, &dir)
                .call("mount", || format!("{dir:?}, BIND"))
                .doing("keep the antechamber")?;
            let kept = set(&dir, libc::MS_PRIVATE).and_then(|()| bind());
            if kept.is_err() {
                let _ = mount::detach(&dir); // or each container would add one
            }
            kept.doing("keep the antechamber")
        }
        r => r.doing("keep the antechamber"),
    }?;
    // So that no copy of the host's tree has it: nothing that holds an older mount namespace's file can be attached in a
    // newer one (ELOOP), and a container may be given all of "/".
    set(&file, libc::MS_UNBINDABLE).doing("keep the antechamber out of copies")
}

/// clone3(2) with the antechamber as the mount namespace that is copied. The parent is back in its own when this returns;
/// the child is in the copy and holds nothing of the host's.
pub fn clone3(
    antechamber: &OwnedFd,
    flags: u64,
    cgroup: Option<std::os::fd::BorrowedFd<'_>>,
) -> Result<Option<clone::Child>> {
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let open = |name: &'static str, flags| rustix::fs::open(name, flags, Mode::empty()).call("open", || name.into());
    let home = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC).doing("remember the mount namespace")?;
    let root = open("/", path).doing("remember the root")?;
    let here = open(".", path).doing("remember the working directory")?;
    clone::setns(antechamber, libc::CLONE_NEWNS).doing("enter the antechamber")?;
    let child = match clone::clone3(flags, cgroup) {
        Ok(None) => return Ok(None), // the three descriptors are closed here
        r => r,
    };
    let back = || -> crate::sys::Result<()> {
        clone::setns(&home, libc::CLONE_NEWNS)?;
        let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let now = rustix::fs::stat("/").call("stat", || "/".into())?;
        if !same(now, rustix::fs::fstat(&root).call("fstat", || "/".into())?) {
            // The caller was in a chroot.
            rustix::process::fchdir(&root).call("fchdir", || "/".into())?;
            mount::chroot_here()?;
        }
        rustix::process::fchdir(&here).call("fchdir", || ".".into())
    };
    if let Err(e) = back() {
        if let Ok(Some(child)) = &child {
            let _ = clone::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        }
        return Err(e).doing("return from the antechamber");
    }
    child.doing("make the container's process")
}
