//! What a failed create has made is unmade, in reverse; and `delete`.

use std::os::fd::{AsFd, OwnedFd};

use super::hooks;
use super::prepare::Prepared;
use crate::cgroup;
use crate::cgroup::systemd::bus;
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::plan::Hooks;
use crate::state::{self, Container, State};
use crate::sys::clone::{self, Child};
use crate::sys::socket;

/// A container that is being made.
pub struct Half {
    /// Its directory.
    pub container: Container,
    /// Trees and the cgroup.
    pub prepared: Prepared,
    /// The child, not reaped yet.
    pub child: Option<Child>,
    /// Hooks have run, so those that clean up after them run, too.
    pub hooked: bool,
}

/// Ends the child and removes cgroup and directory; what fails there is attached to the error.
pub fn undo(half: Half, hooks: Option<&Hooks>, error: Error) -> Error {
    let mut error = error;
    if let Some(child) = &half.child {
        let _ = clone::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
        error = error.and(clone::wait(&child.pidfd).map(drop).doing("wait for the container's process"));
    }
    // Whoever removed the directory has removed the cgroup, too; what is there now is somebody else's. Whatever failed here
    // has failed because of that.
    let Ok(_lock) = half.container.lock() else { return state::deleted() };
    if let Some(cgroup) = half.prepared.cgroup {
        let ours = cgroup.is_fresh() || half.prepared.unit.is_some();
        let killed = if ours { cgroup.kill_all() } else { Ok(()) };
        error = error.and(killed).and(cgroup.undo());
    }
    if let Some(unit) = &half.prepared.unit {
        error = error.and(bus::stop(unit));
    }
    let error = error.and(half.container.remove());
    match hooks.filter(|_| half.hooked) {
        Some(hooks) => hooks::poststop(hooks).into_iter().fold(error, |error, e| error.and(Err(e))),
        None => error,
    }
}

/// The lock, for a `delete --force`. Whoever holds it may be a `start` whose process does not answer (it was stopped, or its
/// cgroup frozen): with the end of the process ends the wait.
pub fn lock_by_force(container: &Container) -> Result<OwnedFd> {
    if let Some(lock) = container.try_lock()? {
        return Ok(lock);
    }
    if let Ok(Some(state)) = container.read()
        && let Ok(Some(init)) = container.init(&state)
    {
        let _ = clone::pidfd_send_signal(&init, libc::SIGKILL);
    }
    container.lock()
}

/// Removes a container: its processes, its cgroup, its directory. The caller holds the lock.
pub fn delete(container: &Container, state: Option<&State>, log: &mut Log) -> Result<()> {
    let init = state.map(|s| container.init(s)).transpose()?.flatten();
    if let Some(init) = &init {
        match clone::pidfd_send_signal(init, libc::SIGKILL) {
            Err(e) if e.errno != nix::errno::Errno::ESRCH => return Err(e).doing("kill the container's process"),
            _ => {}
        }
    }
    if let Some(path) = state.and_then(|s| s.cgroup.as_ref()).map(|c| &c.path)
        && let Some(cgroup) = cgroup::open_existing(path)?
    {
        cgroup.kill_and_remove()?;
    }
    if let Some(cgroup) = state.and_then(|s| s.cgroup.as_ref()) {
        super::unit::stop(cgroup)?;
    }
    if let Some(init) = &init {
        // Without a cgroup of its own it has not been waited for yet.
        let [ended] = socket::wait_any([init.as_fd()], Some(10)).doing("wait for the container's process")?;
        if !ended {
            return Err(Error::new("the container's process does not end, 10 s after SIGKILL")
                .hint("it may be in an uninterruptible wait (state D in /proc/PID/stat)"));
        }
    }
    container.remove()?;
    if let Some(hooks) = state.map(|s| hooks::saved(s, "\"poststop\"")).transpose()?.flatten() {
        log.warnings(hooks::poststop(&hooks).iter().map(ToString::to_string).collect());
    }
    Ok(())
}
