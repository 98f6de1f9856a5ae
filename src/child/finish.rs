//! From the container's root to its process: names, limits, user, capabilities, the start, the filter, execve(2).

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Uid};

use super::{Child, Listener, with_report};
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::plan::{self, Capabilities, Environment, Groups, Op};
use crate::run::sync::{self, FromChild, ToChild};
use crate::sys::page::Page;
use crate::sys::process::{self, Exec};
use crate::sys::{Call, SysError, clone, errno_text, root, socket};

impl Child<'_> {
    /// A sysctl, through a procfs that the container cannot have prepared.
    pub fn sysctl(&mut self, path: &str, value: &str) -> Result<()> {
        let path = format!("sys/{path}");
        let proc = self.procfs()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(proc, path.as_str(), flags, Mode::empty(), resolve)
            .call("openat2", || format!("/proc/{path}"))
            .doing("open the sysctl")?;
        rustix::io::write(&file, value.as_bytes())
            .map(drop)
            .call("write", || format!("/proc/{path}, {value:?}"))
            .doing("write the sysctl")
    }

    /// A session keyring of the container's own.
    pub fn keyring(&mut self, name: &str) -> Result<()> {
        process::join_session_keyring(name).doing("make a session keyring").map_err(|e| match e.errno() {
            Some(Errno::EDQUOT) => e.hint("the kernel's keyring quota is used up: --no-new-keyring does without"),
            _ => e,
        })
    }

    /// What the caller's state must not do to the container.
    pub fn reset(&mut self, preserve_fds: u32) -> Result<()> {
        process::reset_affinity();
        process::reset_signals().doing("reset the signals")?;
        self.preserved = preserve_fds;
        process::close_on_exec_from(preserve_fds.saturating_add(3)).doing("close descriptors at execve")
    }

    /// A hard limit above the present one can only be set while CAP_SYS_RESOURCE is there.
    pub fn raise_rlimit(&mut self, resource: u32, name: &str, hard: u64) -> Result<()> {
        raise_rlimit(0, resource, name, hard)
    }

    /// The limit as config.json has it. What would hinder the runtime itself (open files) is set at last.
    pub fn rlimit(&mut self, resource: u32, name: &str, soft: u64, hard: u64) -> Result<()> {
        if resource == libc::RLIMIT_NOFILE as u32 {
            self.in_.nofile = None;
        }
        process::set_rlimit(resource, soft, hard).doing(format!("set {name}"))
    }

    /// The environment; HOME from the image's passwd.
    pub fn environment(&mut self, environment: &Environment) -> Result<()> {
        self.env = environment.env.clone();
        if let Some(uid) = environment.home_of {
            self.env.push(format!("HOME={}", super::home::of(&self.in_.rootfs, uid)));
        }
        Ok(())
    }

    /// The process may open /dev/stdout and its like anew. Descriptors that do not let their owner be changed stay.
    pub fn stdio_owner(&mut self, uid: u32) -> Result<()> {
        for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let Ok(stat) = rustix::fs::fstat(fd) else { continue };
            if stat.st_uid == uid || super::devices::is_null(fd) {
                continue;
            }
            match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None).call("fchown", || format!("{uid}")) {
                Err(e) if !matches!(e.errno, Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {
                    return Err(e).doing("give stdio to the process's user");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The working directory, made if it is missing.
    pub fn make_cwd(&mut self, path: &Path) -> Result<()> {
        root::make_dir(&self.in_.rootfs, path).map(drop).doing("make the working directory").map_err(magic_link)
    }

    /// Enters the working directory. Where root may not (NFS with root squash), the user tries later; and what is in the
    /// /proc of a pid namespace (/proc/self) is not there for who has yet to enter that.
    pub fn cwd(&mut self, path: &Path) -> Result<()> {
        self.try_cwd(path, |child, errno| errno == Errno::EACCES || child.enters && errno == Errno::ENOENT)
    }

    fn try_cwd(&mut self, path: &Path, later: impl Fn(&Self, Errno) -> bool) -> Result<()> {
        match self.enter(path) {
            Err(e) if later(self, e.errno) => {
                self.cwd_later = Some(path.to_owned());
                Ok(())
            }
            r => {
                let entered = r.doing(format!("enter the working directory {}", path.display()));
                entered.map_err(|e| magic_link(e).field("process.cwd"))
            }
        }
    }

    fn enter(&self, path: &Path) -> std::result::Result<(), SysError> {
        let dir = root::open(&self.in_.rootfs, path, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::process::fchdir(dir).call("fchdir", || format!("{path:?}"))
    }

    /// From here on the process is the container's user.
    pub fn user(&mut self, uid: u32, gid: u32, groups: &Groups, umask: u32) -> Result<()> {
        if uid != 0 {
            process::keep_capabilities().doing("keep capabilities over the change of the user")?;
        }
        match groups {
            Groups::These(list) => process::set_groups(list).doing("set the supplementary groups")?,
            Groups::NoneIfPossible => match process::set_groups(&[]) {
                Err(e) if e.errno == Errno::EPERM => {}
                done => done.doing("give up the supplementary groups")?,
            },
            Groups::Callers => {}
        }
        process::set_ids(uid, gid).doing("change the user")?;
        rustix::process::umask(Mode::from_raw_mode(umask));
        if uid != 0 || gid != 0 {
            // The change may have made the process dumpable (fs.suid_dumpable).
            process::set_nondumpable().doing("stay non-dumpable")?;
        }
        match self.cwd_later.take() {
            Some(path) => self.try_cwd(&path, |child, errno| child.enters && errno == Errno::ENOENT),
            None => Ok(()),
        }
    }

    /// The capability sets. `until_exec` is kept for the load of the filter; it is in no bounding, inheritable or ambient
    /// set, so execve drops it.
    pub fn capabilities(&mut self, sets: &Capabilities, until_exec: u64) -> Result<()> {
        let (effective, permitted) = (sets.effective | until_exec, sets.permitted | until_exec);
        process::set_capabilities(effective, permitted, sets.inheritable).doing("set the capabilities")?;
        process::set_ambient(sets.ambient).doing("set the ambient capabilities")
    }

    /// As exec.LookPath of Go does it, with its words, which engines match on. All that execve needs is made ready here:
    /// once the filter is loaded, not even memory may be had.
    pub fn look_up(&mut self, args: &[String]) -> Result<()> {
        let name = args.first().map(String::as_str).unwrap_or_default();
        let in_path = !name.contains('/');
        for path in plan::candidates(name, &self.env) {
            match executable(&path) {
                Ok(()) => {
                    self.exec = Some(Exec::new(&path.to_string_lossy(), args, &self.env).doing("prepare execve")?);
                    return Ok(());
                }
                Err(_) if in_path => {}
                Err(why) => return Err(Error::new(format!("exec: {name:?}: {why}"))),
            }
        }
        Err(Error::new(format!("exec: {name:?}: executable file not found in $PATH")))
    }

    /// All is ready; the parent writes the state and says go. Its end is ours.
    pub fn ready(&mut self, seccomp: bool) -> Result<()> {
        let report = || sync::report(self.socket()?, &FromChild::Ready).doing("report that all is ready");
        faults::message("child", "ready", report)?;
        loop {
            if let ToChild::Go(page) = self.hear()? {
                faults::at("child", "after-go")?;
                if seccomp && self.filter.is_none() {
                    return Err(Error::new("the parent sent no filter"));
                }
                // `run` sends the page at once. A `create` listens until we wait for `start`.
                if let Some(page) = page {
                    let page = Page::map(page).doing("map the page for errors")?;
                    with_report(|(_, to)| *to = Some(Listener::Page(page)));
                }
                return Ok(());
            }
        }
    }

    /// The next message of the parent, whose end is ours. A filter is kept.
    pub fn hear(&mut self) -> Result<ToChild> {
        match sync::hear(self.socket()?.as_fd()).doing("wait for the parent")? {
            Some(ToChild::Filter(bpf, flags)) => {
                faults::at("child", "after-filter")?;
                self.filter = Some((bpf, flags));
                Ok(ToChild::Filter(Vec::new(), flags))
            }
            Some(message) => Ok(message),
            None => process::exit_now(1),
        }
    }

    /// Makes the process that goes on in the container's pid namespace. It is seen in there, and who has CAP_SYS_PTRACE has
    /// it in his hands: so it has nothing of the runtime's but the socket, and of its rights only what it needs for the filter
    /// (CVE-2016-9962).
    pub fn enter_pids(&mut self) -> Result<()> {
        if !self.enters {
            return Ok(());
        }
        // What the parent does to this process, the new one inherits.
        while !matches!(self.hear()?, ToChild::Enter) {}
        faults::at("child", "after-enter")?;
        let listener = with_report(|(_, to)| match to {
            Some(Listener::Socket(socket)) => Some(socket.as_raw_fd()),
            _ => None,
        });
        // What owns the others is never dropped: this process ends by execve or exit_group.
        let kept = listener.into_iter().chain([self.socket()?.as_raw_fd()]).chain(faults::descriptor()).collect();
        process::close_all_but(self.preserved.saturating_add(3), kept).doing("close the runtime's descriptors")?;
        if let Some(entered) = clone::clone3_for_parent(0, None).doing("make the container's process")? {
            let entered = FromChild::Entered(entered.pidfd);
            let report = || sync::report(self.socket()?, &entered).doing("report who goes on");
            faults::message("child", "entered", report)?;
            process::exit_now(0);
        }
        self.enters = false;
        process::setsid().doing("start a session")?;
        if self.in_.plan.steps.iter().any(|step| matches!(step.op, Op::Console { .. })) {
            super::console::take(rustix::stdio::stdin())?;
        }
        faults::at("child", "born-in-the-pid-namespace")?;
        let Some(path) = self.cwd_later.take() else { return Ok(()) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).call("open", || "/".into()).doing("open the root")?;
        std::mem::forget(std::mem::replace(&mut self.in_.rootfs, root)); // it is closed
        self.try_cwd(&path, |_, _| false)
    }

    /// Waits until `start` says go. Whoever connects and leaves without a word only looked whether we wait.
    pub fn await_start(&mut self) -> Result<()> {
        let Some(listener) = self.in_.listener.take() else { return Err(Error::new("no start socket")) };
        let Some(socket) = self.in_.socket.take() else { return Err(Error::new("no socket of the parent")) };
        // Asked of the kernel, since in a user namespace the owner has another number, or none.
        let owner = socket::peer_uid(&socket).doing("look who made the container")?;
        // From here on there is nobody to tell a failure to, until somebody connects: it is the end of `create`.
        drop(socket);
        with_report(|(_, to)| *to = None);
        loop {
            let (peer, uid) = socket::accept(&listener).doing("wait for start")?;
            if uid != owner {
                continue;
            }
            if let Ok(Some(ToChild::Go(Some(page)))) = sync::hear(peer.as_fd()) {
                with_report(|(_, to)| *to = peer.try_clone().ok().map(Listener::Socket));
                faults::at("child", "after-start")?;
                let page = Page::map(page).doing("map the page for errors")?;
                with_report(|(_, to)| *to = Some(Listener::Page(page)));
                // Kept before anything can fail: its end of file is the word to read the page.
                let peer = self.started.insert(peer);
                return faults::message("child", "answer", || {
                    sync::report(peer, &FromChild::Ready).doing("answer to start")
                });
            }
        }
    }

    /// The last act before execve, so that a strict profile need not allow the runtime's own calls.
    pub fn load_seccomp(&mut self) -> Result<()> {
        let Some((bpf, flags)) = self.filter.take() else { return Err(Error::new("the parent sent no filter")) };
        self.put_nofile_back()?;
        process::load_seccomp(&bpf, flags).doing("load the filter")
    }

    /// Open files may be limited to what the runtime itself could not work with, so this comes last.
    fn put_nofile_back(&mut self) -> Result<()> {
        match self.in_.nofile.take() {
            Some((soft, hard)) => {
                process::set_rlimit(libc::RLIMIT_NOFILE as u32, soft, hard).doing("put the limit of open files back")
            }
            None => Ok(()),
        }
    }

    /// Becomes the container's process.
    pub fn exec(&mut self) -> Result<()> {
        self.put_nofile_back()?;
        let Some(exec) = self.exec.take() else { return Err(Error::new("nothing was looked up to execute")) };
        let error = exec.run();
        // Docker and Podman look for these words, in this form.
        Err(Error::sys(format!("exec {}: {}", error.args, errno_text(error.errno)), error))
    }
}

/// Raises the hard limit of a process, of this one for 0, if it is lower. A process in a user namespace may not do that
/// itself: then the parent does it.
pub fn raise_rlimit(pid: i32, resource: u32, name: &str, hard: u64) -> Result<()> {
    let (soft, now) = process::rlimit(pid, resource).doing(format!("read {name}"))?;
    if hard <= now {
        return Ok(());
    }
    process::set_rlimit_of(pid, resource, soft, hard)
        .doing(format!("raise the hard limit from {now} to {hard}"))
        .map_err(|e| e.hint("the runtime needs CAP_SYS_RESOURCE to raise a limit"))
}

/// Whether the path may be executed; else the reason in Go's words.
fn executable(path: &Path) -> std::result::Result<(), String> {
    let stat = rustix::fs::stat(path).call("stat", String::new);
    let stat = stat.map_err(|e| format!("stat {}: {}", path.display(), errno_text(e.errno)))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err("is a directory".into());
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .call("faccessat2", String::new)
        .map_err(|e| errno_text(e.errno))
}

/// CVE-2024-21626: a working directory through /proc/self/fd would be one of the host's.
fn magic_link(e: Error) -> Error {
    match e.errno() {
        Some(Errno::ELOOP) => {
            e.hint("it leads through a link of /proc (or a loop of links), which could leave the container")
        }
        _ => e,
    }
}
