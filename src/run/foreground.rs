//! `run` without `-d`: signals are passed on, and the exit status is the container's.

use std::os::fd::AsFd;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Doing, Result};
use crate::sys::clone::{self, Child};
use crate::sys::{Call, process, socket};

/// Blocks all signals and makes a descriptor that they come to. A `create` is undone by one; a `run` passes it on.
/// Children can only be waited for where SIGCHLD is not ignored (waitpid(2), NOTES), which a caller may have done.
pub fn take_signals() -> Result<SignalFd> {
    process::default_signal(libc::SIGCHLD).doing("no longer ignore SIGCHLD")?;
    let all = SigSet::all();
    all.thread_block().call("sigprocmask", || "SIG_BLOCK, all".into()).doing("block signals")?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .call("signalfd4", String::new)
        .doing("wait for signals")
}

/// Becomes the reaper of what the container's process leaves behind (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .call("prctl", || "PR_SET_CHILD_SUBREAPER, 1".into())
        .doing("become a subreaper")
}

/// Waits for the process and returns its exit status, 128 + N after a signal.
pub fn wait(child: &Child, signals: &SignalFd) -> Result<i32> {
    loop {
        let [ended, signalled] =
            socket::wait_any([child.pidfd.as_fd(), signals.as_fd()], None).doing("wait for the container's process")?;
        if signalled {
            pass_on(signals, child, || ());
        }
        if ended {
            return clone::wait(&child.pidfd).map(|exit| exit.status()).doing("wait for the container's process");
        }
    }
}

/// Passes on the signals that have come. `resized` is for SIGWINCH where the container has a terminal of its own; its
/// processes get the signal from that.
pub fn pass_on(signals: &SignalFd, child: &Child, resized: impl Fn()) {
    while let Ok(Some(signal)) = signals.read_signal() {
        match signal.ssi_signo as i32 {
            libc::SIGCHLD => clone::reap_others(child.pid),
            // Of no meaning to another process, or the runtime's own doing.
            libc::SIGPIPE | libc::SIGURG => {}
            libc::SIGWINCH => {
                resized();
                let _ = clone::pidfd_send_signal(&child.pidfd, libc::SIGWINCH);
            }
            signal => drop(clone::pidfd_send_signal(&child.pidfd, signal)),
        }
    }
}
