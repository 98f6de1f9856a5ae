//! cgroup v2: where the container's cgroup is, what is written to it, and what is done with the processes in it.
//!
//! ```text
//! mod.rs      the host's cgroup2 mount; the container's place below it (pure)
//! limits.rs   linux.resources → a list of values for files (pure)
//! devices.rs  linux.resources.devices → a BPF program (pure), and attaching it
//! fs.rs       the cgroup: create, limit, enter, remove
//! tree.rs     what goes over the cgroups below it: processes, signals, removal
//! freeze.rs   waiting on cgroup.events; freezing
//! update.rs   new limits for a running container, all or none
//! stats.rs    what it uses;  oom.rs  whether it ran out of memory
//! systemd/    the same by systemd: a scope for each container
//! ```
//! Source for all of it: the kernel's Documentation/admin-guide/cgroup-v2.rst. Linux 5.14 (cgroup.kill) or newer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::error::{Doing, Error, Origin, Result};
use crate::sys::Call;

pub mod devices;
pub mod freeze;
pub mod fs;
pub mod limits;
mod oom;
mod stats;
pub mod systemd;
pub mod tree;
mod update;

pub use fs::{Cgroup, create, open_existing};
pub use stats::Stats;

/// Where cgroup2 is mounted on a host that has nothing else.
const UNIFIED: &str = "/sys/fs/cgroup";
/// Where systemd mounts cgroup2 on a host that has the controllers on cgroup v1.
const HYBRID: &str = "/sys/fs/cgroup/unified";
/// What the container's place comes from.
const CGROUPS_PATH: &str = "linux.cgroupsPath";

/// The host's cgroup2 mount.
#[derive(Debug)]
pub struct Host {
    /// The mount point.
    pub root: PathBuf,
    /// The runtime's own cgroup, from the root of the hierarchy, as `/proc/self/cgroup` has it: `/user.slice/session-1.scope`.
    pub own: String,
    /// The controllers that the root has, separated by spaces.
    pub controllers: String,
    dir: OwnedFd,
}

impl Host {
    /// Finds cgroup2 at `/sys/fs/cgroup`, or at `/sys/fs/cgroup/unified` on a hybrid host.
    ///
    /// # Errors
    /// Neither is a cgroup2 file system, or it cannot be read.
    pub fn find() -> Result<Host> {
        let root = [UNIFIED, HYBRID].into_iter().find(|path| {
            rustix::fs::statfs(*path).is_ok_and(|s| s.f_type as i128 == libc::CGROUP2_SUPER_MAGIC as i128)
        });
        let Some(root) = root else {
            return Err(Error::new(format!("cgroup v2 is not mounted at {UNIFIED} or {HYBRID}")).hint(
                "cgroup v1 alone is not supported: boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none \
                 /sys/fs/cgroup/unified",
            ));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(root, flags, Mode::empty())
            .call("open", || format!("{root:?}"))
            .doing("open the cgroup v2 mount")?;
        let controllers = fs::read(dir.as_fd(), "cgroup.controllers").doing("read the host's controllers")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")
            .call("read", || "\"/proc/self/cgroup\"".into())
            .doing("find our own cgroup")?;
        Ok(Host { root: root.into(), own: own_path(&own)?, controllers: controllers.trim().into(), dir })
    }

    /// Whether the caller has the right to make a cgroup at the path, as far as the owners of the directories tell.
    pub fn may_make(&self, path: &Path) -> bool {
        let above = path.ancestors().skip(1).map(|above| self.root.join(above)).find(|above| above.is_dir());
        let access = rustix::fs::Access::WRITE_OK;
        above.is_some_and(|dir| rustix::fs::accessat(CWD, dir, access, AtFlags::EACCESS).is_ok())
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The cgroup v2 line of `/proc/PID/cgroup`: its number is always 0 and it names no controllers.
///
/// # Errors
/// There is none: the kernel has no cgroup v2.
pub fn own_path(proc_cgroup: &str) -> Result<String> {
    proc_cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .ok_or_else(|| Error::new("/proc/self/cgroup has no line for cgroup v2"))
}

/// The container's place below the mount point, without a leading slash: as runc's cgroupfs driver has it on v2.
/// - An absolute path counts from the root of the hierarchy.
/// - A relative one counts from the *parent* of our own cgroup: ours has processes in it, so that no controller can be
///   enabled for what is below it (cgroup-v2.rst, "No Internal Process Constraint").
/// - Without one, the container's id counts as a relative path.
///
/// `..` is resolved in the text and never leads out: neither of the root nor, in a relative path, of our parent.
///
/// The form `slice:prefix:name` is a name as any other where the systemd driver was not asked for: Docker's BuildKit sends
/// it so.
///
/// # Errors
/// The path is the root cgroup.
pub fn container_path(cgroups_path: Option<&Path>, id: &str, own: &str) -> Result<PathBuf> {
    let asked = cgroups_path.unwrap_or(Path::new(""));
    let mut path = clean(asked);
    if asked.is_relative() {
        if path.as_os_str().is_empty() {
            path = clean(Path::new(id));
        }
        let own = clean(Path::new(own));
        path = own.parent().unwrap_or(Path::new("")).join(path);
    }
    if path.as_os_str().is_empty() {
        return Err(at(asked)(Error::new("the root cgroup cannot be a container's")).hint("name a cgroup below it"));
    }
    Ok(path)
}

/// Names the field of config.json and the path in it.
fn at(path: &Path) -> impl FnOnce(Error) -> Error {
    let origin = Origin::new(CGROUPS_PATH, path.display().to_string());
    move |e| e.at(origin)
}

/// A path without `.`, `..` and a leading slash, as if it stood at the root.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let session = "/user.slice/session-1.scope";
        for (asked, own, want) in [
            (Some("/docker/x"), session, "docker/x"),
            (Some("/kubepods/burstable/podU/x"), "/", "kubepods/burstable/podU/x"),
            (Some("//a//b/./c/"), "/", "a/b/c"),
            (Some("/../../a"), session, "a"),
            (Some("/a/../../../b"), session, "b"),
            (Some("name"), session, "user.slice/name"),
            (Some("../../../name"), session, "user.slice/name"),
            (Some("a/../b"), "/x", "b"),
            (Some("name"), "/", "name"),
            // In a cgroup namespace whose root is below us.
            (Some("name"), "/../../x/y", "x/name"),
            (None, session, "user.slice/id"),
            (None, "/", "id"),
            (Some(""), session, "user.slice/id"),
            (Some(".."), session, "user.slice/id"),
            // Without --systemd-cgroup nothing is systemd's.
            (Some("system.slice:docker:x"), session, "user.slice/system.slice:docker:x"),
            (Some("/a:b:c"), "/", "a:b:c"),
            (Some("a:b"), "/", "a:b"),
        ] {
            let path = container_path(asked.map(Path::new), "id", own).unwrap();
            assert_eq!(path, Path::new(want), "{asked:?} from {own}");
        }
    }

    #[test]
    fn places_refused() {
        for asked in ["/", "/..", "/a/.."] {
            let error = container_path(Some(Path::new(asked)), "id", "/").unwrap_err();
            assert_eq!(error.origin.as_ref().unwrap().field, CGROUPS_PATH);
            assert!(error.hint.is_some(), "{error}");
        }
    }

    #[test]
    fn own_cgroup() {
        assert_eq!(own_path("9:memory:/m\n0::/a/b\n").unwrap(), "/a/b");
        assert!(own_path("9:memory:/m\n").is_err());
    }
}
