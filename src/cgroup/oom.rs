//! Whether the memory limit killed somebody.

use std::os::fd::AsFd;

use super::fs::{Cgroup, read};

impl Cgroup {
    /// The highest use of memory in bytes (memory.peak, Linux 5.19; else the limit itself), if the OOM killer has killed in
    /// this cgroup.
    pub fn oom_peak(&self) -> Option<u64> {
        let events = read(self.as_fd(), "memory.events").ok()?;
        let kills = events.lines().find_map(|l| l.strip_prefix("oom_kill "))?.trim().parse::<u64>().ok()?;
        if kills == 0 {
            return None;
        }
        let number = |file| read(self.as_fd(), file).ok()?.trim().parse().ok();
        number("memory.peak").or_else(|| number("memory.max"))
    }
}
