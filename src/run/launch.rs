//! clone3(2), in the mount namespace and the cgroup that the plan says.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::antechamber;
use crate::cgroup::Cgroup;
use crate::child;
use crate::error::{Doing, Error, Origin, Result};
use crate::plan::{Plan, Tree};
use crate::sys::clone;

/// Makes the child. `ours` is the parent's end of the pair: the child must not have it, too, or it would never see the end
/// of file when the parent is gone.
pub fn launch(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    inherited: &mut Option<child::Inherited<'_>>,
    ours: &mut Option<std::os::fd::OwnedFd>,
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
    if let Some(join) = inherited.as_ref().and_then(|i| i.join.as_ref()).filter(|j| j.before != 0) {
        // Nobody is made after this one, so there is no way back.
        clone::setns(&join.init, join.before).doing("join the container's namespaces")?;
    }
    let made = match plan.tree {
        Tree::Antechamber => antechamber::open().and_then(|a| antechamber::clone3(&a, flags, cgroup_fd)),
        _ => clone::clone3(flags, cgroup_fd).doing("make the container's process"),
    };
    match made {
        Ok(Some(child)) => Ok(child),
        Ok(None) => match inherited.take() {
            Some(inherited) => {
                drop(ours.take());
                child::run(inherited)
            }
            None => crate::sys::process::exit_now(1),
        },
        Err(e) => Err(explain(e, born_in)),
    }
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
