//! `start`: tells the waiting process to go on, and waits until it has become the container's.

use std::os::fd::AsFd;

use super::hooks::Watch;
use super::sync::{self, FromChild, Report, ToChild};
use super::{explain, hooks};
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::plan::Hooks;
use crate::state::{Action, Container, START, Status, remove_start};
use crate::sys::clone;
use crate::sys::page::Page;
use crate::sys::socket;

/// Starts a created container. The lock is held until the process has answered: nobody else may start or delete it, so if it
/// does not answer it has ended.
///
/// # Errors
/// It is in another state; or why execve failed, after which the container is stopped.
pub fn start(container: &Container) -> Result<()> {
    let mut lock = Some(container.lock()?);
    let state = container.load()?;
    container.status(&state)?.allows(Action::Start)?;
    let Some(init) = container.init(&state)? else { return Err(stopped()) };
    let peer = socket::connect(container.dir.as_fd(), START).map_err(|_| stopped())?;
    let (page, fd) = Page::new().doing("make the page for errors")?;
    faults::at("starter", "before-go")?;
    if sync::tell(&peer, &ToChild::Go(Some(fd))).is_err() {
        return Err(match sync::listen(peer.as_fd()) {
            Ok(Some(FromChild::Failed(report))) => explain(report.error()),
            _ => stopped(),
        });
    }
    faults::at("starter", "after-go")?;
    // The answer, and then the end of file.
    loop {
        let [spoke, ended] =
            socket::wait_any([peer.as_fd(), init.as_fd()], None).doing("wait for the container's process")?;
        if !spoke && ended {
            break;
        }
        match sync::listen(peer.as_fd()) {
            Ok(Some(FromChild::Ready)) => {
                faults::at("starter", "after-answer")?;
                lock = None;
            }
            Ok(Some(FromChild::Failed(report))) => return Err(explain(report.error())),
            Ok(None) => break,
            Ok(Some(FromChild::Hooks | FromChild::Entered(_))) | Err(_) => return Err(stopped()),
        }
    }
    faults::at("starter", "after-end")?;
    match Report::from_bytes(&page.read()) {
        Some(report) => Err(explain(report.error())),
        None if lock.is_some() => Err(stopped()), // it was killed before it could answer
        None => {
            remove_start(&container.dir);
            poststart(hooks::saved(&state, "\"poststart\"")?.as_ref(), state.pid, &init, Watch::None)
        }
    }
}

/// The hooks poststart. If one fails the container is stopped, as runc has it.
///
/// # Errors
/// The first one that fails.
pub fn poststart(hooks: Option<&Hooks>, pid: i32, init: impl AsFd, watch: Watch<'_>) -> Result<()> {
    let Some(hooks) = hooks.filter(|h| !h.poststart.is_empty()) else { return Ok(()) };
    let done = hooks::run(hooks, &hooks.poststart, pid, "running", &hooks::bundle(hooks)?, watch);
    if done.is_err() {
        let _ = clone::pidfd_send_signal(init, libc::SIGKILL);
    }
    done
}

fn stopped() -> Error {
    Status::Stopped.allows(Action::Start).err().unwrap_or_else(|| Error::new("container not running"))
}
