//! From clone3(2) until the child is ready, and on to its execve: what `create`, `run` and `exec` share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signalfd::SignalFd;

use super::cleanup::Half;
use super::sync::{self, FromChild, ToChild};
use super::{antechamber, explain, hooks, launch, unit};
use crate::cgroup::devices;
use crate::cgroup::freeze::Watch;
use crate::child::{Inherited, Join};
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::host;
use crate::log::Log;
use crate::plan::{Actor, Op, Plan, Tree};
use crate::seccomp;
use crate::state::{self, PAUSED};
use crate::sys::clone::{self, Child, Exit};
use crate::sys::page::Page;
use crate::sys::socket;

/// Seconds after which a wait says what it waits for.
const PATIENCE: i64 = 10;

/// What is said of a child that was killed: before it was ready, and since.
const KILLED: [&str; 2] = [
    "the container's process was killed before it was ready",
    "the container's process was killed while the container was created",
];

/// The parent, from clone3 until the child is ready.
pub struct Spawn<'a> {
    /// What is done.
    pub plan: &'a Plan,
    /// The signals that the caller has blocked: they end the wait.
    pub signals: &'a SignalFd,
    /// Where warnings go.
    pub log: &'a mut Log,
    /// What it means that the cgroup is frozen meanwhile.
    pub frozen: Frozen,
}

/// What it means that the cgroup is frozen while the child is waited for.
pub enum Frozen {
    /// `create`: nobody pauses what is not there yet, so it is a cgroup above, and an error.
    Above,
    /// `exec`: the container is paused, an error at once.
    Paused(Watch),
    /// `exec --ignore-paused`: somebody will resume it.
    Waits,
}

impl Spawn<'_> {
    /// Makes the child and does the parent's steps while it does its own.
    ///
    /// A cgroup whose cgroup.kill was written more often than that of the caller's kills what is born in it (Linux 6.18,
    /// 7.2): a child that SIGKILL takes before its first word is made once more and moved into the cgroup.
    pub fn run<'p>(&mut self, inherited: &mut Option<Inherited<'p>>, half: &mut Half) -> Result<OwnedFd> {
        let first = match self.try_once(inherited, half) {
            Err(e) => e,
            Ok(socket) => return Ok(socket),
        };
        // One that still lives is ended by the clean-up.
        let exit = half.child.take_if(|c| has_ended(c, 1)).map(|c| clone::wait(&c.pidfd));
        let killed = matches!(exit, Some(Ok(Exit::Signal(libc::SIGKILL))));
        // With a field it is explained already: the memory limit was too low.
        let explained = first.origin.is_some() || half.container.is_removed()?;
        if !killed || explained || half.hooked || inherited.as_ref().is_none_or(|i| !i.placed) {
            half.hooked |= exit.is_some(); // it may have run its own
            return Err(first);
        }
        self.log.debug(format!("once more, to be moved into the cgroup instead of being born in it: {first}"));
        if let Some(i) = inherited {
            i.placed = false;
        }
        self.try_once(inherited, half)
    }

    fn try_once<'p>(&mut self, inherited: &mut Option<Inherited<'p>>, half: &mut Half) -> Result<OwnedFd> {
        let (ours, theirs) = socket::pair().doing("make a socket pair")?;
        if let Some(i) = inherited {
            i.socket = Some(theirs);
        }
        let cgroup = half.prepared.cgroup.as_ref();
        let mut ours = Some(ours);
        let mapped = self.plan.namespaces.maps.is_some();
        if mapped {
            host::open_to_maps(true)?;
        }
        let child = launch::launch(self.plan, cgroup, inherited, &mut ours);
        if mapped {
            host::open_to_maps(false)?;
        }
        let child = child?;
        let ours = ours.ok_or_else(|| Error::new("the socket pair was lost"))?;
        let pid = child.pid;
        half.child = Some(child);
        // The child's end must be the child's alone, for its end of file to reach us.
        let placed = inherited.as_mut().is_none_or(|i| {
            i.socket = None;
            i.placed
        });
        let enters = inherited.as_ref().and_then(|i| i.join.as_ref()).is_some_and(Join::enters);
        let moved = match cgroup.filter(|_| !placed) {
            Some(cgroup) => cgroup.attach(pid).and_then(|()| {
                let tell = || sync::tell(&ours, &ToChild::Placed).doing("tell the child that it was moved");
                faults::message("parent", "placed", tell)
            }),
            None => Ok(()),
        };
        // An error of ours may only be the echo of the child's, whose own words are better.
        let enter = || {
            let tell = || sync::tell(&ours, &ToChild::Enter).doing("let the process enter the pid namespace");
            if enters { faults::message("parent", "enter", tell) } else { Ok(()) }
        };
        match moved.and_then(|()| self.own_steps(&ours, half)).and_then(|()| enter()) {
            Ok(()) => {}
            Err(e) if e.errno().is_some_and(is_gone) => {}
            // systemd takes away the cgroup of a child that has failed, while our steps still need it.
            Err(_) if half.prepared.unit.is_some() && half.child.as_ref().is_some_and(|c| has_ended(c, 0)) => {}
            Err(e) => return Err(e),
        }
        self.wait_ready(&ours, half, enters)?;
        Ok(ours)
    }

    /// The parent's steps after clone3: limits, device filter, seccomp.
    fn own_steps(&mut self, socket: &OwnedFd, half: &mut Half) -> Result<()> {
        let pid = half.child.as_ref().map_or(0, |c| c.pid);
        for (index, step) in self.plan.steps.iter().enumerate().filter(|(_, s)| s.by == Actor::ParentAfterMaps) {
            if faults::skips(&step.op) {
                continue;
            }
            faults::at("parent", index)
                .and_then(|()| self.own_step(&step.op, socket, half, pid))
                .map_err(|e| explain(e.at(step.origin.clone())))?;
        }
        Ok(())
    }

    fn own_step(&mut self, op: &Op, socket: &OwnedFd, half: &mut Half, pid: i32) -> Result<()> {
        let prepared = &half.prepared;
        let cgroup = || prepared.cgroup.as_ref().ok_or_else(|| Error::new("there is no cgroup"));
        match op {
            Op::StartUnit { .. } => {
                unit::start(op, self.plan, &mut half.prepared, pid)?;
                let tell = || sync::tell(socket, &ToChild::Placed).doing("tell the child that it was moved");
                faults::message("parent", "placed", tell)
            }
            Op::MapIds => {
                let maps = self.plan.namespaces.maps.as_ref().ok_or_else(|| Error::new("there are no mappings"))?;
                host::write_id_maps(pid, maps)?;
                let tell = || sync::tell(socket, &ToChild::Mapped).doing("tell the child that its ids are mapped");
                faults::message("parent", "mapped", tell)
            }
            Op::Delegate { uid } => cgroup()?.delegate(*uid),
            Op::RaiseRlimit { resource, name, hard } => crate::child::raise_rlimit(pid, *resource, name, *hard),
            Op::LimitCgroup { writes } => cgroup()?.apply(writes),
            Op::DeviceFilter { rules, optional } => {
                let others = devices::Others::of(prepared.unit.as_ref());
                match devices::apply(cgroup()?, rules, others) {
                    Err(e) if *optional && e.errno() == Some(Errno::EPERM) => {
                        self.log.debug(format!("without device rules: {e}"));
                        Ok(())
                    }
                    done => done,
                }
            }
            Op::OomScoreAdj { value } => match host::write_oom_score_adj(pid, *value) {
                // The files in /proc of a process of `exec` belong to the host's root; it keeps what the caller has.
                Err(e) if self.plan.tree == Tree::Joined && host::euid() != 0 && e.errno() == Some(Errno::EACCES) => {
                    self.log.debug(format!("{e}"));
                    Ok(())
                }
                done => done,
            },
            Op::CompileSeccomp { profile } => {
                let cache = antechamber::shared_folder("seccomp").ok();
                let filter = seccomp::compile_cached(profile, cache.as_ref().map(AsFd::as_fd))?;
                self.log.warnings(filter.warnings);
                let message = ToChild::Filter(filter.bpf, filter.flags);
                faults::message("parent", "filter", || sync::tell(socket, &message).doing("send the filter"))
            }
            _ => Err(Error::new("a step of another process was planned for the parent")),
        }
    }

    fn wait_ready(&mut self, socket: &OwnedFd, half: &mut Half, mut enters: bool) -> Result<()> {
        faults::at("parent", "before-ready")?;
        let mut ready = false;
        while enters || !ready {
            self.wait(socket.as_fd(), half)?;
            let word = match sync::listen(socket.as_fd()) {
                Err(e) if e.errno == Errno::ECONNRESET => Ok(None), // it has ended with a message of ours unread
                word => word,
            };
            match word.doing("wait for the container's process")? {
                Some(FromChild::Hooks) => self.runtime_hooks(socket, half)?,
                Some(FromChild::Entered(pidfd)) => {
                    faults::at("parent", "after-entered")?;
                    self.change(pidfd, half)?;
                    enters = false;
                }
                Some(FromChild::Ready) => {
                    faults::at("parent", "after-ready")?;
                    ready = true;
                }
                Some(FromChild::Failed(report)) => {
                    faults::at("parent", "after-failed")?;
                    return Err(explain(report.error()));
                }
                None => return Err(self.died(Error::new(KILLED[0]), half)),
            }
            if ready && let Some(first) = half.child.as_ref().filter(|_| enters) {
                // It says whom it has made before it ends.
                self.wait(first.pidfd.as_fd(), half)?;
                if socket::wait_any([socket.as_fd()], Some(0)).doing("wait for the container's process")? == [false] {
                    return Err(self.died(Error::new(KILLED[0]), half));
                }
            }
        }
        Ok(())
    }

    /// The child has made the one that takes its place, and ends.
    fn change(&mut self, pidfd: OwnedFd, half: &mut Half) -> Result<()> {
        let pid = clone::pid_of(&pidfd).doing("ask for the pid of the container's process")?;
        let Some(first) = half.child.replace(Child { pid, pidfd }) else { return Ok(()) };
        let ends = self.wait(first.pidfd.as_fd(), half);
        if ends.is_err() {
            let _ = clone::pidfd_send_signal(&first.pidfd, libc::SIGKILL);
        }
        ends.and(clone::wait(&first.pidfd).map(drop).doing("wait for the process that has made the container's"))
    }

    /// Waits until the child has said something or is gone (its socket or pidfd can be read); what it has said is better than
    /// any other reason to end.
    pub fn wait(&mut self, child: BorrowedFd<'_>, half: &Half) -> Result<()> {
        loop {
            let fds = [child, self.signals.as_fd()];
            let watch = if let Frozen::Paused(watch) = &self.frozen { Some(watch) } else { None };
            let watched = watch.and_then(Watch::poll_fd);
            let ([spoke, signalled], changed) =
                socket::wait_watching(fds, watched, PATIENCE).doing("wait for the container's process")?;
            if spoke {
                return Ok(());
            }
            if changed && watch.is_some_and(|w| w.read().is_ok_and(|events| events.frozen)) {
                return Err(Error::new(PAUSED));
            }
            if signalled && let Ok(Some(signal)) = self.signals.read_signal() {
                if let Some(name) = ends_the_wait(signal.ssi_signo as i32) {
                    let exec = self.plan.tree == Tree::Joined;
                    let before = if exec { "before the command ran" } else { "while the container was created" };
                    return Err(Error::new(format!("interrupted by {name} {before}")));
                }
            } else if !changed {
                let frozen = half.prepared.cgroup.as_ref().is_some_and(|c| c.is_frozen().unwrap_or(false));
                if frozen && matches!(self.frozen, Frozen::Above) {
                    return Err(Error::new("the container's cgroup is frozen, so its process cannot run")
                        .hint("a cgroup above it is frozen"));
                }
                self.log.debug(format!("waiting for the container's process for {PATIENCE} s more"));
            }
        }
    }

    /// The hooks prestart and createRuntime, now that the mounts are made.
    fn runtime_hooks(&mut self, socket: &OwnedFd, half: &mut Half) -> Result<()> {
        let Some(all) = &self.plan.hooks else { return Err(Error::new("there are no hooks")) };
        let pid = half.child.as_ref().map_or(0, |c| c.pid);
        half.hooked = true;
        let watch = hooks::Watch::Signals(self.signals);
        hooks::run(all, &all.create_runtime, pid, "creating", &hooks::bundle(all)?, watch)?;
        let tell = || match sync::tell(socket, &ToChild::Hooked) {
            Err(e) if is_gone(e.errno) => Ok(()), // its own words on that come next
            told => told.doing("tell the child that the hooks have run"),
        };
        faults::message("parent", "hooked", tell)
    }

    /// The child is gone without a word: why, if that can be told.
    pub fn died(&self, killed: Error, half: &Half) -> Error {
        if half.container.is_removed().unwrap_or(false) {
            return state::deleted();
        }
        const LIMIT: &str = "linux.resources.memory.limit";
        let cgroup = half.prepared.cgroup.as_ref();
        if let Some(peak) = cgroup.and_then(|c| c.oom_peak()) {
            let hint = format!("the memory limit is too low to start the container: {peak} bytes were in use at most");
            return killed.field(LIMIT).hint(hint);
        }
        // systemd takes an empty scope away at once, and with it the peak.
        let is_limit =
            |op: &Op| matches!(op, Op::StartUnit { limits, .. } if limits.iter().any(|w| w.file == "memory.max"));
        if self.plan.steps.iter().any(|s| is_limit(&s.op)) && cgroup.is_none_or(|c| c.is_gone()) {
            return killed.field(LIMIT).hint("perhaps the memory limit is too low to start the container");
        }
        killed
    }
}

/// A signal has come, which may end the wait.
fn interrupted(signals: &SignalFd) -> Result<()> {
    match signals.read_signal().ok().flatten().and_then(|signal| ends_the_wait(signal.ssi_signo as i32)) {
        Some(name) => Err(Error::new(format!("interrupted by {name} while the container was created"))),
        None => Ok(()),
    }
}

/// Signals that end a wait; the others stay for later.
pub fn ends_the_wait(signal: i32) -> Option<&'static str> {
    match signal {
        libc::SIGINT => Some("SIGINT"),
        libc::SIGTERM => Some("SIGTERM"),
        libc::SIGHUP => Some("SIGHUP"),
        libc::SIGQUIT => Some("SIGQUIT"),
        _ => None,
    }
}

/// Whether the process has ended, or does within so many seconds.
fn has_ended(child: &Child, seconds: i64) -> bool {
    matches!(socket::wait_any([child.pidfd.as_fd()], Some(seconds)), Ok([true]))
}

/// Lets the child go on, and waits until it has closed its socket: in `create` because it waits for `start`; with a page for
/// errors, by execve. `wait` may end that early.
///
/// # Errors
/// What the child has failed at since it was ready.
pub fn go(
    socket: &OwnedFd,
    page: Option<(Page, OwnedFd)>,
    signals: &SignalFd,
    wait: impl FnOnce() -> Result<()>,
) -> Result<()> {
    faults::at("parent", "before-go")?;
    let (page, page_fd) = page.unzip();
    match sync::tell(socket, &ToChild::Go(page_fd)) {
        // It has failed since it was ready, and its own words are better; or it was killed.
        Err(e) if is_gone(e.errno) => match sync::listen(socket.as_fd()) {
            Ok(Some(FromChild::Failed(report))) => return Err(explain(report.error())),
            _ => return Err(killed()),
        },
        told => told.doing("let the container's process go on")?,
    }
    faults::at("parent", "after-go")?;
    wait()?;
    last_words(socket, page.as_ref(), signals)
}

fn last_words(socket: &OwnedFd, page: Option<&Page>, signals: &SignalFd) -> Result<()> {
    let listen = || {
        // It may run hooks still, which may take their time.
        loop {
            let fds = [socket.as_fd(), signals.as_fd()];
            let [spoke, _] = socket::wait_any(fds, None).doing("wait for the container's process")?;
            if spoke {
                break;
            }
            interrupted(signals)?;
        }
        match sync::listen(socket.as_fd()) {
            Err(e) if e.errno == Errno::ECONNRESET => Err(killed()),
            said => said.doing("wait for the container's process"),
        }
    };
    let report = match faults::message("parent", "end", listen)? {
        None => page.and_then(|page| sync::Report::from_bytes(&page.read())),
        Some(FromChild::Failed(report)) => Some(report),
        Some(_) => return Err(Error::new("the container's process said that it was ready twice")),
    };
    report.map_or(Ok(()), |report| Err(explain(report.error())))
}

fn killed() -> Error {
    Error::new(KILLED[1])
}

/// Whether the child was killed, by nobody knows whom.
pub fn was_killed(e: &Error) -> bool {
    KILLED.contains(&e.doing.as_ref())
}

/// The other end of the socket is closed, or closed with messages of ours unread.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::EPIPE | Errno::ECONNRESET)
}
