//! `start`: tells the waiting process to go on, and waits until it has become the container's.

use std::os::fd::AsFd;

use super::explain;
use super::sync::{self, FromChild, Report, ToChild};
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::state::{Action, Container, START, State, Status, remove_start};
use crate::sys::page::Page;
use crate::sys::socket;

/// Starts a created container.
///
/// # Errors
/// It is in another state; or why execve failed, after which the container is stopped.
pub fn start(container: &Container, state: &State) -> Result<()> {
    let status = container.status(state)?;
    status.allows(Action::Start)?;
    let already = || Status::Running.allows(Action::Start).err().unwrap_or_else(|| Error::new("already started"));
    let Some(init) = container.init(state)? else { return Err(stopped()) };
    let peer = socket::connect(container.dir.as_fd(), START).map_err(|_| already())?;
    let (page, fd) = Page::new().doing("make the page for errors")?;
    faults::at("starter", "before-go")?;
    if sync::tell(&peer, &ToChild::Go(Some(fd))).is_err() {
        return Err(match sync::listen(peer.as_fd()) {
            Ok(Some(FromChild::Failed(report))) => explain(report.error()),
            _ => already(),
        });
    }
    faults::at("starter", "after-go")?;
    // The answer, and then the end of file. Another start may have been faster, and its execve resets us.
    let mut answered = false;
    loop {
        let [spoke, ended] =
            socket::wait_any([peer.as_fd(), init.as_fd()], None).doing("wait for the container's process")?;
        if !spoke && ended {
            break;
        }
        match sync::listen(peer.as_fd()) {
            Ok(Some(FromChild::Ready)) => {
                faults::at("starter", "after-answer")?;
                answered = true;
            }
            Ok(Some(FromChild::Failed(report))) => return Err(explain(report.error())),
            Ok(None) => break,
            Err(_) => return Err(already()),
        }
    }
    faults::at("starter", "after-end")?;
    match Report::from_bytes(&page.read()) {
        Some(report) => Err(explain(report.error())),
        None if !answered => Err(stopped()), // it was killed before it could go on
        None => {
            remove_start(&container.dir);
            Ok(())
        }
    }
}

fn stopped() -> Error {
    Status::Stopped.allows(Action::Start).err().unwrap_or_else(|| Error::new("container not running"))
}
