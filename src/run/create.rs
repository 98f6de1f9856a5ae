//! `create`, whole or not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::Spec;
use serde_json::value::RawValue;

use super::antechamber;
use super::cleanup::{self, Half};
use super::console::{self, Console};
use super::gate;
use super::hooks;
use super::prepare::{Prepared, prepare};
use super::spawn::{self, Frozen, Spawn};
use crate::cgroup;
use crate::child::Inherited;
use crate::error::{Doing, Error, Origin, Result};
use crate::faults;
use crate::host;
use crate::log::Log;
use crate::plan::{self, Hooks, Op, Options, Plan, Tree};
use crate::state::{self, CgroupState, Container, START, State, Store, VERSION};
use crate::sys::clone::{self, Child};
use crate::sys::page::Page;
use crate::sys::{process, socket};

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
    /// For `process.terminal`.
    pub console: Option<Console>,
    /// The signals that the caller has blocked: they end the wait.
    pub signals: &'a SignalFd,
}

/// A container whose process waits for `start`, or with `run` has been executed.
pub struct Created {
    /// Its directory.
    pub container: Container,
    /// Its init process.
    pub child: Child,
    /// The master of its terminal, in the foreground.
    pub master: Option<OwnedFd>,
    /// The container's hooks.
    pub hooks: Option<Hooks>,
}

/// Creates a container.
///
/// # Errors
/// Whatever failed, in either process; then nothing is left.
pub fn create(mut request: Request<'_>, log: &mut Log) -> Result<Created> {
    let mut cgroup_host = if request.options.no_cgroup { None } else { Some(cgroup::Host::find()?) };
    let facts = host::facts(cgroup_host.as_ref())?;
    if !facts.privileged && does_without_cgroup(&request, cgroup_host.as_ref())? {
        log.debug("without a cgroup: none may be made here, and nothing in config.json needs one");
        request.options.no_cgroup = true;
        cgroup_host = None;
    }
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
    let mut half = Half { container, prepared: Prepared::default(), child: None, hooked: false };
    match finish(&mut request, &plan, &mut state, cgroup_host.as_ref(), &mut half, log) {
        Ok(master) => match half.child.take() {
            Some(child) => Ok(Created { container: half.container, child, master, hooks: plan.hooks }),
            None => Err(Error::new("the container's process was lost")),
        },
        Err(e) => Err(cleanup::undo(half, plan.hooks.as_ref(), e)),
    }
}

/// As runc has it for who is not root: no limits, no cgroupsPath and no right to make a cgroup is no error.
fn does_without_cgroup(request: &Request<'_>, host: Option<&cgroup::Host>) -> Result<bool> {
    let linux = request.spec.linux().as_ref();
    let Some(host) = host.filter(|_| request.options.systemd.is_none()) else { return Ok(false) };
    if linux.is_some_and(|l| l.cgroups_path().is_some()) {
        return Ok(false);
    }
    let limits = linux.and_then(|l| l.resources().as_ref()).map(cgroup::limits::writes).transpose()?;
    let path = cgroup::container_path(None, &request.options.id, &host.own)?;
    Ok(limits.is_none_or(|l| l.is_empty()) && !host.may_make(&path))
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
        // For the hooks poststop of a `delete --force`, should we not live to finish.
        config: plan.hooks.as_ref().map(|_| request.config.clone()),
    })
}

/// From the container's directory to its process; what was made is in `half`, for the clean-up after a failure.
fn finish(
    request: &mut Request<'_>,
    plan: &Plan,
    state: &mut State,
    host: Option<&cgroup::Host>,
    half: &mut Half,
    log: &mut Log,
) -> Result<Option<OwnedFd>> {
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
    let joined = gate::open(plan)?; // before anything is made: it is the host's affair whether they are there
    prepare(plan, &request.options.bundle, host, &mut half.prepared)?;
    let listener = match request.options.run {
        true => None,
        false => Some(socket::listen(half.container.dir.as_fd(), START).doing("make the start socket")?),
    };
    drop(lock); // the child must not hold it
    faults::at("parent", "clone3")?;
    let mut prepared = std::mem::take(&mut half.prepared);
    half.prepared.cgroup = prepared.cgroup.take(); // to be removed after any failure
    let nofile = if plan.slots > 200 { process::raise_nofile() } else { None };
    let page = if request.options.run { Some(Page::new().doing("make the page for errors")?) } else { None };
    let (to, from) = request.console.take().map(|c| (c.to, c.from)).unzip();
    let mut inherited = Some(Inherited {
        plan,
        socket: None,
        listener,
        rootfs: prepared.rootfs.ok_or_else(|| Error::new("the rootfs was not opened"))?,
        namespace: prepared.namespace,
        slots: prepared.slots,
        placed: half.prepared.cgroup.is_some() && !plan.namespaces.gate_leaves_cgroups(),
        nofile,
        console: to,
        hook_files: plan.hooks.as_ref().map(hooks::files).transpose()?.unwrap_or_default(),
        joined,
        join: None,
    });
    let mut spawn = Spawn { plan, signals: request.signals, log, frozen: Frozen::Above };
    let socket = spawn.run(&mut inherited, half)?;

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
    if let Some(child) = &half.child {
        tell_caller(child, request.pid_file, request.pidfd_socket)?;
    }
    drop(inherited); // or our own end would be waited for
    let master = from.flatten().map(|from| console::receive(&from)).transpose()?;
    let gone = spawn::go(&socket, page, request.signals, || Ok(()));
    gone.map_err(|e| if spawn::was_killed(&e) { spawn.died(e, half) } else { e })?;
    Ok(master)
}

/// The pid file and the pidfd, for who asked for them.
pub fn tell_caller(child: &Child, pid_file: Option<&Path>, pidfd_socket: Option<&Path>) -> Result<()> {
    if let Some(path) = pidfd_socket {
        let sent = socket::connect_stream(path).and_then(|s| socket::send_fd(s, b"pidfd", child.pidfd.as_fd()));
        sent.doing("send the pidfd").map_err(|e| e.field("--pidfd-socket"))?;
    }
    // At last: to callers of `exec` the file is the sign that nothing has failed.
    if let Some(path) = pid_file {
        write_pid_file(path, child.pid).map_err(|e| e.field("--pid-file"))?;
    }
    Ok(())
}

/// Decimal digits alone, and whole or not at all: callers parse it as soon as we have ended.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
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
