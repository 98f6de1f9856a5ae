//! Whether the memory limit killed somebody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use super::fs::{Cgroup, gone, open_file, read};
use crate::error::{Doing, Result};
use crate::sys::{self, Call, socket};

/// The open `memory.events`: the kernel wakes a poll(2) for POLLPRI when it has changed since it was last read.
#[derive(Debug)]
pub struct MemoryWatch(OwnedFd);

impl MemoryWatch {
    /// Waits until something happened in the memory of the cgroup, `init` has ended (then it says so), or `time` is over.
    pub fn wait(&self, init: BorrowedFd<'_>, time: Duration) -> sys::Result<bool> {
        // The file counts as seen from here on.
        let mut buffer = [0; 512];
        let _ = rustix::io::pread(&self.0, &mut buffer, 0);
        let mut fds = [PollFd::new(&self.0, PollFlags::PRI), PollFd::from_borrowed_fd(init, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&socket::timespec(time))) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            other => other.map(|_| !fds[1].revents().is_empty()).call("poll", || "\"memory.events\", POLLPRI".into()),
        }
    }
}

impl Cgroup {
    /// The highest use of memory in bytes (memory.peak, Linux 5.19; else the limit itself), if the OOM killer has killed in
    /// this cgroup.
    pub fn oom_peak(&self) -> Option<u64> {
        if self.oom_kills() == 0 {
            return None;
        }
        let number = |file| read(self.as_fd(), file).ok()?.trim().parse().ok();
        number("memory.peak").or_else(|| number("memory.max"))
    }

    /// How often a process in it or below it was killed for want of memory; 0 without the memory controller.
    pub fn oom_kills(&self) -> u64 {
        let kills = |text: String| text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok());
        read(self.as_fd(), "memory.events").ok().and_then(kills).unwrap_or(0)
    }

    /// To be woken when memory runs out; None without the memory controller.
    pub fn watch_memory(&self) -> Result<Option<MemoryWatch>> {
        match open_file(self.as_fd(), "memory.events", OFlags::RDONLY) {
            Ok(file) => Ok(Some(MemoryWatch(file))),
            Err(e) if gone(e.errno) => Ok(None),
            Err(e) => Err(e).doing("watch the container's memory").map_err(|e| e.at(self.origin())),
        }
    }
}
