//! `cgroup.events`, and what is waited for in it: that no process is left, that all are frozen.
//!
//! The kernel wakes a poll(2) for POLLPRI when the file has changed since it was last read, so nothing is missed between
//! a read and the poll after it. Nobody waits without an end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, inotify};

use super::fs::{Cgroup, gone, open_file, open_parent, read, write};
use super::tree::walk;
use crate::error::{Doing, Error, Origin, Result};
use crate::sys::{self, Call, socket};

/// How long every process may take to freeze or to go: as long as runc gives it to freeze. One in an uninterruptible
/// sleep takes as long as its device does.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What `cgroup.events` says, of the cgroup and of all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// There are processes. A zombie is none.
    pub populated: bool,
    /// All processes are stopped, by this cgroup or one above it; or there are none and they would be.
    pub frozen: bool,
}

/// A cgroup that is gone has no processes.
const GONE: Events = Events { populated: false, frozen: false };

/// The open `cgroup.events` of a cgroup: to be polled for POLLPRI, and read after each wake-up.
#[derive(Debug)]
pub struct Watch(Option<OwnedFd>);

impl Watch {
    /// Opens it in a cgroup.
    pub(super) fn open(cgroup: BorrowedFd<'_>) -> sys::Result<Watch> {
        match open_file(cgroup, "cgroup.events", OFlags::RDONLY) {
            Ok(file) => Ok(Watch(Some(file))),
            Err(e) if gone(e.errno) => Ok(Watch(None)),
            Err(e) => Err(e),
        }
    }

    /// The descriptor to poll for POLLPRI, unless the cgroup is gone.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// What it says now.
    ///
    /// # Errors
    /// The file cannot be read; a cgroup that is gone is no error.
    pub fn read(&self) -> sys::Result<Events> {
        Ok(self.look()?.unwrap_or(GONE))
    }

    /// None when the cgroup is gone.
    fn look(&self) -> sys::Result<Option<Events>> {
        let Some(file) = &self.0 else { return Ok(None) };
        let mut buffer = [0; 256];
        // The kernel shows the file whole in one read, and only from its beginning.
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer, 0));
        match read.call("pread", || "\"cgroup.events\"".into()) {
            Ok(n) => Ok(Some(parse(&String::from_utf8_lossy(&buffer[..n])))),
            Err(e) if gone(e.errno) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until `done` or the cgroup is gone, and at most until `deadline`. Says what it was at the end. `cgroup` is the
    /// one whose file this is.
    ///
    /// # Errors
    /// The file cannot be read or polled.
    pub(super) fn wait(
        &self,
        cgroup: BorrowedFd<'_>,
        deadline: Instant,
        done: impl Fn(Events) -> bool,
    ) -> sys::Result<Events> {
        let mut removal = None;
        loop {
            let (Some(file), Some(events)) = (&self.0, self.look()?) else { return Ok(GONE) };
            let left = deadline.saturating_duration_since(Instant::now());
            if done(events) || left.is_zero() {
                return Ok(events);
            }
            match &removal {
                Some(removal) => poll(file.as_fd(), removal, left)?,
                // Nothing that happens from here on is missed: the file is read once more before the sleep.
                None => removal = Some(Removal::of(cgroup)?),
            }
        }
    }
}

/// Tells that a cgroup is removed, by somebody else: that wakes nobody who polls its files (tried on Linux 6.18), and the
/// inode that we hold open tells nothing of its end. The directory above it does (inotify(7), IN_DELETE).
#[derive(Debug)]
struct Removal(OwnedFd);

impl Removal {
    fn of(cgroup: BorrowedFd<'_>) -> sys::Result<Removal> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).call("inotify_init1", String::new)?;
        match open_parent(cgroup) {
            Ok(parent) => {
                let path = format!("/proc/self/fd/{}", parent.as_raw_fd());
                let what = inotify::WatchFlags::DELETE | inotify::WatchFlags::ONLYDIR;
                inotify::add_watch(&fd, &path, what).call("inotify_add_watch", || format!("{path:?}, IN_DELETE"))?;
            }
            Err(e) if gone(e.errno) => {} // the read that follows says so
            Err(e) => return Err(e),
        }
        Ok(Removal(fd))
    }

    /// Takes what has been told: only that it was told counts, since the file is read after it.
    fn clear(&self) {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|n| n > 0) {}
    }
}

/// Sleeps until the file has changed or a neighbour or the cgroup itself was removed, and no longer than `left`.
fn poll(file: BorrowedFd<'_>, removal: &Removal, left: Duration) -> sys::Result<()> {
    let mut fds = [PollFd::new(&file, PollFlags::PRI), PollFd::new(&removal.0, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&socket::timespec(left))) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        other => {
            other.call("poll", || "\"cgroup.events\", POLLPRI".into())?;
            removal.clear();
            Ok(())
        }
    }
}

/// Lines of a key and 0 or 1; a newer kernel may have more of them.
fn parse(text: &str) -> Events {
    let is_set = |key: &str| text.lines().any(|line| line.split_once(' ') == Some((key, "1")));
    Events { populated: is_set("populated"), frozen: is_set("frozen") }
}

impl Cgroup {
    /// Opens `cgroup.events`.
    ///
    /// # Errors
    /// It cannot be opened; a cgroup that is gone is no error.
    pub fn watch(&self) -> Result<Watch> {
        Watch::open(self.as_fd()).doing("look at the container's cgroup").map_err(|e| e.at(self.origin()))
    }

    /// What `cgroup.events` says now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn events(&self) -> Result<Events> {
        self.watch()?.read().doing("look at the container's cgroup").map_err(|e| e.at(self.origin()))
    }

    /// Whether there are processes, in it or below it.
    ///
    /// # Errors
    /// See [`Cgroup::events`].
    pub fn populated(&self) -> Result<bool> {
        Ok(self.events()?.populated)
    }

    /// Whether this cgroup is frozen or freezing by its own `cgroup.freeze`: not whether one above it is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        match read(self.as_fd(), "cgroup.freeze") {
            Ok(value) => Ok(value.trim() == "1"),
            Err(e) if gone(e.errno) => Ok(false),
            Err(e) => Err(Error::sys("look whether the container is paused", e).at(self.origin())),
        }
    }

    /// Stops all processes, and returns when the last one has stopped. One that does not within [`PATIENCE`] undoes it.
    ///
    /// # Errors
    /// The cgroup is gone; not all processes could be stopped.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)?;
        // A cgroup that has processes of its own says "frozen" when these are, before those below it are (Linux 6.18,
        // kernel/cgroup/freezer.c, cgroup_update_frozen): so each one is asked.
        let deadline = Instant::now() + PATIENCE;
        let mut all = true;
        let waited = walk(
            self.as_fd(),
            |dir| {
                let events = Watch::open(dir)?.wait(dir, deadline, |events| events.frozen)?;
                all &= events.frozen || events == GONE;
                Ok(())
            },
            |_, _| Ok(()),
        );
        let frozen = waited.doing("wait for the container's processes to freeze").map_err(|e| e.at(self.origin()));
        match frozen {
            Ok(()) if all => Ok(()),
            Ok(()) => {
                let error = Error::new(format!("not all processes could be frozen within {} s", PATIENCE.as_secs()));
                let error =
                    error.at(self.origin()).hint("a process in an uninterruptible sleep (state D in ps) cannot be");
                Err(error.and(self.set_frozen(false)))
            }
            Err(e) => Err(e.and(self.set_frozen(false))),
        }
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// The cgroup is gone; one above it is frozen as well.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)?;
        if !self.wait_for(Instant::now() + PATIENCE, |events| !events.frozen)?.frozen {
            return Ok(());
        }
        let error = Error::new("the container's cgroup is still frozen").at(self.origin());
        Err(error.hint("a cgroup above it is frozen: write 0 to its cgroup.freeze"))
    }

    /// Waits for what the cgroup's own `cgroup.events` says.
    pub(super) fn wait_for(&self, deadline: Instant, done: impl Fn(Events) -> bool) -> Result<Events> {
        let events = self.watch()?.wait(self.as_fd(), deadline, done);
        events.doing("wait for the container's cgroup").map_err(|e| e.at(self.origin()))
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let (value, doing) = if frozen { ("1", "freeze") } else { ("0", "thaw") };
        write(self.as_fd(), "cgroup.freeze", value)
            .doing(format!("{doing} the container's cgroup"))
            .map_err(|e| e.at(self.origin()))
    }

    /// Names the cgroup in an error that no field of config.json is to blame for.
    pub(super) fn origin(&self) -> Origin {
        Origin::new("cgroup", self.path().display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        for (text, populated, frozen) in [
            ("populated 1\nfrozen 0\n", true, false),
            ("populated 0\nfrozen 1\n", false, true),
            ("new 7\npopulated 1\nfrozen 1\n", true, true),
            ("", false, false),
        ] {
            assert_eq!(parse(text), Events { populated, frozen });
        }
    }
}
