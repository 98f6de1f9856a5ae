//! clone3(2), in the mount namespace and the cgroup that the plan says.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::{antechamber, gate};
use crate::cgroup::Cgroup;
use crate::child;
use crate::error::{Doing, Error, Origin, Result};
use crate::plan::{By, NEWTIME, Plan, Tree};
use crate::sys::{Call, clone};

/// Makes the child. `ours` is the parent's end of the pair: the child must not have it, too, or it would never see the end
/// of file when the parent is gone.
pub fn launch(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    inherited: &mut Option<child::Inherited<'_>>,
    ours: &mut Option<OwnedFd>,
) -> Result<clone::Child> {
    let placed = inherited.as_ref().is_some_and(|i| i.placed);
    let born_in = cgroup.filter(|_| placed);
    let mut flags = plan.namespaces.early;
    if plan.namespaces.cgroup && born_in.is_some() {
        flags |= libc::CLONE_NEWCGROUP as u64;
    }
    if plan.tree == Tree::OpenTree {
        flags &= !(libc::CLONE_NEWNS as u64); // the child enters the one that was made of the rootfs
    }
    let cgroup_fd = born_in.map(AsFd::as_fd);
    let antechamber = match plan.tree {
        Tree::Antechamber => Some(antechamber::open()?),
        _ => None,
    };
    if plan.namespaces.gate() {
        let made = gate::launch(plan, flags, cgroup_fd, antechamber.as_ref(), inherited, ours);
        return made.map_err(|e| explain(e, born_in));
    }
    let back = join_for_children(plan, inherited.as_ref())?;
    let made = match &antechamber {
        Some(antechamber) => antechamber::clone3(antechamber, flags, cgroup_fd),
        None => clone::clone3(flags, cgroup_fd).doing("make the container's process"),
    };
    if !matches!(made, Ok(None)) {
        for (file, flag) in &back {
            clone::setns(file, *flag).doing("return from the joined namespaces")?;
        }
    }
    match made {
        Ok(Some(child)) => Ok(child),
        Ok(None) => match inherited.take() {
            Some(inherited) => {
                drop((ours.take(), back));
                child::run(inherited)
            }
            None => crate::sys::process::exit_now(1),
        },
        Err(e) => Err(explain(e, born_in)),
    }
}

/// The namespaces that only children get into (pid, time) are joined by the parent; returns the way back.
fn join_for_children(plan: &Plan, inherited: Option<&child::Inherited<'_>>) -> Result<Vec<(OwnedFd, i32)>> {
    const TIME: i32 = NEWTIME as i32;
    let own = |name: &str| {
        let path = format!("/proc/self/ns/{name}");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty()).call("open", || path.clone());
        file.doing("remember our own namespace")
    };
    let mut back = Vec::new();
    let ours = |namespace: &&gate::Open| plan.namespaces.by(namespace.flag) == Some(By::Parent);
    for namespace in inherited.iter().flat_map(|i| &i.joined).filter(ours) {
        let (name, flag) = if namespace.flag == NEWTIME { ("time", TIME) } else { ("pid", libc::CLONE_NEWPID) };
        back.push((own(name)?, flag));
        let joined = clone::setns(&namespace.file, flag).doing("join the namespace");
        joined.map_err(|e| e.field(namespace.field.clone()))?;
    }
    if let Some(offsets) = &plan.namespaces.time {
        back.push((own("time")?, TIME));
        new_time(offsets)?;
    }
    Ok(back)
}

/// A new time namespace for the next child, with its clocks set (time_namespaces(7)).
pub fn new_time(offsets: &[String]) -> Result<()> {
    clone::unshare(NEWTIME as i32).doing("make the time namespace").map_err(|e| e.field("linux.namespaces"))?;
    let path = "/proc/self/timens_offsets";
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    offsets.iter().try_for_each(|line| {
        let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).call("open", || path.into());
        let written = file.and_then(|f| {
            rustix::io::write(&f, line.as_bytes()).map(drop).call("write", || format!("{path}, {line:?}"))
        });
        written.doing("set the clocks of the time namespace").map_err(|e| e.field("linux.timeOffsets"))
    })
}

/// Errors of clone3 have a meaning of their own.
fn explain(e: Error, cgroup: Option<&Cgroup>) -> Error {
    let Some(source) = e.source.clone().filter(|s| s.call == "clone3") else { return e };
    match (source.errno, cgroup) {
        (Errno::ENOENT | Errno::ENODEV | Errno::EBUSY | Errno::EOPNOTSUPP | Errno::EACCES, Some(cgroup)) => {
            cgroup.explain_entry(source)
        }
        (Errno::EAGAIN, _) => e.hint("pids.max of a cgroup above, RLIMIT_NPROC or the kernel's pid limit is reached"),
        (Errno::ENOSPC, _) => e.hint("a limit of /proc/sys/user/max_*_namespaces is reached"),
        (Errno::EPERM, _) => e.at(Origin::field("linux.namespaces")).hint("new namespaces need CAP_SYS_ADMIN"),
        _ => e,
    }
}
