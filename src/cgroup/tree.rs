//! What goes over the container's cgroup and all cgroups below it: which processes there are, signals, removal.
//!
//! A container that owns its cgroup may nest others as deeply as it likes, so nothing here recurses or keeps a descriptor
//! for each level. The names come from the kernel's own listing.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::fs::{Dir, FileType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::freeze::PATIENCE;
use super::fs::{Cgroup, gone, open_dir, open_parent, read, rmdir, write};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, Call, SysError};

/// How often the processes are listed again for new ones. One that forks as fast as we list would go on for ever.
const ROUNDS: usize = 64;

/// How long after a kill to kill again.
const KILL_AGAIN: Duration = Duration::from_millis(100);

impl Cgroup {
    /// The processes in it and below it, as pids of our own pid namespace, in ascending order.
    ///
    /// # Errors
    /// `cgroup.procs` cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        let listed = walk(
            self.as_fd(),
            |dir| match read(dir, "cgroup.procs") {
                Ok(list) => {
                    // A process of a pid namespace that we do not see is listed as 0.
                    pids.extend(list.lines().filter_map(|pid| pid.parse().ok()).filter(|&pid: &i32| pid > 0));
                    Ok(())
                }
                // A threaded cgroup: its processes are listed in the domain above it.
                Err(e) if e.errno == Errno::EOPNOTSUPP || gone(e.errno) => Ok(()),
                Err(e) => Err(e),
            },
            |_, _| Ok(()),
        );
        listed.doing("list the container's processes").map_err(|e| e.at(self.origin()))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills every process in it and below it at once, frozen ones and those that are just being forked as well
    /// (cgroup.kill, Linux 5.14). It returns before they are gone: [`Cgroup::remove`] waits for them.
    ///
    /// # Errors
    /// The file cannot be written; a cgroup that is gone is none.
    pub fn kill_all(&self) -> Result<()> {
        match write(self.as_fd(), "cgroup.kill", "1") {
            Err(e) if gone(e.errno) => Ok(()),
            other => other.doing("kill the container's processes").map_err(|e| e.at(self.origin())),
        }
    }

    /// Sends a signal to every process in it and below it, by `send` on a pidfd of each. One that has just been forked
    /// gets it as well, one that has just ended is none, and a pid that was reused by a process elsewhere is never hit:
    /// after the pidfd was opened the pid is still in the list, or it is not used.
    ///
    /// # Errors
    /// `send` fails, other than by ESRCH; the processes cannot be listed.
    pub fn signal_all(&self, mut send: impl FnMut(BorrowedFd<'_>) -> sys::Result<()>) -> Result<()> {
        let mut sent = HashSet::new();
        let mut pids = self.pids()?;
        for _ in 0..ROUNDS {
            let mut opened = Vec::new();
            for &pid in pids.iter().filter(|pid| !sent.contains(*pid)) {
                if let Some(pidfd) = open_pid(pid).doing("open a process of the container")? {
                    opened.push((pid, pidfd));
                }
            }
            if opened.is_empty() {
                break;
            }
            pids = self.pids()?;
            for (pid, pidfd) in opened.iter().filter(|(pid, _)| pids.binary_search(pid).is_ok()) {
                match send(pidfd.as_fd()) {
                    Err(e) if e.errno == Errno::ESRCH => {}
                    other => other.doing("signal a process of the container").map_err(|e| e.at(self.origin()))?,
                }
                sent.insert(*pid);
            }
        }
        Ok(())
    }

    /// Removes it and all cgroups below it, and waits up to [`PATIENCE`] for its processes to be gone: kill them first.
    /// A cgroup that is gone already is none to remove.
    ///
    /// # Errors
    /// There are still processes; rmdir fails.
    pub fn remove(&self) -> Result<()> {
        self.remove_by(Instant::now() + PATIENCE)
    }

    /// Kills what is in it and removes it. A `create` at work may put its process into it after it was killed, so it is
    /// killed again until it is empty.
    ///
    /// # Errors
    /// As for [`Cgroup::remove`].
    pub fn kill_and_remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.kill_all()?;
            if self.try_remove(deadline.min(Instant::now() + KILL_AGAIN))? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.still_populated());
            }
        }
    }

    pub(super) fn remove_by(&self, deadline: Instant) -> Result<()> {
        if self.try_remove(deadline)? { Ok(()) } else { Err(self.still_populated()) }
    }

    /// Whether it could be removed: not if there are still processes at the deadline.
    fn try_remove(&self, deadline: Instant) -> Result<bool> {
        let doing = "remove the container's cgroup";
        let at = |e: Error| e.at(self.origin());
        let name = self.path().file_name().unwrap_or_default();
        let parent = match open_parent(self.as_fd()) {
            Err(e) if gone(e.errno) => return Ok(true),
            other => other.doing(doing).map_err(at)?,
        };
        // More than two rounds are only needed while somebody makes new ones, or processes go late.
        for _ in 0..ROUNDS {
            match rmdir(parent.as_fd(), name) {
                Err(e) if is_busy(e.errno) => {}
                Err(e) if gone(e.errno) => return Ok(true),
                other => return other.map(|()| true).doing(doing).map_err(at),
            }
            remove_children(self.as_fd()).doing(doing).map_err(at)?;
            if self.wait_for(deadline, |events| !events.populated)?.populated {
                return Ok(false);
            }
        }
        let error =
            at(Error::new("the container's cgroup could not be removed: new cgroups appear in it again and again"));
        Err(error.hint("something outside of the container makes them"))
    }

    /// What we waited for in vain.
    fn still_populated(&self) -> Error {
        let pids: Vec<_> = self.pids().unwrap_or_default().iter().map(i32::to_string).collect();
        let error = Error::new(format!(
            "waited {} s for the container's processes to end; still there: {}",
            PATIENCE.as_secs(),
            if pids.is_empty() { "some that we cannot see".into() } else { pids.join(", ") }
        ));
        error
            .at(self.origin())
            .hint("a process in an uninterruptible sleep (state D in ps) ends when its device answers")
    }
}

fn is_busy(errno: Errno) -> bool {
    matches!(errno, Errno::EBUSY | Errno::ENOTEMPTY)
}

/// Removes the cgroups below this one, as far as they have no processes.
fn remove_children(top: BorrowedFd<'_>) -> sys::Result<()> {
    walk(
        top,
        |_| Ok(()),
        |parent, name| match rmdir(parent, name) {
            Err(e) if is_busy(e.errno) || gone(e.errno) => Ok(()),
            other => other,
        },
    )
}

/// Goes over a cgroup and all below it: `enter` before its children, and `leave`, with the parent and the name, after them
/// (not for `top`). One that vanishes meanwhile is passed over. One descriptor is open at a time: the way back is "..",
/// which is safe, since on cgroup v2 a cgroup cannot be moved.
pub(super) fn walk(
    top: BorrowedFd<'_>,
    mut enter: impl FnMut(BorrowedFd<'_>) -> sys::Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> sys::Result<()>,
) -> sys::Result<()> {
    enter(top)?;
    // For each level on the way from `top` down to `dir`: its name, and the names of its children still to be visited.
    let mut levels: Vec<(CString, Vec<CString>)> = vec![(CString::default(), children(top)?)];
    let mut dir: Option<OwnedFd> = None;
    while let Some((_, names)) = levels.last_mut() {
        let here = dir.as_ref().map_or(top, |dir| dir.as_fd());
        if let Some(name) = names.pop() {
            match open_dir(here, name.as_c_str()) {
                Ok(child) => {
                    enter(child.as_fd())?;
                    levels.push((name, children(child.as_fd())?));
                    dir = Some(child);
                }
                Err(e) if gone(e.errno) => {}
                Err(e) => return Err(e),
            }
        } else if let Some((name, _)) = levels.pop()
            && !levels.is_empty()
        {
            let up = open_parent(here)?;
            leave(up.as_fd(), &name)?;
            dir = Some(up);
        }
    }
    Ok(())
}

/// The names of the cgroups in a cgroup.
fn children(dir: BorrowedFd<'_>) -> sys::Result<Vec<CString>> {
    let list = || -> rustix::io::Result<Vec<CString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            if entry.file_type() == FileType::Directory && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    };
    match list().call("getdents64", || "cgroup".into()) {
        Err(e) if gone(e.errno) => Ok(Vec::new()),
        other => other,
    }
}

/// A pidfd, or None when there is no such process any more.
fn open_pid(pid: i32) -> sys::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()).call("pidfd_open", || pid.to_string()) {
        // EINVAL: the pid is a thread's by now.
        Err(SysError { errno: Errno::ESRCH | Errno::EINVAL, .. }) => Ok(None),
        other => other.map(Some),
    }
}
