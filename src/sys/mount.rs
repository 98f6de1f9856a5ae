//! The mount API by descriptor: open_tree(2), fsopen(2), mount_setattr(2), move_mount(2), pivot_root(2).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string,
};
use serde::Serialize;

use super::{Call, Result, SysError};

/// What mount_setattr(2) changes of a mount; the bits are `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Attr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear, before the others are set.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
}

impl Attr {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        *self == Attr::default()
    }
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path` (with `recursive`, of all below it, too).
/// `nofollow` takes a symbolic link itself. An empty path takes the mount of `dir` itself.
pub fn open_tree(dir: impl AsFd, path: &Path, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_SYMLINK_NOFOLLOW, nofollow);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    rustix::mount::open_tree(dir.as_fd(), path, flags)
        .call("open_tree", || format!("{:?}, CLONE{}", path, if recursive { "|AT_RECURSIVE" } else { "" }))
}

/// mount_setattr(2) on the mount that `mount` is the root of.
pub fn mount_setattr(mount: impl AsFd, attr: Attr, recursive: bool) -> Result<()> {
    mount_setattr_at(mount, Path::new(""), attr, recursive)
}

/// mount_setattr(2) on the mount at `path`, or on that of `dir` if `path` is empty.
pub fn mount_setattr_at(dir: impl AsFd, path: &Path, attr: Attr, recursive: bool) -> Result<()> {
    let raw =
        libc::mount_attr { attr_set: attr.set, attr_clr: attr.clear, propagation: attr.propagation, userns_fd: 0 };
    let dir = dir.as_fd().as_raw_fd();
    let args = || {
        let rec = if recursive { ", AT_RECURSIVE" } else { "" };
        let (s, c, p) = (attr.set, attr.clear, attr.propagation);
        format!("{:?}{rec}, {{set {s:#x}, clear {c:#x}, propagation {p:#x}}}", path)
    };
    let c_path = c_string("mount_setattr", path)?;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated and `raw` is a mount_attr of the size given; both outlive the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            c_path.as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(SysError::last("mount_setattr", args())) }
}

/// mount_setattr(2) with MOUNT_ATTR_IDMAP: the mount (detached, and never attached before) shows the ids of its files as the
/// user namespace maps them (Linux 5.12).
///
/// # Errors
/// EINVAL where the file system knows no idmapped mounts; EPERM without the right in its user namespace, or if it is mapped
/// already.
pub fn idmap(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> Result<()> {
    let raw = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_fd().as_raw_fd() as u64,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the path is the empty string, `raw` is a mount_attr of the size given; both outlive the call.
    let r = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const raw, size_of::<libc::mount_attr>())
    };
    let rec = if recursive { ", AT_RECURSIVE" } else { "" };
    if r == 0 { Ok(()) } else { Err(SysError::last("mount_setattr", format!("fd {fd}{rec}, IDMAP"))) }
}

/// Sets the propagation of a container's root and of all below it, before anything is mounted in it: a copy is a peer of
/// its source, and what is mounted in the one appears in the other.
pub fn set_root_propagation(root: impl AsFd, propagation: u64) -> Result<()> {
    let attr = |propagation| Attr { propagation, ..Attr::default() };
    mount_setattr(&root, attr(propagation), true)?;
    if propagation == libc::MS_SHARED {
        // The root itself becomes shared when all is mounted: pivot_root(2) refuses a shared one, too.
        mount_setattr(&root, attr(libc::MS_SLAVE), false)?;
    }
    Ok(())
}

fn c_string(call: &'static str, path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| SysError::new(call, format!("{path:?}"), nix::errno::Errno::EINVAL))
}

/// move_mount(2): attaches the mount `from` onto what `to` refers to. `name` is how messages call the target.
pub fn move_mount(from: impl AsFd, to: impl AsFd, name: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let from = from.as_fd();
    rustix::mount::move_mount(from, "", to, "", flags)
        .call("move_mount", || format!("fd {} → {:?}", from.as_raw_fd(), name))
}

/// move_mount(2) onto a path.
pub fn move_mount_to_path(from: impl AsFd, to: &Path) -> Result<()> {
    let from = from.as_fd();
    rustix::mount::move_mount(from, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call("move_mount", || format!("fd {} → {:?}", from.as_raw_fd(), to))
}

/// Whether two descriptors are of the same file on the same mount.
pub fn same_place(a: impl AsFd, b: impl AsFd) -> Result<bool> {
    let place = |fd: BorrowedFd<'_>| {
        let flags = rustix::fs::StatxFlags::INO | rustix::fs::StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, flags).call("statx", String::new)?;
        Ok((stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
    };
    Ok(place(a.as_fd())? == place(b.as_fd())?)
}

/// A file system's option: a key with a value, or a flag.
pub type FsOption = (String, Option<String>);

/// A new file system as a detached mount: fsopen(2), fsconfig(2), fsmount(2). `attrs` are `MOUNT_ATTR_*` bits.
///
/// # Errors
/// The kernel's own words about a refused option are added where it has some.
pub fn new_fs(fstype: &str, options: &[FsOption], attrs: u64) -> Result<OwnedFd> {
    let fs = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).call("fsopen", || format!("{fstype:?}"))?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str())
                .call("fsconfig", || format!("{fstype}, {key}={value}{}", kernel_words(&fs)))?,
            None => fsconfig_set_flag(fs.as_fd(), key.as_str())
                .call("fsconfig", || format!("{fstype}, {key}{}", kernel_words(&fs)))?,
        }
    }
    fsconfig_create(fs.as_fd()).call("fsconfig", || format!("{fstype}, CMD_CREATE{}", kernel_words(&fs)))?;
    // MOUNT_ATTR_* beyond 32 bits do not exist: fsmount takes an unsigned int.
    let attrs = MountAttrFlags::from_bits_retain(attrs as u32);
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
        .call("fsmount", || format!("{fstype}{}", kernel_words(&fs)))
}

/// What the kernel wrote into the context's message queue, after the errno is saved by the caller's `call`.
fn kernel_words(fs: &OwnedFd) -> String {
    let mut buf = [0u8; 256];
    let words = match rustix::io::read(fs, &mut buf) {
        Ok(n) => String::from_utf8_lossy(&buf[..n]).trim().to_owned(),
        Err(_) => return String::new(),
    };
    format!(": {}", words.strip_prefix("e ").unwrap_or(&words))
}

/// mount(2), for what the new API cannot: a single option of 256 bytes or more. `target` is resolved already.
pub fn mount_legacy(fstype: &str, source: &str, target: BorrowedFd<'_>, flags: u64, data: &str) -> Result<()> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let data = CString::new(data).map_err(|_| SysError::new("mount", fstype, nix::errno::Errno::EINVAL))?;
    let flags = rustix::mount::MountFlags::from_bits_retain(flags as u32);
    rustix::mount::mount(source, path.as_str(), fstype, flags, Some(data.as_c_str()))
        .call("mount", || format!("{source:?}, {path:?}, {fstype:?}"))
}

/// umount2(".", MNT_DETACH) of what the current directory is on.
pub fn detach_here() -> Result<()> {
    rustix::mount::unmount(".", UnmountFlags::DETACH).call("umount2", || "\".\", MNT_DETACH".into())
}

/// umount2(path, MNT_DETACH).
pub fn detach(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .call("umount2", || format!("{path:?}, MNT_DETACH"))
}

/// pivot_root(".", "."): the current directory becomes the root, and the old root lies on top of it until it is
/// detached (pivot_root(2), NOTES).
pub fn pivot_here() -> Result<()> {
    rustix::process::pivot_root(".", ".").call("pivot_root", || "\".\", \".\"".into())
}

/// chroot(".").
pub fn chroot_here() -> Result<()> {
    rustix::process::chroot(".").call("chroot", || "\".\"".into())
}

/// include/uapi/linux/mount.h
const OPEN_TREE_NAMESPACE: OpenTreeFlags = OpenTreeFlags::from_bits_retain(1 << 1);

/// Whether the kernel has OPEN_TREE_NAMESPACE (Linux 7.0): one that does not know the flag says so before it looks at the
/// path, which is nowhere.
pub fn has_open_tree_namespace() -> bool {
    rustix::mount::open_tree(CWD, "", OPEN_TREE_NAMESPACE).is_err_and(|e| e == rustix::io::Errno::NOENT)
}

/// open_tree(2) with OPEN_TREE_NAMESPACE: a new mount namespace whose root is a copy of the mount at `dir` and all below it.
pub fn open_tree_namespace(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OPEN_TREE_NAMESPACE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(dir.as_fd(), "", flags).call("open_tree", || "\"\", NAMESPACE|AT_RECURSIVE".into())
}
