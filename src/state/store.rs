//! `ROOT/ID/tare.json`, written to a temporary file and renamed. The directory is the container's name: making it takes
//! the id, and whoever holds its lock (flock(2) on the directory) may change or remove what is in it. No lock is held
//! over clone3(2), since the child would hold it, too.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Status;
use crate::cgroup;
use crate::cgroup::systemd::Unit;
use crate::error::{Doing, Error, Result};
use crate::host;
use crate::sys::{self, Call, clone, socket};

/// The format that this version writes. Older ones are read for ever.
pub const VERSION: u32 = 1;
const FILE: &str = "tare.json";
const TEMPORARY: &str = ".tare.json.new";
/// The start socket.
pub const START: &str = "start";
/// Everything that may lie in a container's directory.
const OURS: [&str; 3] = [FILE, TEMPORARY, START];
/// Bytes of a state file; config.json is in it.
const LONGEST: u64 = 80 << 20;

/// What is kept of a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Format of this file.
    pub version: u32,
    /// The id, which is the directory's name, too.
    pub id: String,
    /// The boot that the pid belongs to.
    pub boot_id: String,
    /// `create` has not come to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub creating: bool,
    /// The init process, in the pid namespace of whoever created it; 0 while there is none.
    pub pid: i32,
    /// Its start time in clock ticks since boot, to tell it from a later process of the same pid.
    pub start_time: u64,
    /// The inode of its pidfd, unique for a boot (Linux 6.9); 0 on older kernels.
    #[serde(default)]
    pub pidfd_inode: u64,
    /// The cgroup, if there is one.
    pub cgroup: Option<CgroupState>,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The rootfs's absolute path.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339 with nanoseconds.
    pub created: String,
    /// The user id of who created it.
    pub owner: u32,
    /// config.json as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
}

/// Where the container's cgroup is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CgroupState {
    /// `cgroupfs` or `systemd`
    pub driver: String,
    /// Below the cgroup2 mount.
    pub path: PathBuf,
    /// The unit, with systemd. Later commands are not told of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// The part of a state file that every version has: enough for `state`, `kill` and `delete --force`.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// `--root`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A container's directory.
#[derive(Debug)]
pub struct Container {
    /// The directory, to find files in it whatever its path.
    pub dir: OwnedFd,
    /// Its path, for messages.
    pub path: PathBuf,
    id: String,
}

/// Names: `[A-Za-z0-9_+.-]{1,255}`, not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    if id.is_empty() {
        return Err(Error::new("container id cannot be empty"));
    }
    if id.len() > 255 || id == "." || id == ".." || !id.chars().all(good) {
        return Err(Error::new(format!("invalid container id format: {id:?}"))
            .hint("letters, digits and _ + . - only, at most 255"));
    }
    Ok(())
}

/// `delete --force` was faster than a `create`.
pub fn deleted() -> Error {
    Error::new("the container was deleted while it was created")
}

fn missing() -> Error {
    Error::new("container does not exist")
}

impl Store {
    /// The store in this directory, which need not be there.
    pub fn new(root: PathBuf) -> Self {
        Store { root }
    }

    /// Takes the id by making its directory.
    pub fn create(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let path = self.root.join(id);
        let make = || rustix::fs::mkdir(&path, Mode::from_raw_mode(0o711)).call("mkdir", || format!("{path:?}"));
        let made = match make() {
            Err(e) if e.errno == Errno::ENOENT => {
                use std::os::unix::fs::DirBuilderExt;
                let mut builder = std::fs::DirBuilder::new();
                let root = builder.recursive(true).mode(0o711).create(&self.root);
                root.call("mkdir", || format!("{:?}", self.root))
                    .doing("make the state directory")
                    .map_err(|e| e.field("--root"))?;
                make()
            }
            r => r,
        };
        match made {
            Err(e) if e.errno == Errno::EEXIST => {
                return Err(Error::new(format!("container with given ID already exists: {id}"))
                    .hint("tare state tells how it is; tare delete frees the id"));
            }
            r => r.doing("make the container's state directory").map_err(|e| e.field("--root"))?,
        }
        self.open(id).map_err(|_| deleted())
    }

    /// The container's directory.
    ///
    /// # Errors
    /// "container does not exist", and a directory that is a link or somebody else's is refused.
    pub fn open(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let path = self.root.join(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(&path, flags, Mode::empty()).call("open", || format!("{path:?}")) {
            Err(e) if e.errno == Errno::ENOENT => return Err(missing()),
            r => r.doing("open the container's state directory")?,
        };
        Ok(Container { dir, path, id: id.into() })
    }

    /// The ids of all directories; some may be other runtimes'.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.root).call("open", || format!("{:?}", self.root)) {
            Err(e) if e.errno == Errno::ENOENT => return Ok(Vec::new()),
            r => r.doing("list the state directory").map_err(|e| e.field("--root"))?,
        };
        let name = |e: std::fs::DirEntry| e.file_name().into_string().ok().filter(|n| check_id(n).is_ok());
        let mut ids: Vec<_> =
            entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).filter_map(name).collect();
        ids.sort();
        Ok(ids)
    }
}

impl Container {
    /// Waits for the lock and holds it as long as the returned descriptor lives. It is a new open of the directory, so
    /// that no child of an earlier clone3(2) shares it.
    ///
    /// # Errors
    /// "container does not exist" if it was removed meanwhile.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.flock(FlockOperation::LockExclusive)?.ok_or_else(|| Error::new("the container's state is locked"))
    }

    /// The lock, or `None` if somebody else holds it.
    ///
    /// # Errors
    /// As for [`Container::lock`].
    pub fn try_lock(&self) -> Result<Option<OwnedFd>> {
        self.flock(FlockOperation::NonBlockingLockExclusive)
    }

    fn flock(&self, how: FlockOperation) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, ".", flags, Mode::empty()).call("openat", || format!("{:?}", self.path));
        let fd = match fd {
            Err(e) if e.errno == Errno::ENOENT => return Err(missing()),
            r => r.doing("open the container's state directory")?,
        };
        loop {
            match rustix::fs::flock(&fd, how) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                r => break r.call("flock", || format!("{:?}", self.path)).doing("lock the container's state")?,
            }
        }
        if self.is_removed()? { Err(missing()) } else { Ok(Some(fd)) }
    }

    /// Whether somebody has removed the directory: then nothing here is ours any more, not even the cgroup.
    pub fn is_removed(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(&self.dir).call("fstat", || format!("{:?}", self.path));
        Ok(stat.doing("look at the container's state directory")?.st_nlink == 0)
    }

    /// Writes the state, whole or not at all.
    pub fn write(&self, state: &State) -> Result<()> {
        let what = "write the container's state";
        let json = serde_json::to_vec(state).map_err(|e| Error::new(format!("{what}: {e}")))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let args = || format!("{:?}", self.path.join(TEMPORARY));
        let file = rustix::fs::openat(&self.dir, TEMPORARY, flags, Mode::from_raw_mode(0o600)).call("openat", args);
        let file = file.doing(what)?;
        let mut rest = json.as_slice();
        while !rest.is_empty() {
            let n = rustix::io::write(&file, rest).call("write", args).doing(what)?;
            rest = &rest[n..];
        }
        rustix::fs::renameat(&self.dir, TEMPORARY, &self.dir, FILE).call("rename", args).doing(what)
    }

    /// Reads the state; `None` if there is no state file (yet, or it is another runtime's directory).
    ///
    /// # Errors
    /// A state file that is a link, somebody else's, truncated or too long.
    pub fn read(&self) -> Result<Option<State>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let args = || format!("{:?}", self.path.join(FILE));
        let file = match rustix::fs::openat(&self.dir, FILE, flags, Mode::empty()).call("openat", args) {
            Err(e) if e.errno == Errno::ENOENT => return Ok(None),
            r => r.doing("open the container's state")?,
        };
        let stat = rustix::fs::fstat(&file).call("fstat", args).doing("look at the container's state")?;
        let me = rustix::process::geteuid().as_raw();
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o022 != 0 {
            return Err(Error::new(format!("{} is not a file that only its owner may write", args())));
        }
        if stat.st_uid != me {
            return Err(Error::new(format!("{} belongs to user {}, not to {me}", args(), stat.st_uid)));
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(std::fs::File::from(file), LONGEST), &mut text)
            .call("read", args)
            .doing("read the container's state")?;
        let broken = |e: serde_json::Error| {
            Error::new(format!("the container's state {} is broken: {e}", args()))
                .hint("tare delete --force removes it")
        };
        let any: AnyVersion = serde_json::from_str(&text).map_err(broken)?;
        match serde_json::from_str::<State>(&text) {
            Err(e) if any.version > VERSION => Err(Error::new(format!(
                "the container's state has format {}, this version knows up to {VERSION}: {e}",
                any.version
            ))),
            r => r.map_err(broken).map(Some),
        }
    }

    /// Reads the state of a container of ours.
    pub fn load(&self) -> Result<State> {
        match self.read()? {
            Some(state) if state.id == self.id => Ok(state),
            Some(state) => Err(Error::new(format!("the state in {:?} is that of {:?}", self.path, state.id))),
            None if self.is_foreign()? => Err(missing().hint("the directory of this name belongs to another runtime")),
            None => {
                Err(missing().hint("a create of this name is at work, or was killed: tare delete --force removes it"))
            }
        }
    }

    /// Whether there is something in the directory that tare does not make: it is another runtime's.
    pub fn is_foreign(&self) -> Result<bool> {
        Ok(self.names()?.iter().any(|n| !OURS.contains(&n.as_str())))
    }

    fn names(&self) -> Result<Vec<String>> {
        let dir = rustix::fs::Dir::read_from(&self.dir).call("getdents64", || format!("{:?}", self.path));
        let dir = dir.doing("list the container's state directory")?;
        let names = dir.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|n| n != "." && n != "..").collect())
    }

    /// Removes the directory and what tare put into it. Already gone is fine.
    pub fn remove(&self) -> Result<()> {
        for name in OURS {
            match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()).call("unlinkat", || format!("{name:?}")) {
                Err(e) if e.errno != Errno::ENOENT => return Err(e).doing("remove the container's state"),
                _ => {}
            }
        }
        match rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR).call("rmdir", || format!("{:?}", self.path)) {
            Err(e) if e.errno != Errno::ENOENT => Err(e).doing("remove the container's state directory"),
            _ => Ok(()),
        }
    }

    /// What state the container is in: by its init process, the start socket and its cgroup.
    pub fn status(&self, state: &State) -> Result<Status> {
        if state.creating {
            return Ok(Status::Creating);
        }
        if self.init(state)?.is_none() {
            return Ok(Status::Stopped);
        }
        if let Some(cgroup) = &state.cgroup
            && let Some(cgroup) = cgroup::open_existing(&cgroup.path)?
            && cgroup.is_frozen()?
        {
            return Ok(Status::Paused);
        }
        // Who waits for start listens. Connecting and leaving without a word does nothing.
        match socket::connect(self.dir.as_fd(), START) {
            Ok(_) => Ok(Status::Created),
            // It may have been killed since the first look, and never have run: the socket is closed on the way out, and the
            // file is removed after that.
            Err(e) => {
                let ending = || host::process(state.pid).is_none_or(|p| p.is_ending());
                let ended = self.init(state)?.is_none() || (e.errno == Errno::ECONNREFUSED && ending());
                Ok(if ended { Status::Stopped } else { Status::Running })
            }
        }
    }

    /// The pidfd of the init process, if it lives. The pid alone may be another's by now.
    pub fn init(&self, state: &State) -> Result<Option<OwnedFd>> {
        if state.pid <= 0 || state.boot_id != host::boot_id()? {
            return Ok(None);
        }
        let pidfd = match clone::pidfd_open(state.pid) {
            Err(e) if matches!(e.errno, Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            r => r.doing("find the container's process")?,
        };
        let inode = sys::clone::pidfd_inode(&pidfd);
        let lives = if state.pidfd_inode != 0 && inode != 0 {
            // A pidfd is readable once the process has ended, a zombie's too.
            state.pidfd_inode == inode
                && socket::wait_any([pidfd.as_fd()], Some(0)).doing("look at the container's process")? == [false]
        } else {
            host::process(state.pid).is_some_and(|p| p.start_time == state.start_time && !p.is_dead())
        };
        Ok(lives.then_some(pidfd))
    }
}

/// Removes the start socket once it has served.
pub fn remove_start(dir: impl AsFd) {
    let _ = rustix::fs::unlinkat(dir, START, AtFlags::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "A-b_c+d.e", "...", &"x".repeat(255)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", "@tare", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    fn state(id: &str) -> State {
        State {
            version: VERSION,
            id: id.into(),
            boot_id: host::boot_id().unwrap(),
            creating: false,
            pid: std::process::id() as i32,
            start_time: host::process(std::process::id() as i32).unwrap().start_time,
            pidfd_inode: 0,
            cgroup: None,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            owner: 0,
            config: None,
        }
    }

    fn store(name: &str) -> Store {
        let root = std::env::temp_dir().join(format!("tare-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        Store::new(root)
    }

    #[test]
    fn one_winner_and_a_clear_error() {
        let store = store("winner");
        let first = store.create("c").unwrap();
        assert!(store.create("c").unwrap_err().to_string().contains("container with given ID already exists"));
        assert!(first.load().unwrap_err().to_string().contains("container does not exist"));
        first.write(&state("c")).unwrap();
        assert_eq!(first.load().unwrap().id, "c");
        assert_eq!(store.ids().unwrap(), ["c"]);
        first.remove().unwrap();
        assert!(first.lock().unwrap_err().to_string().contains("does not exist"));
        assert!(store.open("c").unwrap_err().to_string().contains("container does not exist"));
        std::fs::remove_dir_all(&store.root).unwrap();
    }

    #[test]
    fn liveness_is_pid_start_time_and_boot() {
        let store = store("alive");
        let c = store.create("c").unwrap();
        let mut s = state("c");
        assert_eq!(c.status(&s).unwrap(), Status::Running);
        s.start_time += 1;
        assert_eq!(c.status(&s).unwrap(), Status::Stopped);
        s.start_time -= 1;
        s.boot_id = "another".into();
        assert_eq!(c.status(&s).unwrap(), Status::Stopped);
        let listening = socket::listen(c.dir.as_fd(), START).unwrap();
        assert_eq!(c.status(&state("c")).unwrap(), Status::Created);
        drop(listening);
        assert_eq!(c.status(&state("c")).unwrap(), Status::Running);
        std::fs::remove_dir_all(&store.root).unwrap();
    }

    #[test]
    fn broken_and_foreign_state_is_refused() {
        let store = store("broken");
        let c = store.create("c").unwrap();
        for (text, word) in [("", "broken"), ("{\"version\":1,\"id\":", "broken"), ("{\"version\":9}", "format 9")] {
            std::fs::write(c.path.join(FILE), text).unwrap();
            assert!(c.load().unwrap_err().to_string().contains(word), "{text}");
        }
        std::fs::remove_file(c.path.join(FILE)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", c.path.join(FILE)).unwrap();
        assert!(c.load().is_err());
        std::fs::remove_file(c.path.join(FILE)).unwrap();
        assert!(!c.is_foreign().unwrap());
        std::fs::write(c.path.join("state.json"), "{}").unwrap();
        assert!(c.is_foreign().unwrap());
        assert!(c.load().unwrap_err().to_string().contains("another runtime"));
        std::fs::remove_dir_all(&store.root).unwrap();
    }
}
