//! New processes and namespaces: clone3(2), setns(2), unshare(2), pidfds.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::{Call, Result, SysError};

/// include/uapi/linux/sched.h. (The libc crate's constant is an int, in which this bit is lost.)
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process made by [`clone3`], by its pid and its pidfd.
#[derive(Debug)]
pub struct Child {
    /// The pid in our pid namespace.
    pub pid: i32,
    /// Refers to the process even when the pid was given to another.
    pub pidfd: OwnedFd,
}

/// clone3(2) with `CLONE_PIDFD` and the namespaces of `flags`, born in `cgroup` if one is given (`CLONE_INTO_CGROUP`).
/// Returns the child to the parent and `None` to the child, which has a copy of everything.
///
/// # Errors
/// `EDEADLK` when this process has more than one thread: the child would miss the locks that others hold. Those of
/// clone(2) otherwise.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Child>> {
    let args = || format!("{}{}", flag_names(flags), if cgroup.is_some() { ", INTO_CGROUP" } else { "" });
    // A directory's link count is 2 and one for each directory in it: one for each thread.
    let task = rustix::fs::stat("/proc/self/task").call("stat", || "/proc/self/task".into())?;
    if task.st_nlink != 3 {
        return Err(SysError::new("clone3", format!("{}: {} threads", args(), task.st_nlink - 2), Errno::EDEADLK));
    }
    clone3_unchecked(flags, cgroup, args)
}

/// The call itself. The caller has one thread.
fn clone3_unchecked(flags: u64, cgroup: Option<BorrowedFd<'_>>, args: impl Fn() -> String) -> Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    let mut cl = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT it is inherited.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(fd) = cgroup {
        cl.flags |= CLONE_INTO_CGROUP;
        cl.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: `cl` is a valid clone_args of the size given; without CLONE_VM the child runs on a copy of the memory, and
    // the check above makes sure that no other thread can hold a lock in that copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut cl, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(SysError::last("clone3", args())),
        0 => Ok(None),
        pid => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Child { pid: pid as i32, pidfd }))
        }
    }
}

/// A plain new process, made by a child of [`clone3`] as well: that has one thread, too, but perhaps no /proc to see it in.
pub fn fork() -> Result<Option<Child>> {
    clone3_unchecked(0, None, || "0".into())
}

/// clone3(2) of a process that becomes a child of our parent (`CLONE_PARENT`), for one that has come by [`clone3`] itself.
pub fn clone3_for_parent(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Child>> {
    clone3_unchecked(flags | libc::CLONE_PARENT as u64, cgroup, || format!("PARENT|{}", flag_names(flags)))
}

/// The pid of a process, as we see it (fdinfo of its pidfd).
pub fn pid_of(pidfd: impl AsFd) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).call("read", || path.clone())?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).filter(|pid| *pid > 0);
    pid.ok_or_else(|| SysError::new("read", path, Errno::ESRCH))
}

/// The kind of a namespace, as `CLONE_NEW*` (ioctl_nsfs(2), NS_GET_NSTYPE).
///
/// # Errors
/// ENOTTY if it is none.
pub fn namespace_type(file: impl AsFd) -> Result<u64> {
    const NS_GET_NSTYPE: u32 = 0xb703; // include/uapi/linux/nsfs.h
    // SAFETY: the request takes no argument; the descriptor is borrowed for the call.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE as _) };
    if kind < 0 { Err(SysError::last("ioctl", "NS_GET_NSTYPE")) } else { Ok(kind as u64) }
}

/// The names of CLONE_NEW* flags, for messages.
pub fn flag_names(flags: u64) -> String {
    const NAMES: [(i32, &str); 8] = [
        (libc::CLONE_NEWUSER, "NEWUSER"),
        (libc::CLONE_NEWNS, "NEWNS"),
        (libc::CLONE_NEWPID, "NEWPID"),
        (libc::CLONE_NEWNET, "NEWNET"),
        (libc::CLONE_NEWIPC, "NEWIPC"),
        (libc::CLONE_NEWUTS, "NEWUTS"),
        (libc::CLONE_NEWCGROUP, "NEWCGROUP"),
        (0x80, "NEWTIME"),
    ];
    let names: Vec<_> = NAMES.iter().filter(|(f, _)| flags & *f as u64 != 0).map(|(_, n)| *n).collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

/// setns(2): joins the namespace (or with a pidfd the namespaces) that `fd` refers to.
pub fn setns(fd: impl AsFd, flags: i32) -> Result<()> {
    let fd = fd.as_fd();
    // SAFETY: plain integers; the descriptor is borrowed for the call.
    let r = unsafe { libc::setns(fd.as_raw_fd(), flags) };
    if r == 0 {
        return Ok(());
    }
    Err(SysError::last("setns", format!("fd {}, {}", fd.as_raw_fd(), flag_names(flags as u64))))
}

/// unshare(2).
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: plain integers. CLONE_FILES, which would matter to descriptors of other threads, is never passed.
    if unsafe { libc::unshare(flags) } == 0 {
        return Ok(());
    }
    Err(SysError::last("unshare", flag_names(flags as u64)))
}

/// A pidfd of a process that is already there.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    let args = || format!("{pid}");
    let pid = Pid::from_raw(pid).ok_or_else(|| SysError::new("pidfd_open", args(), Errno::ESRCH))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).call("pidfd_open", args)
}

/// Sends a signal (0 only checks) through a pidfd, so that it can never reach another process.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo asks for the default one; the rest are integers.
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) };
    if r == 0 {
        return Ok(());
    }
    Err(SysError::last("pidfd_send_signal", format!("fd {fd}, {signal}")))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With an exit status.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// The status a shell would report: 128 + N after a signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits until our child has ended, and reaps it.
pub fn wait(pidfd: impl AsFd) -> Result<Exit> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e).call("waitid", || format!("P_PIDFD {}", pidfd.as_fd().as_raw_fd())),
            Ok(status) => {
                let Some(status) = status else { continue };
                return Ok(match status.exit_status() {
                    Some(code) => Exit::Code(code),
                    None => Exit::Signal(status.terminating_signal().unwrap_or(libc::SIGKILL)),
                });
            }
        }
    }
}

/// Reaps every child that has ended, as a subreaper must; leaves the one of `keep` to [`wait`].
pub fn reap_others(keep: i32) {
    loop {
        let next =
            rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        // SAFETY: all-zero bytes are a valid siginfo_t; waitid fills it for WNOWAIT.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        if !matches!(next, Ok(Some(_))) {
            return;
        }
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` outlives the call.
        if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) } != 0 {
            return;
        }
        // SAFETY: waitid stored a SIGCHLD siginfo, whose pid field is valid.
        let pid = unsafe { info.si_pid() };
        if pid == 0 || pid == keep {
            return;
        }
        // SAFETY: as above; reaps exactly that child.
        unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, libc::WEXITED | libc::WNOHANG) };
    }
}

/// The inode of a pidfd, which no other process of this boot has; 0 before Linux 6.9, where all share one.
pub fn pidfd_inode(pidfd: impl AsFd) -> u64 {
    const PID_FS_MAGIC: i64 = 0x5049_4446; // include/uapi/linux/magic.h
    let pidfs = rustix::fs::fstatfs(&pidfd).is_ok_and(|fs| fs.f_type == PID_FS_MAGIC);
    if !pidfs {
        return 0;
    }
    rustix::fs::fstat(&pidfd).map_or(0, |s| s.st_ino)
}
