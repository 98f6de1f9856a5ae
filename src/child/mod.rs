//! The child, between clone3(2) and execve(2): works off its steps of the plan. It has a copy of the parent's memory and
//! descriptors; it ends in execve or exit_group, never unwinds, prints nothing and reports through its socket.

mod console;
mod copy_up;
mod devices;
mod finish;
mod home;
mod hooks;
pub use finish::raise_rlimit;

mod mounts;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Origin, Result};
use crate::faults;
use crate::plan::{Actor, By, Op, Plan};
use crate::run::gate;
use crate::run::hooks::Files;
use crate::run::sync::{self, FromChild, Report, ToChild};
use crate::sys::page::Page;
use crate::sys::process::{self, Exec};
use crate::sys::{Call, clone, mount};

/// What the parent opened for a slot.
pub enum Opened {
    /// A detached mount.
    Tree(OwnedFd),
    /// The target of a link that is to be made anew (`copy-symlink`).
    Link(PathBuf),
}

/// What the child gets from the parent, by memory.
pub struct Inherited<'p> {
    /// The plan, the same that the parent holds.
    pub plan: &'p Plan,
    /// The child's end of the pair; made anew for each try.
    pub socket: Option<OwnedFd>,
    /// The start socket, for `create`.
    pub listener: Option<OwnedFd>,
    /// The rootfs: a detached tree, or without a mount namespace the directory.
    pub rootfs: OwnedFd,
    /// A mount namespace made of the rootfs (`Tree::OpenTree`).
    pub namespace: Option<OwnedFd>,
    /// What the parent opened, by slot.
    pub slots: Vec<Option<Opened>>,
    /// The child is in its cgroup already.
    pub placed: bool,
    /// The limit of open files to put back.
    pub nofile: Option<(u64, u64)>,
    /// Where the master of a terminal goes.
    pub console: Option<OwnedFd>,
    /// Namespaces that are joined by path, unless the gate has done so.
    pub joined: Vec<gate::Open>,
    /// Where hooks print that are run in the container's root.
    pub hook_files: Files,
    /// `exec`: the container that is joined.
    pub join: Option<Join>,
}

/// A container that is joined by one more process.
pub struct Join {
    /// Its init, as a pidfd.
    pub init: OwnedFd,
    /// `CLONE_NEW*`: its namespaces that are not ours.
    pub namespaces: i32,
}

impl Join {
    /// Whether the process is born in the container's pid namespace at the end of its steps, by a second clone3(2).
    pub fn enters(&self) -> bool {
        self.namespaces & libc::CLONE_NEWPID != 0
    }
}

/// What the child gathers on its way.
struct Child<'p> {
    in_: Inherited<'p>,
    /// Where the rootfs is in a copy of the host's mount namespace.
    place: Option<OwnedFd>,
    /// A procfs that nobody inside can have changed.
    proc: Option<OwnedFd>,
    /// The read-only tmpfs that covers masked directories, attached once.
    empty: Option<OwnedFd>,
    /// /dev/null is attached; later masks copy it.
    null_attached: bool,
    env: Vec<String>,
    /// The working directory is entered after the change of the user.
    cwd_later: Option<PathBuf>,
    exec: Option<Exec>,
    filter: Option<(Vec<u8>, u32)>,
    /// It has yet to be born in the pid namespace that it has joined.
    enters: bool,
    /// How many descriptors above stderr are the container's.
    preserved: u32,
    started: Option<OwnedFd>,
}

/// Where a failure is told: to the parent's socket, later to the page.
enum Listener {
    Socket(OwnedFd),
    Page(Page),
}

/// The field at work and where to tell its failure; a panic must find both.
static REPORT: Mutex<(Option<Origin>, Option<Listener>)> = Mutex::new((None, None));

fn with_report<T>(f: impl FnOnce(&mut (Option<Origin>, Option<Listener>)) -> T) -> T {
    f(&mut REPORT.lock().unwrap_or_else(PoisonError::into_inner))
}

fn fail(error: Error) -> ! {
    let error = faults::at("child", "before-failed").err().unwrap_or(error);
    with_report(|(origin, to)| {
        let error = match origin.take() {
            Some(origin) => error.at(origin),
            None => error,
        };
        let report = Report::new(&error);
        match to {
            Some(Listener::Page(page)) => page.write(&report.to_bytes()),
            Some(Listener::Socket(socket)) => drop(sync::report(socket, &FromChild::Failed(report))),
            None => {}
        }
    });
    process::exit_now(1)
}

/// Carries out the child's steps. Does not return.
pub fn run(inherited: Inherited<'_>) -> ! {
    // An abort would end the parent: the C library of this process still holds the parent's thread id.
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().map(|s| s.to_string());
        let text = text.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        // A panic while REPORT is locked cannot happen: nothing in there panics.
        fail(Error::new(format!("panic{place}: {text}")))
    }));
    let socket = inherited.socket.as_ref().and_then(|s| s.try_clone().ok());
    with_report(|(_, to)| *to = socket.map(Listener::Socket));
    let mut child = Child {
        in_: inherited,
        place: None,
        proc: None,
        empty: None,
        null_attached: false,
        env: Vec::new(),
        cwd_later: None,
        exec: None,
        filter: None,
        enters: false,
        preserved: 0,
        started: None,
    };
    if let Err(error) = child.begin() {
        fail(error);
    }
    let plan = child.in_.plan;
    for (index, step) in plan.steps.iter().enumerate().filter(|(_, s)| s.by == Actor::Child) {
        with_report(|(at, _)| *at = Some(step.origin.clone()));
        let done = faults::at("child", index);
        if faults::skips(&step.op) {
            continue;
        }
        if let Err(error) = done.and_then(|()| child.step(&step.op)) {
            fail(error);
        }
    }
    fail(Error::new("the plan has no execve"))
}

impl Child<'_> {
    /// What comes before the first step: a session and namespaces of its own.
    fn begin(&mut self) -> Result<()> {
        faults::at("child", if self.in_.placed { "born-in-its-cgroup" } else { "born" })?;
        process::setsid().doing("start a session")?;
        rustix::process::umask(rustix::fs::Mode::empty());
        self.find_place()?;
        self.join_namespaces()?;
        self.wait_for_parent()?;
        if let Some(join) = self.in_.join.take() {
            self.join(&join)?;
        }
        if let Some(namespace) = self.in_.namespace.take() {
            clone::setns(&namespace, libc::CLONE_NEWNS).doing("enter the mount namespace of the rootfs")?;
        }
        Ok(())
    }

    /// The namespaces that are joined by path. Those that only children get into were joined by the parent.
    fn join_namespaces(&mut self) -> Result<()> {
        let joined = std::mem::take(&mut self.in_.joined);
        for namespace in joined.iter().filter(|n| self.in_.plan.namespaces.by(n.flag) == Some(By::Child)) {
            let joined = clone::setns(&namespace.file, namespace.flag as i32).doing("join the namespace");
            joined.map_err(|e| e.field(namespace.field.clone()))?;
        }
        Ok(())
    }

    /// The ids are mapped and the process is in its cgroup; then the namespaces that had to wait for that are made.
    fn wait_for_parent(&mut self) -> Result<()> {
        let namespaces = &self.in_.plan.namespaces;
        let (late, mapped, cgroup) =
            (namespaces.late, namespaces.maps.is_some(), namespaces.cgroup && !self.in_.placed);
        let (mut map, mut place) = (mapped, cgroup);
        while map || place {
            let hear = || sync::hear(self.socket()?.as_fd()).doing("wait for the parent");
            match faults::message("child", "placed", hear)? {
                Some(ToChild::Mapped) => map = false,
                Some(ToChild::Placed) => place = false,
                _ => process::exit_now(1),
            }
        }
        if namespaces.user() {
            // What is made from here on belongs to root of the namespace, and not to somebody who is not in it.
            process::set_ids(0, 0)
                .doing("become root of the user namespace")
                .map_err(|e| e.field("linux.namespaces").hint("id 0 must be mapped in the user namespace"))?;
            process::set_nondumpable().doing("stay non-dumpable")?;
        }
        let late = late | if cgroup { libc::CLONE_NEWCGROUP as u64 } else { 0 };
        if late == 0 {
            return Ok(());
        }
        clone::unshare(late as i32).doing("make namespaces").map_err(|e| e.field("linux.namespaces"))
    }

    /// Enters the container: one setns(2) for all namespaces, and its root.
    fn join(&mut self, join: &Join) -> Result<()> {
        if join.namespaces != 0 {
            clone::setns(&join.init, join.namespaces).doing("join the container's namespaces")?;
        }
        self.enters = join.enters();
        if join.namespaces & libc::CLONE_NEWUSER != 0 {
            // A terminal should belong to root in there; if nobody is, it will do without.
            let _ = process::set_ids(0, 0);
            process::set_nondumpable().doing("stay non-dumpable")?;
        }
        if join.namespaces & libc::CLONE_NEWNS == 0 {
            // Without a mount namespace of its own, the container is in its rootfs by chroot(2).
            rustix::process::fchdir(&self.in_.rootfs)
                .call("fchdir", || "the rootfs".into())
                .doing("enter the rootfs")?;
            return mount::chroot_here().doing("change the root");
        }
        // The root of its mount namespace.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).call("open", || "\"/\"".into());
        self.in_.rootfs = root.doing("open the container's root")?;
        Ok(())
    }

    /// The way to the parent, which is closed once there is nothing more to say to it.
    fn socket(&self) -> Result<&OwnedFd> {
        self.in_.socket.as_ref().ok_or_else(|| Error::new("the socket to the parent is closed"))
    }

    fn step(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::OpenRootfs { .. }
            | Op::OpenSource { .. }
            | Op::MakeFs { .. }
            | Op::CreateCgroup { .. }
            | Op::MapIds
            | Op::MapMount { .. }
            | Op::Delegate { .. }
            | Op::StartUnit { .. }
            | Op::LimitCgroup { .. }
            | Op::DeviceFilter { .. }
            | Op::OomScoreAdj { .. }
            | Op::CompileSeccomp { .. } => Err(Error::new("a step of the parent's was planned for the child")),

            Op::AttachRootfs => self.attach_rootfs(),
            Op::Attach { slot, target, nofollow, copy_symlink } => self.attach(*slot, target, *nofollow, *copy_symlink),
            Op::Mount { .. } => self.mount(op),
            Op::LateReadonly { slot } => self.late_readonly(*slot),
            Op::Remount { target, attrs, propagation } => self.remount(target, attrs, propagation),
            Op::Mask { path, null } => self.mask(path, *null),
            Op::ReadonlyPath { path } => self.readonly_path(path),
            Op::RootReadonly => self.root_readonly(),
            Op::RootPropagation { flag, recursive } => self.root_propagation(*flag, *recursive),
            Op::RuntimeHooks => self.runtime_hooks(),
            Op::ContainerHooks => self.hooks("creating"),
            Op::StartHooks => self.hooks("created"),
            Op::Pivot { how } => self.pivot(*how),

            Op::Device { path, kind, major, minor, mode, uid, gid } => {
                self.device(path, *kind, (*major, *minor), *mode, (*uid, *gid))
            }
            Op::Link { path, target, replace } => self.link(path, target, *replace),
            Op::Console { size, bind } => self.console(*size, *bind),
            Op::ReopenDevNull => self.reopen_dev_null(),

            Op::Sysctl { path, value } => self.sysctl(path, value),
            Op::Loopback => process::loopback_up().doing("bring the loopback interface up"),
            Op::Hostname { name } => process::set_hostname(name).doing("set the hostname"),
            Op::Domainname { name } => process::set_domainname(name).doing("set the domain name"),
            Op::Keyring { name } => self.keyring(name),
            Op::Reset { preserve_fds } => self.reset(*preserve_fds),
            Op::RaiseRlimit { resource, name, hard } => self.raise_rlimit(*resource, name, *hard),
            Op::Environment(environment) => self.environment(environment),
            Op::StdioOwner { uid } => self.stdio_owner(*uid),
            Op::MakeCwd { path } => self.make_cwd(path),
            Op::Cwd { path } => self.cwd(path),
            Op::Bounding { keep } => process::limit_bounding(*keep).doing("limit the bounding set"),
            Op::User { uid, gid, groups, umask } => self.user(*uid, *gid, groups, *umask),
            Op::Capabilities { sets, until_exec } => self.capabilities(sets, *until_exec),
            Op::NoNewPrivs => process::set_no_new_privs().doing("forbid new privileges"),
            Op::EnterPids => self.enter_pids(),
            Op::LookUp { args } => self.look_up(args),
            Op::Ready { seccomp } => self.ready(*seccomp),
            Op::AwaitStart => self.await_start(),
            Op::Rlimit { resource, name, soft, hard } => self.rlimit(*resource, name, *soft, *hard),
            Op::LoadSeccomp => self.load_seccomp(),
            Op::Exec => self.exec(),
        }
    }
}
