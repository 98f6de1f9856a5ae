//! The container's cgroup as a directory: making it, limiting it, entering it, taking it back.
//!
//! Everything goes by the directory's descriptor and a file name. cgroupfs has no symbolic links, and a cgroup cannot be
//! renamed or moved, so a path is resolved once, below the mount, and never again.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::limits::{Otherwise, Write};
use super::{CGROUPS_PATH, HYBRID, Host};
use crate::error::{Doing, Error, Origin, Result};
use crate::sys::{self, Call, SysError};

#[cfg(test)]
pub(super) mod tests;

/// How often a parent that somebody else removes meanwhile is made again: two or three times are ordinary where pods come
/// and go; against one who does nothing else, a loop of mkdir takes about as many as it takes him.
const TRIES: usize = 1000;

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// Open for reading: good for `CLONE_INTO_CGROUP`, bpf(2) and openat(2).
    dir: OwnedFd,
    /// The whole path on the host: `/sys/fs/cgroup/docker/ID`.
    path: PathBuf,
    /// Where cgroup2 is mounted.
    root: PathBuf,
    /// Which of the directories from the root down to this one `create` made.
    made: Vec<bool>,
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Makes the cgroup at `path` (see [`super::container_path`]), with every controller of the root enabled down to it as far
/// as that is possible: which one is really needed only `apply` knows. An existing cgroup is used if it is empty.
///
/// # Errors
/// It has processes or is frozen (`linux.cgroupsPath`); mkdir fails.
pub fn create(host: &Host, path: &Path) -> Result<Cgroup> {
    let names = names(path)?;
    let whole = host.root.join(path);
    let origin = || Origin::new(CGROUPS_PATH, whole.display().to_string());
    for _ in 0..TRIES {
        let made = match make(host.as_fd(), path, names.len()) {
            Ok(made) => made,
            Err(e) if e.errno == Errno::ENOENT => continue,
            Err(e) => return Err(explain_mkdir(Error::sys("create the container's cgroup", e)).at(origin())),
        };
        let dir = match open_beneath(host.as_fd(), path) {
            Ok(dir) => dir,
            Err(e) if e.errno == Errno::ENOENT => continue,
            Err(e) => return Err(Error::sys("open the container's cgroup", e).at(origin())),
        };
        let cgroup = Cgroup { dir, path: whole.clone(), root: host.root.clone(), made };
        if !cgroup.is_fresh() {
            cgroup.check_empty().map_err(|e| e.at(origin()))?;
        }
        enable_controllers(host, &cgroup, &names);
        return Ok(cgroup);
    }
    let error = Error::new(format!("create the container's cgroup: a directory above it vanished {TRIES} times"));
    Err(error.at(origin()).hint("something removes these cgroups as fast as they are made"))
}

/// Opens the cgroup of an existing container by its whole path on the host, as the state has it. None when it is gone.
///
/// # Errors
/// The path is not below a cgroup2 mount, or is one itself; it cannot be opened.
pub fn open_existing(path: &Path) -> Result<Option<Cgroup>> {
    let root = if path.starts_with(HYBRID) { HYBRID } else { super::UNIFIED };
    let origin = || Origin::new("cgroup", path.display().to_string());
    let Ok(below) = path.strip_prefix(root) else {
        return Err(Error::new(format!("the cgroup is not below {root}")).at(origin()));
    };
    names(below).map_err(|e| e.at(origin()))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .call("open", || format!("{root:?}"))
        .and_then(|root| open_beneath(root.as_fd(), below));
    let dir = match dir {
        Ok(dir) => dir,
        Err(e) if gone(e.errno) => return Ok(None),
        Err(e) => return Err(Error::sys("open the container's cgroup", e).at(origin())),
    };
    // RESOLVE_NO_XDEV has kept us in the file system of the root.
    let fs =
        rustix::fs::fstatfs(&dir).call("fstatfs", || format!("{path:?}")).doing("look at the container's cgroup")?;
    if fs.f_type as i128 != libc::CGROUP2_SUPER_MAGIC as i128 {
        return Err(Error::new("this is no cgroup v2").at(origin()));
    }
    Ok(Some(Cgroup { dir, path: path.into(), root: root.into(), made: Vec::new() }))
}

impl Cgroup {
    /// The whole path on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `create` made it: nothing has been written to it or attached to it before.
    pub fn is_fresh(&self) -> bool {
        self.made.last() == Some(&true)
    }

    /// Has every controller of the root in a cgroup that somebody else has made, as far as that is possible: systemd leaves
    /// those out that it knows nothing of (hugetlb, rdma).
    pub fn enable_controllers(&self, host: &Host) {
        if let Ok(names) = self.path.strip_prefix(&host.root).map_err(drop).and_then(|p| names(p).map_err(drop)) {
            enable_controllers(host, self, &names);
        }
    }

    /// Whether it has been removed.
    pub fn is_gone(&self) -> bool {
        read(self.as_fd(), "cgroup.type").is_err_and(|e| gone(e.errno))
    }

    /// Writes the limits, in order. Before the first one, `checkBeforeUpdate` is looked after.
    ///
    /// # Errors
    /// The controller that a value needs is missing, the kernel refuses the value, or the memory is in use already.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        self.check_usage(writes)?;
        let mut later: Option<&Write> = None;
        for write in writes {
            match self.put(write) {
                Err(e) if e.errno == Errno::EINVAL && write.otherwise == Otherwise::Later => later = Some(write),
                other => {
                    other.map_err(|e| self.explain_write(write, e))?;
                    if let Some(write) = later.take() {
                        self.put(write).map_err(|e| self.explain_write(write, e))?;
                    }
                }
            }
        }
        match later {
            Some(write) => self.put(write).map_err(|e| self.explain_write(write, e)),
            None => Ok(()),
        }
    }

    /// Moves a process, with all its threads, into the cgroup.
    ///
    /// # Errors
    /// See [`Cgroup::explain_entry`]; ESRCH when there is no such process.
    pub fn attach(&self, pid: i32) -> Result<()> {
        write(self.as_fd(), "cgroup.procs", &pid.to_string()).map_err(|e| self.explain_entry(e))
    }

    /// Makes a cgroup in it (`run.oci.systemd.subgroup`), with all its controllers.
    ///
    /// # Errors
    /// mkdir fails.
    pub fn make_subgroup(&self, name: &str) -> Result<Cgroup> {
        let doing = "make the cgroup below the unit's";
        match rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => {}
            other => other.call("mkdirat", || format!("cgroup2, {name:?}, 0755")).doing(doing)?,
        }
        let dir = open_dir(self.as_fd(), name).doing(doing)?;
        Ok(Cgroup { dir, path: self.path.join(name), root: self.root.clone(), made: Vec::new() })
    }

    /// Says what a failure of entering means, by clone3(CLONE_INTO_CGROUP) or by cgroup.procs. The words matter: what
    /// ENOENT says by itself, Docker would read as "command not found".
    pub fn explain_entry(&self, e: SysError) -> Error {
        let errno = e.errno;
        let error =
            Error::sys("enter the container's cgroup", e).at(Origin::new("cgroup", self.path.display().to_string()));
        match errno {
            Errno::ENOENT | Errno::ENODEV => error.hint("container not running: its cgroup has been removed"),
            Errno::EBUSY => {
                error.hint("the cgroup has enabled controllers for others below it, so it can hold no process itself")
            }
            Errno::EAGAIN => error.hint("pids.max of this cgroup or of one above it is reached"),
            Errno::EOPNOTSUPP => {
                error.hint("the cgroup is in a threaded subtree (cgroup.type), which takes no processes")
            }
            Errno::EINVAL => {
                error.hint("a real-time process cannot enter a cgroup with the cpu controller (RT_GROUP_SCHED)")
            }
            Errno::EACCES | Errno::EPERM => error.hint("cgroup.procs must be writable here and in the common parent"),
            _ => error,
        }
    }

    /// Gives the cgroup to a user, so that the container can manage its own below it: the directory and the files that
    /// the kernel names in /sys/kernel/cgroup/delegate (cgroup-v2.rst, "Model of Delegation").
    ///
    /// # Errors
    /// chown fails.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let chown = |name: &str, flags: AtFlags| {
            let owner = rustix::fs::Uid::from_raw(uid);
            rustix::fs::chownat(&self.dir, name, Some(owner), None, flags)
                .call("fchownat", || format!("{name:?}, {uid}"))
        };
        let doing = "give the cgroup to the container's user";
        chown("", AtFlags::EMPTY_PATH).doing(doing)?;
        // The list of Linux 5.14, for a kernel whose sysfs we cannot see.
        let files = std::fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\nmemory.oom.group\n".into());
        for name in files.lines().filter(|name| !name.contains('/')) {
            match chown(name, AtFlags::SYMLINK_NOFOLLOW) {
                // A file of a controller that is not enabled here.
                Err(e) if e.errno == Errno::ENOENT => {}
                other => other.doing(doing)?,
            }
        }
        Ok(())
    }

    /// Undoes `create`: removes exactly the directories that it made, from the leaf upwards. One that others use
    /// meanwhile stays.
    ///
    /// # Errors
    /// There are processes left in the cgroup, or rmdir fails.
    pub fn undo(self) -> Result<()> {
        let Some((&leaf, above)) = self.made.split_last() else { return Ok(()) };
        let mut dir = open_parent(self.as_fd()).doing("open the parent of the container's cgroup")?;
        if leaf {
            self.remove()?;
        }
        let mut path = self.path.as_path();
        for &made in above.iter().rev() {
            path = path.parent().unwrap_or(path);
            let up = open_parent(dir.as_fd()).doing("open the parent of a cgroup")?;
            if made {
                match rmdir(up.as_fd(), path.file_name().unwrap_or_default()) {
                    Err(e) if gone(e.errno) || matches!(e.errno, Errno::EBUSY | Errno::ENOTEMPTY) => {}
                    other => other.doing("remove a cgroup that was made for the container's")?,
                }
            }
            dir = up;
        }
        Ok(())
    }

    /// An existing cgroup may be used if nobody else does. A frozen one would swallow the container's process: clone3
    /// makes it, and it never runs.
    fn check_empty(&self) -> Result<()> {
        let events = self.events()?;
        if events.populated {
            let n = self.pids().map_or(0, |pids| pids.len());
            let error = Error::new(format!("container's cgroup is not empty: {n} process(es) found"));
            return Err(error.hint("another container uses this path, or processes of an earlier one are left in it"));
        }
        if events.frozen {
            let error = Error::new("container's cgroup unexpectedly frozen");
            return Err(
                error.hint("write 0 to cgroup.freeze in it or, if it is frozen from above, in the one above it")
            );
        }
        Ok(())
    }

    /// `checkBeforeUpdate`. Best effort, as in runc: a usage that cannot be read refuses nothing.
    fn check_usage(&self, writes: &[Write]) -> Result<()> {
        if writes.iter().all(|w| w.unless_used.is_none()) {
            return Ok(());
        }
        let used: Option<u64> = read(self.as_fd(), "memory.current").ok().and_then(|n| n.trim().parse().ok());
        let too_low = writes.iter().find(|w| w.unless_used.zip(used).is_some_and(|(limit, used)| limit <= used));
        let Some((write, limit)) = too_low.and_then(|w| Some((w, w.unless_used?))) else { return Ok(()) };
        let what = if write.file == "memory.swap.max" { "memory+swap limit" } else { "memory limit" };
        let error = Error::new(format!("rejecting {what} {limit} <= usage {}", used.unwrap_or(0)));
        Err(error.at(write.origin.clone()).hint("linux.resources.memory.checkBeforeUpdate is set"))
    }

    /// One value, or what there is in its place.
    fn put(&self, w: &Write) -> sys::Result<()> {
        let write = |file: &str, value: &str| {
            if value.contains('\n') {
                value.lines().try_for_each(|line| write(self.as_fd(), file, line))
            } else {
                write(self.as_fd(), file, value)
            }
        };
        match (write(&w.file, &w.value), &w.otherwise) {
            (Err(e), Otherwise::Skip) if e.errno == Errno::ENOENT => Ok(()),
            (Err(e), Otherwise::Use { file, value }) if e.errno == Errno::ENOENT => write(file, value),
            (other, _) => other,
        }
    }

    /// Names the field, and for a missing file the reason for that.
    fn explain_write(&self, w: &Write, e: SysError) -> Error {
        let at = |error: Error| error.at(w.origin.clone());
        if e.errno != Errno::ENOENT {
            let error = at(Error::sys(format!("set {} to {:?}", w.file, w.value), e));
            let hint = match error.errno() {
                Some(Errno::EBUSY) if w.file == "memory.max" => "more memory is in use than can be freed",
                Some(Errno::EINVAL) => "the kernel refuses this value",
                Some(Errno::ERANGE) => "the value is out of the kernel's range",
                Some(Errno::ENODEV) => "there is no such device, or the cgroup has been removed",
                Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => "the cgroup is not writable for us",
                _ => return error,
            };
            return error.hint(hint);
        }
        let has = |dir: BorrowedFd<'_>| {
            read(dir, "cgroup.controllers").is_ok_and(|list| list.split_whitespace().any(|c| c == w.controller))
        };
        if w.controller == "cgroup" || has(self.as_fd()) {
            return at(Error::new(format!("set {}: the kernel has no such file", w.file)))
                .hint("it needs a newer kernel or another kernel configuration");
        }
        let root = rustix::fs::open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root_has = root.is_ok_and(|root| has(root.as_fd()));
        let v1 = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
        at(Error::new(format!("set {}: cgroup controller {} is not available", w.file, w.controller)))
            .hint(missing_controller(&w.controller, root_has, self.path.parent().unwrap_or(&self.root), &v1))
    }
}

/// How a missing controller is had. `v1` is /proc/cgroups: name, hierarchy (0 where it is not on cgroup v1), count, enabled.
fn missing_controller(controller: &str, root_has: bool, parent: &Path, v1: &str) -> Cow<'static, str> {
    if root_has {
        return format!(
            "write +{controller} to cgroup.subtree_control in {} and in each cgroup above it; one that has processes \
             itself refuses that (EBUSY): move them into a cgroup below it first",
            parent.display()
        )
        .into();
    }
    let old = if controller == "io" { "blkio" } else { controller };
    let line = v1.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|f| f.first() == Some(&old));
    match line.as_deref() {
        Some([_, hierarchy, ..]) if *hierarchy != "0" => format!(
            "{old} is bound to cgroup v1 on this host: boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1={old}"
        )
        .into(),
        Some([.., "0"]) => format!("the kernel's command line disables it: cgroup_disable={old}").into(),
        _ => "the kernel does not have it, or the host keeps it from us (a container, a user's delegation)".into(),
    }
}

fn explain_mkdir(error: Error) -> Error {
    match error.errno() {
        Some(Errno::EACCES | Errno::EPERM) => {
            error.hint("the cgroup above it must be delegated to us (owned by our user)")
        }
        Some(Errno::EROFS) => error.hint("cgroup2 is mounted read-only: are we in a container?"),
        Some(Errno::EAGAIN) => error.hint("cgroup.max.descendants or cgroup.max.depth of a cgroup above it is reached"),
        Some(Errno::EINVAL | Errno::ENAMETOOLONG) => error.hint("a name is at most 255 bytes without a line break"),
        _ => error,
    }
}

/// The names in a path below the mount: at least one, and nothing that leads elsewhere.
fn names(path: &Path) -> Result<Vec<&OsStr>> {
    let names: Option<Vec<_>> =
        path.components().map(|c| if let Component::Normal(name) = c { Some(name) } else { None }).collect();
    match names {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(Error::new(format!("{path:?} is not the path of a cgroup below the root"))),
    }
}

/// mkdir, in one call where only the leaf is missing; else down the path. Says for each directory whether we made it.
fn make(root: BorrowedFd<'_>, path: &Path, depth: usize) -> sys::Result<Vec<bool>> {
    let mkdir = |path: &Path| match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        other => other.map(|()| false).call("mkdirat", || format!("cgroup2, {path:?}, 0755")),
    };
    let mut made = vec![false; depth];
    match mkdir(path) {
        Ok(leaf) => {
            made[depth - 1] = leaf;
            Ok(made)
        }
        Err(e) if e.errno == Errno::ENOENT => {
            let mut prefix = PathBuf::new();
            for (name, made) in path.components().zip(&mut made) {
                prefix.push(name);
                *made = mkdir(&prefix)?;
            }
            Ok(made)
        }
        Err(e) => Err(e),
    }
}

/// Enables the root's controllers in every directory above the leaf. Usually an earlier container has seen to that, so the
/// leaf is asked first. A failure is no error here: a cgroup with processes cannot, and nobody may need the controller.
fn enable_controllers(host: &Host, leaf: &Cgroup, names: &[&OsStr]) {
    let missing = |have: &str, in_list: &str| -> Vec<String> {
        let list: Vec<_> = in_list.split_whitespace().collect();
        have.split_whitespace().filter(|c| !list.contains(c)).map(|c| format!("+{c}")).collect()
    };
    let controllers = |dir: BorrowedFd<'_>| read(dir, "cgroup.controllers").unwrap_or_default();
    if missing(&host.controllers, &controllers(leaf.as_fd())).is_empty() {
        return;
    }
    let mut above: Option<OwnedFd> = None;
    let mut have = host.controllers.clone();
    for name in names {
        let dir = above.as_ref().map_or(host.as_fd(), |dir| dir.as_fd());
        let Ok(child) = open_dir(dir, *name) else { return };
        let wanted = missing(&have, &controllers(child.as_fd()));
        if !wanted.is_empty() && write(dir, "cgroup.subtree_control", &wanted.join(" ")).is_err() {
            for one in &wanted {
                let _ = write(dir, "cgroup.subtree_control", one);
            }
        }
        have = controllers(child.as_fd());
        above = Some(child);
    }
}

/// Whether the errno says that the cgroup (or the file of it) is no more.
pub(super) fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV)
}

/// Opens a cgroup by a path below another, without leaving the file system or following anything.
fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).call("openat2", || format!("cgroup2, {path:?}"))
}

/// Opens a cgroup in another.
pub(super) fn open_dir<N: rustix::path::Arg + std::fmt::Debug + Copy>(
    dir: BorrowedFd<'_>,
    name: N,
) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat", || format!("cgroup, {name:?}"))
}

/// Opens the cgroup above. It is always the same one: on cgroup v2 a cgroup cannot be moved.
pub(super) fn open_parent(dir: BorrowedFd<'_>) -> sys::Result<OwnedFd> {
    open_dir(dir, "..")
}

/// Removes a cgroup from another.
pub(super) fn rmdir<N: rustix::path::Arg + std::fmt::Debug + Copy>(dir: BorrowedFd<'_>, name: N) -> sys::Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).call("unlinkat", || format!("cgroup, {name:?}, AT_REMOVEDIR"))
}

/// Opens a file of a cgroup.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &str, access: OFlags) -> sys::Result<OwnedFd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat", || format!("cgroup, {name:?}"))
}

/// Reads a file of a cgroup whole.
pub(super) fn read(dir: BorrowedFd<'_>, name: &str) -> sys::Result<String> {
    let file = open_file(dir, name, OFlags::RDONLY)?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer)).call("read", || format!("{name:?}"))? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Writes a file of a cgroup, in one write: the kernel takes each as a whole value.
pub(super) fn write(dir: BorrowedFd<'_>, name: &str, value: &str) -> sys::Result<()> {
    let file = open_file(dir, name, OFlags::WRONLY)?;
    // An empty value (cpuset.cpus by `unified`) must reach the kernel as well.
    let bytes = if value.is_empty() { b"\n" } else { value.as_bytes() };
    rustix::io::retry_on_intr(|| rustix::io::write(&file, bytes))
        .map(drop)
        .call("write", || format!("{name:?}, {value:?}"))
}
