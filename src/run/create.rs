//! `create`, whole or not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::Spec;
use serde_json::value::RawValue;

use super::cleanup::{self, Half};
use super::prepare::{Prepared, prepare};
use super::sync::{self, FromChild, ToChild};
use super::{antechamber, explain, launch, unit};
use crate::cgroup::{self, devices};
use crate::child::Inherited;
use crate::error::{Doing, Error, Origin, Result};
use crate::faults;
use crate::host;
use crate::log::Log;
use crate::plan::{self, Actor, Op, Options, Plan, Tree};
use crate::seccomp;
use crate::state::{self, CgroupState, Container, START, State, Store, VERSION};
use crate::sys::clone::{self, Child, Exit};
use crate::sys::page::Page;
use crate::sys::{process, socket};

/// Seconds after which a wait says what it waits for.
const PATIENCE: i64 = 10;

/// What is asked for.
pub struct Request<'a> {
    /// Where the containers' states are.
    pub store: &'a Store,
    /// What the command line says.
    pub options: Options,
    /// config.json, checked.
    pub spec: &'a Spec,
    /// config.json as it is.
    pub config: Box<RawValue>,
    /// `--pid-file`
    pub pid_file: Option<&'a Path>,
    /// `--pidfd-socket`
    pub pidfd_socket: Option<&'a Path>,
    /// The signals that the caller has blocked: they end the wait.
    pub signals: &'a SignalFd,
}

/// A container whose process waits for `start`, or with `run` has been executed.
pub struct Created {
    /// Its directory.
    pub container: Container,
    /// Its init process.
    pub child: Child,
}

/// Creates a container.
///
/// # Errors
/// Whatever failed, in either process; then nothing is left.
pub fn create(request: Request<'_>, log: &mut Log) -> Result<Created> {
    let cgroup_host = if request.options.no_cgroup { None } else { Some(cgroup::Host::find()?) };
    let facts = host::facts(cgroup_host.as_ref())?;
    let mut warnings = Vec::new();
    let mut plan = plan::plan(request.spec, &facts, &request.options, &mut warnings)?;
    log.warnings(warnings);
    if plan.tree == Tree::Antechamber
        && request.options.tree.is_none()
        && let Err(e) = antechamber::open()
    {
        log.debug(format!("copying the host's mount namespace, since the antechamber cannot be used: {e}"));
        plan.tree = Tree::Clone;
    }
    let mut state = new_state(&request, &plan, cgroup_host.as_ref())?;
    let container = request.store.create(&request.options.id)?;
    let mut half = Half { container, prepared: Prepared::default(), child: None };
    match finish(&request, &plan, &mut state, cgroup_host.as_ref(), &mut half, log) {
        Ok(()) => match half.child.take() {
            Some(child) => Ok(Created { container: half.container, child }),
            None => Err(Error::new("the container's process was lost")),
        },
        Err(e) => Err(cleanup::undo(half, e)),
    }
}

fn new_state(request: &Request<'_>, plan: &Plan, host: Option<&cgroup::Host>) -> Result<State> {
    let rootfs = plan.steps.iter().find_map(|s| match &s.op {
        Op::OpenRootfs { path, .. } => Some(path.clone()),
        _ => None,
    });
    let cgroup = host.zip(plan.cgroup.as_ref());
    Ok(State {
        version: VERSION,
        id: request.options.id.clone(),
        boot_id: host::boot_id()?,
        creating: true,
        pid: 0,
        start_time: 0,
        pidfd_inode: 0,
        cgroup: cgroup.map(|(host, path)| CgroupState {
            driver: if plan.unit.is_some() { "systemd" } else { "cgroupfs" }.into(),
            path: host.root.join(path),
            unit: plan.unit.clone(),
        }),
        bundle: request.options.bundle.clone(),
        rootfs: rootfs.unwrap_or_default(),
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        owner: rustix::process::geteuid().as_raw(),
        config: None,
    })
}

/// From the container's directory to its process; what was made is in `half`, for the clean-up after a failure.
fn finish(
    request: &Request<'_>,
    plan: &Plan,
    state: &mut State,
    host: Option<&cgroup::Host>,
    half: &mut Half,
    log: &mut Log,
) -> Result<()> {
    faults::at("parent", "made-directory")?;
    let lock = half.container.lock()?;
    // A cgroup that somebody else is in must not be named in our state: `delete --force` would kill whoever is in it.
    if let Some(cgroup) = &state.cgroup
        && let Some(there) = cgroup::open_existing(&cgroup.path)?
        && there.populated()?
    {
        let origin = Origin::new("linux.cgroupsPath", cgroup.path.display().to_string());
        return Err(Error::new("container's cgroup is not empty").at(origin));
    }
    half.container.write(state)?;
    faults::at("parent", "wrote-creating")?;
    prepare(plan, &request.options.bundle, host, &mut half.prepared)?;
    let listener = match request.options.run {
        true => None,
        false => Some(socket::listen(half.container.dir.as_fd(), START).doing("make the start socket")?),
    };
    drop(lock); // the child must not hold it
    faults::at("parent", "clone3")?;
    let prepared = std::mem::take(&mut half.prepared);
    let cgroup = prepared.cgroup;
    let nofile = if plan.slots > 200 { process::raise_nofile() } else { None };
    let page = if request.options.run { Some(Page::new().doing("make the page for errors")?) } else { None };
    let mut inherited = Some(Inherited {
        plan,
        socket: None,
        listener,
        rootfs: prepared.rootfs.ok_or_else(|| Error::new("the rootfs was not opened"))?,
        namespace: prepared.namespace,
        slots: prepared.slots,
        placed: cgroup.is_some(),
        nofile,
        owner: state.owner,
    });
    half.prepared.cgroup = cgroup;
    let mut waiting = Waiting { request, plan, log };
    let socket = waiting.spawn(&mut inherited, half)?;

    let pid = half.child.as_ref().map(|c| c.pid).unwrap_or_default();
    let lock = half.container.lock().map_err(|_| state::deleted())?;
    state.creating = false;
    state.pid = pid;
    state.start_time = host::process(pid).ok_or_else(|| Error::new("the container's process has died"))?.start_time;
    state.pidfd_inode = half.child.as_ref().map_or(0, |c| clone::pidfd_inode(&c.pidfd));
    state.config = Some(request.config.clone());
    // Where systemd has put it: the place of a user's manager is not known before.
    if let (Some(state), Some(cgroup)) = (&mut state.cgroup, &half.prepared.cgroup) {
        state.path = cgroup.path().into();
    }
    half.container.write(state)?;
    drop(lock);
    faults::at("parent", "wrote-created")?;
    tell_caller(request, half)?;
    faults::at("parent", "before-go")?;
    let (page, page_fd) = page.unzip();
    match sync::tell(&socket, &ToChild::Go(page_fd)) {
        // It has failed since it was ready, and its own words are better; or it was killed.
        Err(e) if is_gone(e.errno) => match sync::listen(socket.as_fd()) {
            Ok(Some(FromChild::Failed(report))) => return Err(explain(report.error())),
            _ => return Err(Error::new("the container's process was killed while the container was created")),
        },
        told => told.doing("let the container's process go on")?,
    }
    faults::at("parent", "after-go")?;
    last_words(&socket, page.as_ref())
}

/// Waits until the child has closed its socket: in `create` because it waits for `start`, in `run` by execve.
fn last_words(socket: &OwnedFd, page: Option<&Page>) -> Result<()> {
    let listen = || sync::listen(socket.as_fd()).doing("wait for the container's process");
    let report = match faults::message("parent", "end", listen)? {
        None => page.and_then(|page| sync::Report::from_bytes(&page.read())),
        Some(FromChild::Failed(report)) => Some(report),
        Some(FromChild::Ready) => return Err(Error::new("the container's process said that it was ready twice")),
    };
    report.map_or(Ok(()), |report| Err(explain(report.error())))
}

/// The other end of the socket is closed, or closed with messages of ours unread.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::EPIPE | Errno::ECONNRESET)
}

/// The pid file and the pidfd, for who asked for them.
fn tell_caller(request: &Request<'_>, half: &Half) -> Result<()> {
    let Some(child) = &half.child else { return Ok(()) };
    if let Some(path) = request.pid_file {
        write_pid_file(path, child.pid).map_err(|e| e.field("--pid-file"))?;
    }
    if let Some(path) = request.pidfd_socket {
        let sent = socket::connect_stream(path).and_then(|s| socket::send_fd(s, b"pidfd", child.pidfd.as_fd()));
        sent.doing("send the pidfd").map_err(|e| e.field("--pidfd-socket"))?;
    }
    Ok(())
}

/// Decimal digits alone, and whole or not at all: callers parse it as soon as we have ended.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    use crate::sys::Call;
    use rustix::fs::{CWD, Mode, OFlags};
    let name = path.file_name().ok_or_else(|| Error::new(format!("{path:?} is no file name")))?;
    let temporary: PathBuf = path.with_file_name(format!(".{}.{pid}", name.to_string_lossy()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let doing = "write the pid file";
    let file =
        rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o644)).call("open", || format!("{temporary:?}"));
    let file = file.doing(doing)?;
    let written = rustix::io::write(&file, pid.to_string().as_bytes())
        .call("write", || format!("{temporary:?}"))
        .and_then(|_| rustix::fs::renameat(CWD, &temporary, CWD, path).call("rename", || format!("{path:?}")));
    if written.is_err() {
        let _ = rustix::fs::unlink(&temporary);
    }
    written.doing(doing)
}

/// The parent, from clone3 until the child is ready.
struct Waiting<'a, 'r> {
    request: &'a Request<'r>,
    plan: &'a Plan,
    log: &'a mut Log,
}

impl Waiting<'_, '_> {
    /// Makes the child and does the parent's steps while it does its own.
    ///
    /// A cgroup whose cgroup.kill was written more often than that of the caller's kills what is born in it (Linux 6.18,
    /// 7.2): a child that SIGKILL takes before its first word is made once more and moved into the cgroup.
    fn spawn<'p>(&mut self, inherited: &mut Option<Inherited<'p>>, half: &mut Half) -> Result<OwnedFd> {
        let first = match self.try_once(inherited, half) {
            Err(e) => e,
            Ok(socket) => return Ok(socket),
        };
        // One that still lives is ended by the clean-up.
        let ended = |c: &Child| matches!(socket::wait_any([c.pidfd.as_fd()], Some(1)), Ok([true]));
        let exit = half.child.take_if(|c| ended(c)).map(|c| clone::wait(&c.pidfd));
        let killed = matches!(exit, Some(Ok(Exit::Signal(libc::SIGKILL))));
        // With a field it is explained already: the memory limit was too low.
        let explained = first.origin.is_some() || half.container.is_removed()?;
        if !killed || explained || inherited.as_ref().is_none_or(|i| !i.placed) {
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
        let child = launch::launch(self.plan, cgroup, inherited, &mut ours)?;
        let ours = ours.ok_or_else(|| Error::new("the socket pair was lost"))?;
        let pid = child.pid;
        half.child = Some(child);
        // The child's end must be the child's alone, for its end of file to reach us.
        let placed = inherited.as_mut().is_none_or(|i| {
            i.socket = None;
            i.placed
        });
        let moved = match cgroup.filter(|_| !placed) {
            Some(cgroup) => cgroup.attach(pid).and_then(|()| {
                let tell = || sync::tell(&ours, &ToChild::Placed).doing("tell the child that it was moved");
                faults::message("parent", "placed", tell)
            }),
            None => Ok(()),
        };
        // An error of ours may only be the echo of the child's, whose own words are better.
        match moved.and_then(|()| self.own_steps(&ours, half)) {
            Ok(()) => {}
            Err(e) if e.errno().is_some_and(is_gone) => {}
            Err(e) => return Err(e),
        }
        self.wait_ready(&ours, half)?;
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
            Op::LimitCgroup { writes } => cgroup()?.apply(writes),
            Op::DeviceFilter { rules } => devices::apply(cgroup()?, rules, devices::Others::of(prepared.unit.as_ref())),
            Op::OomScoreAdj { value } => host::write_oom_score_adj(pid, *value),
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

    fn wait_ready(&mut self, socket: &OwnedFd, half: &Half) -> Result<()> {
        faults::at("parent", "before-ready")?;
        loop {
            let [spoke, signalled] = socket::wait_any([socket.as_fd(), self.request.signals.as_fd()], Some(PATIENCE))
                .doing("wait for the container's process")?;
            if signalled && let Ok(Some(signal)) = self.request.signals.read_signal() {
                if let Some(name) = ends_the_wait(signal.ssi_signo as i32) {
                    return Err(Error::new(format!("interrupted by {name} while the container was created")));
                }
            } else if spoke {
                let word = match sync::listen(socket.as_fd()) {
                    Err(e) if e.errno == Errno::ECONNRESET => Ok(None), // it has ended with a message of ours unread
                    word => word,
                };
                return match word.doing("wait for the container's process")? {
                    Some(FromChild::Ready) => faults::at("parent", "after-ready"),
                    Some(FromChild::Failed(report)) => {
                        faults::at("parent", "after-failed")?;
                        Err(explain(report.error()))
                    }
                    None => Err(self.died(half)),
                };
            } else {
                let frozen = half.prepared.cgroup.as_ref().is_some_and(|c| c.is_frozen().unwrap_or(false));
                if frozen {
                    return Err(Error::new("the container's cgroup is frozen, so its process cannot run")
                        .hint("a cgroup above it is frozen"));
                }
                self.log.debug(format!("waiting for the container's process for {PATIENCE} s more"));
            }
        }
    }

    /// The child is gone without a word.
    fn died(&self, half: &Half) -> Error {
        if half.container.is_removed().unwrap_or(false) {
            return state::deleted();
        }
        let killed = Error::new("the container's process was killed before it was ready");
        const LIMIT: &str = "linux.resources.memory.limit";
        let cgroup = half.prepared.cgroup.as_ref();
        if let Some(peak) = cgroup.and_then(|c| c.oom_peak()) {
            let hint = format!("the memory limit is too low to start the container: {peak} bytes were in use at most");
            return killed.field(LIMIT).hint(hint);
        }
        // systemd takes an empty scope away at once, and with it the peak.
        let limited =
            self.plan.steps.iter().any(
                |s| matches!(&s.op, Op::StartUnit { limits, .. } if limits.iter().any(|w| w.file == "memory.max")),
            );
        if limited && cgroup.is_none_or(|c| c.is_gone()) {
            return killed.field(LIMIT).hint("perhaps the memory limit is too low to start the container");
        }
        killed
    }
}

/// Signals that end a wait; the others stay for later.
fn ends_the_wait(signal: i32) -> Option<&'static str> {
    match signal {
        libc::SIGINT => Some("SIGINT"),
        libc::SIGTERM => Some("SIGTERM"),
        libc::SIGHUP => Some("SIGHUP"),
        libc::SIGQUIT => Some("SIGQUIT"),
        _ => None,
    }
}
