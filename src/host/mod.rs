//! Facts about the kernel, the host and processes.

use std::os::fd::OwnedFd;
use std::path::Path;

use caps::Capability;

use crate::cgroup;
use crate::cgroup::systemd::Manager;
use crate::error::{Doing, Error, Result};
use crate::plan::{Facts, Maps};
use crate::sys::{Call, clone, process, socket};

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).call("read", || path.into()).doing(format!("read {path}"))
}

/// The id of this boot: pids mean nothing in another.
pub fn boot_id() -> Result<String> {
    read("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned())
}

/// A process as /proc/PID/stat has it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Start time in clock ticks since boot, without the reader's time namespace.
    pub start_time: u64,
    state: char,
    flags: u32,
}

impl Process {
    /// A zombie has ended; it only waits for its parent.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// On its way to be one: its descriptors may be closed already.
    pub fn is_ending(&self) -> bool {
        const PF_EXITING: u32 = 4; // include/linux/sched.h; shown by proc_pid_stat(5)
        self.is_dead() || self.flags & PF_EXITING != 0
    }
}

/// The process of this pid, if there is one.
pub fn process(pid: i32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let stat: procfs_core::process::Stat = procfs_core::FromRead::from_read(text.as_bytes()).ok()?;
    let start_time = stat.starttime.saturating_sub_signed(time_offset_ticks());
    Some(Process { start_time, state: stat.state, flags: stat.flags })
}

/// The kernel shifts start times by the boottime offset of the reader's time namespace; one that is in another than the
/// creator's must take it out again.
fn time_offset_ticks() -> i64 {
    // The initial time namespace has none (include/uapi/linux/nsfs.h, TIME_NS_INIT_INO; the same since Linux 5.6).
    if rustix::fs::stat("/proc/self/ns/time").is_ok_and(|s| s.st_ino == 0xEFFF_FFFA) {
        return 0;
    }
    let Ok(text) = std::fs::read_to_string("/proc/self/timens_offsets") else { return 0 };
    let line = text.lines().find(|l| l.starts_with("boottime"));
    let seconds = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<i64>().ok()).unwrap_or(0);
    seconds * 100 // USER_HZ, which is 100 on every architecture that tare is built for
}

/// Everything that the plan needs to know. `cgroup` is the host's cgroup2, if the container is to have a cgroup.
pub fn facts(cgroup: Option<&cgroup::Host>) -> Result<Facts> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if kernel < (5, 14) {
        return Err(Error::new(format!("Linux {release} is too old: tare needs 5.14 or newer")));
    }
    let own = process::permitted().doing("read the runtime's capabilities")?;
    Ok(Facts {
        open_tree_namespace: crate::sys::mount::has_open_tree_namespace(),
        privileged: is_privileged(),
        // Who has none here has all in the user namespace of his container.
        permitted: if own == 0 { process::bounding() } else { own },
        kcore: Path::new("/proc/kcore").exists(),
        cgroup_root: cgroup.map(|c| c.root.clone()).unwrap_or_default(),
        own_cgroup: cgroup.map_or_else(|| "/".into(), |c| c.own.clone()),
    })
}

/// Root of the host, and not only of a user namespace.
pub fn is_privileged() -> bool {
    rustix::process::geteuid().is_root() && is_initial_user_namespace()
}

/// Whether the caller has the capability in the user namespace that he is in.
pub fn has(capability: Capability) -> Result<bool> {
    let permitted = process::permitted().doing("read the runtime's capabilities")?;
    Ok(permitted & capability.bitmask() != 0)
}

/// By the inode of the initial user namespace (include/uapi/linux/nsfs.h, USER_NS_INIT_INO; the same since Linux 3.8).
pub fn is_initial_user_namespace() -> bool {
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|s| s.st_ino == 0xEFFF_FFFD)
}

/// Writes oom_score_adj of a process of ours, through the host's /proc.
pub fn write_oom_score_adj(pid: i32, value: i32) -> Result<()> {
    write_proc(&format!("/proc/{pid}/oom_score_adj"), &value.to_string()).doing("set oom_score_adj")
}

/// Before and after a process is made that is to be given ids by who is not root. What is not dumpable has files in /proc that
/// belong to root of the namespace in which its program was executed; where nobody is that, they belong to the host's. So it is
/// dumpable until it has its ids: nobody is there yet who could make use of it.
///
/// # Errors
/// prctl(2) fails.
pub fn open_to_maps(open: bool) -> Result<()> {
    match (euid(), open) {
        (0, _) => Ok(()),
        (_, true) => process::set_dumpable().doing("become dumpable"),
        (_, false) => process::set_nondumpable().doing("stay non-dumpable"),
    }
}

/// Maps the ids of the user namespace of a process of ours (user_namespaces(7)). Who has no CAP_SETUID may map his own id and
/// no other; for more there are newuidmap(1) and newgidmap(1), which look into /etc/subuid and /etc/subgid.
pub fn write_id_maps(pid: i32, maps: &Maps) -> Result<()> {
    let (uid, gid) = (euid(), egid());
    let alone = !has(Capability::CAP_SETUID)?;
    for (name, lines, own, helper, field) in [
        ("uid_map", &maps.uids, uid, "newuidmap", "linux.uidMappings"),
        ("gid_map", &maps.gids, gid, "newgidmap", "linux.gidMappings"),
    ] {
        let own_only = matches!(lines.as_slice(), [[_, outside, 1]] if *outside == own);
        if alone && !own_only {
            map_by(helper, pid, lines).map_err(|e| e.field(field))?;
            continue;
        }
        if alone && name == "gid_map" {
            // Else groups that deny something to their members could be given up.
            write_proc(&format!("/proc/{pid}/setgroups"), "deny")
                .doing("deny setgroups")
                .map_err(|e| e.field(field))?;
        }
        let text: String =
            lines.iter().map(|[inside, outside, count]| format!("{inside} {outside} {count}\n")).collect();
        // In one write(2), as it must be.
        let written = write_proc(&format!("/proc/{pid}/{name}"), &text);
        written.doing("map the ids of the user namespace").map_err(|e| {
            let hint = match e.errno() {
                Some(nix::errno::Errno::EINVAL) => {
                    "at most 340 lines and less than 4096 bytes of text; none may overlap another"
                }
                Some(nix::errno::Errno::EPERM) => "the runtime may map only ids that are its own",
                _ => return e.field(field),
            };
            e.field(field).hint(hint)
        })?;
    }
    Ok(())
}

fn write_proc(path: &str, text: &str) -> crate::sys::Result<()> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).call("open", || path.into())?;
    // One value is told; a map has up to 340 lines.
    let args = || if text.contains('\n') { path.into() } else { format!("{path}, {text}") };
    rustix::io::write(&file, text.as_bytes()).map(drop).call("write", args)
}

/// Maps ids by newuidmap(1) or newgidmap(1).
fn map_by(helper: &str, pid: i32, lines: &[[u32; 3]]) -> Result<()> {
    let mut command = std::process::Command::new(helper);
    command.arg(pid.to_string()).args(lines.iter().flatten().map(u32::to_string)).stdin(std::process::Stdio::null());
    let out = command.output().map_err(|e| {
        Error::new(format!("map the ids of the user namespace by {helper}: {e}"))
            .hint("who is not root needs newuidmap and newgidmap (package uidmap) to map other ids than the own one")
    })?;
    if out.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::new(format!("map the ids of the user namespace: {helper}: {words}"))
        .hint("/etc/subuid and /etc/subgid tell which ids are the caller's"))
}

/// A user namespace with these mappings, which lives as long as the descriptor: made by a process that does nothing else.
pub fn user_namespace(maps: &Maps) -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair().doing("make a socket pair")?;
    open_to_maps(true)?;
    let made = clone::clone3(libc::CLONE_NEWUSER as u64, None).doing("make a user namespace for its mappings");
    if !matches!(made, Ok(None)) {
        open_to_maps(false)?;
    }
    let Some(child) = made? else {
        drop(ours);
        let _ = socket::receive(&theirs, 1); // until the other end is closed, by us or by our end
        process::exit_now(0)
    };
    drop(theirs);
    let path = format!("/proc/{}/ns/user", child.pid);
    let open = || {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty()).call("open", || path.clone());
        file.doing("open the user namespace")
    };
    // They are a mount's, whose field the caller knows, and not linux.uidMappings.
    let written = write_id_maps(child.pid, maps).map_err(|e| Error { origin: None, ..e });
    let namespace = written.and_then(|()| open());
    drop(ours);
    clone::wait(&child.pidfd).doing("wait for the maker of the user namespace")?;
    namespace
}

/// Which systemd makes the cgroups of who we are: the system's for real root; else that of the user, who in a user
/// namespace of his own has another number than outside, where systemd is.
pub fn systemd() -> Manager {
    let euid = euid();
    if is_privileged() {
        return Manager::System;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let outside = map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [inside, outside, count] = numbers[..] else { return None };
        euid.checked_sub(inside).filter(|n| *n < count).map(|n| outside + n)
    });
    Manager::User(outside.unwrap_or(euid))
}

/// The caller's effective user id.
pub fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The caller's effective group id.
pub fn egid() -> u32 {
    rustix::process::getegid().as_raw()
}
