//! `exec`: one more process for a container that is there. It is born in the container's cgroup, joins all its namespaces by
//! one setns(2) on init's pidfd, and goes the way of init from there.
//!
//! A pid namespace takes in children only, and who is born there is in the hands of those inside that have CAP_SYS_PTRACE:
//! so a first process does all steps outside, closes what is the runtime's, and only then makes the one that executes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};

use super::cleanup::Half;
use super::console::{self, Console};
use super::create::tell_caller;
use super::prepare::Prepared;
use super::spawn::{self, Frozen, Spawn};
use crate::cgroup::{self, Cgroup};
use crate::child::{Inherited, Join};
use crate::error::{Doing, Error, Result};
use crate::host;
use crate::log::Log;
use crate::plan::{self, Options, Plan};
use crate::state::{Action, Container, State, Status};
use crate::sys::clone::{self, Child};
use crate::sys::page::Page;
use crate::sys::{Call, socket};

/// What is asked for.
pub struct Request<'a> {
    /// The container.
    pub container: Container,
    /// Its state.
    pub state: &'a State,
    /// What the command line says.
    pub options: Options,
    /// The container's configuration, with the new process in it.
    pub spec: &'a Spec,
    /// `--pid-file`
    pub pid_file: Option<&'a Path>,
    /// `--pidfd-socket`
    pub pidfd_socket: Option<&'a Path>,
    /// For `process.terminal`.
    pub console: Option<Console>,
    /// `--cgroup`: below the container's.
    pub cgroup: Option<&'a Path>,
    /// `--ignore-paused`: wait until it is resumed.
    pub ignore_paused: bool,
    /// The signals that the caller has blocked: they end the wait.
    pub signals: &'a SignalFd,
}

/// Executes a process in the container; returns it, and in the foreground the master of its terminal.
///
/// # Errors
/// Whatever failed, in either process; then there is no process and no pid file.
pub fn exec(request: Request<'_>, log: &mut Log) -> Result<(Child, Option<OwnedFd>)> {
    let state = request.state;
    let init = request.container.init(state)?.ok_or_else(stopped)?;
    let facts = host::facts(None)?;
    let mut warnings = Vec::new();
    let plan = plan::exec(request.spec, &facts, &request.options, &mut warnings)?;
    log.warnings(warnings);
    let prepared = Prepared { cgroup: find_cgroup(state, request.cgroup)?, ..Prepared::default() };
    let (pid_file, pidfd_socket, signals) = (request.pid_file, request.pidfd_socket, request.signals);
    let (given, ignore_paused) = (request.cgroup.is_some(), request.ignore_paused);
    let console = request.console;
    let mut half = Half { container: request.container, prepared, child: None, hooked: false };
    let done = loop {
        let frozen = match &half.prepared.cgroup {
            Some(cgroup) if !ignore_paused => Frozen::Paused(cgroup.watch()?),
            _ => Frozen::Waits,
        };
        let spawn = Spawn { plan: &plan, signals, log, frozen };
        match make(spawn, state, &init, console.as_ref(), &mut half, pid_file, pidfd_socket) {
            // The container has made cgroups of its own and moved its init into one: that is where its processes are.
            Err(e) if e.errno() == Some(Errno::EBUSY) && half.child.is_none() && !given => {
                let own = init_cgroup(state)?;
                if half.prepared.cgroup.as_ref().is_none_or(|c| c.path() == own.path()) {
                    break Err(e);
                }
                half.prepared.cgroup = Some(own);
            }
            done => break done,
        }
    };
    match (done, half.child.take()) {
        (Ok(master), Some(child)) => Ok((child, master)),
        (Ok(_), None) => Err(Error::new("the process was lost")),
        (Err(e), child) => {
            let mut e = e;
            if let Some(child) = child {
                let _ = clone::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
                e = e.and(clone::wait(&child.pidfd).map(drop).doing("wait for the process"));
            }
            // Whatever it was that failed: it is because the container has ended. What it says of the command is better.
            let of_command = e.origin.as_ref().is_some_and(|o| o.field.starts_with("process.args"));
            let patience = i64::from(spawn::was_killed(&e)); // who kills them all has not come to init yet
            Err(if !of_command && has_ended(state.pid, &init, patience) { stopped() } else { e })
        }
    }
}

/// Whether init is on its way out within these seconds. It has given up its namespaces before it ends the others in its pid
/// namespace, and only when these are gone it has ended itself.
fn has_ended(pid: i32, init: &OwnedFd, seconds: i64) -> bool {
    matches!(socket::wait_any([init.as_fd()], Some(seconds)), Ok([true]))
        || !Path::new(&format!("/proc/{pid}/ns/mnt")).exists()
}

fn stopped() -> Error {
    Status::Stopped.allows(Action::Exec).err().unwrap_or_else(|| Error::new("container not running"))
}

fn make(
    mut spawn: Spawn<'_>,
    state: &State,
    init: &OwnedFd,
    console: Option<&Console>,
    half: &mut Half,
    pid_file: Option<&Path>,
    pidfd_socket: Option<&Path>,
) -> Result<Option<OwnedFd>> {
    let page = Page::new().doing("make the page for errors")?;
    let signals = spawn.signals;
    let mut inherited = Some(inherit(spawn.plan, state, init, console.map(|c| &c.to), half.prepared.cgroup.is_some())?);
    let socket = spawn.run(&mut inherited, half)?;
    // What is ready has sent it.
    let master = console.and_then(|c| c.from.as_ref()).map(console::receive).transpose()?;
    spawn::go(&socket, Some(page), signals, || spawn.wait(socket.as_fd(), half))?;
    // Only now: callers take the file for the sign that the command runs.
    if let Some(child) = &half.child {
        tell_caller(child, pid_file, pidfd_socket)?;
    }
    Ok(master)
}

fn inherit<'p>(
    plan: &'p Plan,
    state: &State,
    init: &OwnedFd,
    console: Option<&OwnedFd>,
    placed: bool,
) -> Result<Inherited<'p>> {
    let keep = |fd: &OwnedFd| fd.try_clone().call("fcntl", || "F_DUPFD_CLOEXEC".into()).doing("keep a descriptor");
    let (init, console) = (keep(init)?, console.map(keep).transpose()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let rootfs = &state.rootfs;
    let namespaces = namespaces(state.pid)?;
    // Else these were those of another process, which has been given the pid since: perhaps the host's.
    if has_ended(state.pid, &init, 0) {
        return Err(stopped());
    }
    // With a mount namespace, its root takes this one's place.
    let rootfs = if namespaces & libc::CLONE_NEWNS == 0 { rootfs.as_path() } else { Path::new("/") };
    let rootfs = rustix::fs::open(rootfs, flags, Mode::empty()).call("open", || format!("{rootfs:?}"));
    Ok(Inherited {
        plan,
        socket: None,
        listener: None,
        rootfs: rootfs.doing("open the container's rootfs")?,
        namespace: None,
        slots: Vec::new(),
        placed,
        nofile: None,
        console,
        joined: Vec::new(),
        hook_files: Default::default(),
        join: Some(Join { init, namespaces }),
    })
}

/// The namespaces of init that are not ours. To join one's own user namespace is EINVAL, and to join one's own mount
/// namespace would leave the root.
fn namespaces(pid: i32) -> Result<i32> {
    const NAMES: [(i32, &str); 8] = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (libc::CLONE_NEWPID, "pid"),
        (0x80, "time"), // CLONE_NEWTIME
    ];
    let inode = |path: String| match rustix::fs::stat(path.as_str()) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        // A kernel without that kind of namespace.
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e).call("stat", || path).doing("look at the container's namespaces"),
    };
    let mut others = 0;
    for (flag, name) in NAMES {
        if inode(format!("/proc/{pid}/ns/{name}"))? != inode(format!("/proc/self/ns/{name}"))? {
            others |= flag;
        }
    }
    Ok(others)
}

/// The container's cgroup, or one below it.
fn find_cgroup(state: &State, below: Option<&Path>) -> Result<Option<Cgroup>> {
    let Some(at) = &state.cgroup else {
        return match below {
            Some(_) => Err(Error::new("the container has no cgroup").field("--cgroup")),
            None => Ok(None),
        };
    };
    let Some(below) = below else { return cgroup::open_existing(&at.path)?.ok_or_else(stopped).map(Some) };
    let plain = |c| matches!(c, std::path::Component::Normal(_) | std::path::Component::RootDir);
    if !below.components().all(plain) {
        return Err(Error::new(format!("{} is not below the container's cgroup", below.display())).field("--cgroup"));
    }
    let below = below.strip_prefix("/").unwrap_or(below);
    let found = cgroup::open_existing(&at.path.join(below))?;
    found.map(Some).ok_or_else(|| {
        Error::new(format!("the container has no cgroup {:?}", below.display().to_string())).field("--cgroup")
    })
}

/// The cgroup that init is in.
fn init_cgroup(state: &State) -> Result<Cgroup> {
    let file = format!("/proc/{}/cgroup", state.pid);
    let text = std::fs::read_to_string(&file).call("read", || file).doing("find the cgroup of init")?;
    let path = cgroup::own_path(&text)?;
    let root = cgroup::Host::find()?.root;
    cgroup::open_existing(&root.join(path.trim_start_matches('/')))?.ok_or_else(stopped)
}
