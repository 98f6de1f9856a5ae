//! The gate: a process between the parent and the container's. A child of clone3(NEWUSER) has no right to join what belongs to
//! the host any more, and what is made after a user namespace was joined belongs to that: so this one joins all that is
//! joined, the user namespace last, makes the child as the parent's own (CLONE_PARENT), hands its pidfd over and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType;

use super::sync::Report;
use crate::child::{self, Inherited};
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::plan::{Op, Plan, Tree};
use crate::spec::sysctl_namespace;
use crate::sys::clone::{self, Child};
use crate::sys::{Call, process, socket};

/// Makes the child behind the gate.
pub fn launch(
    plan: &Plan,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    antechamber: Option<&OwnedFd>,
    inherited: &mut Option<Inherited<'_>>,
    ours: &mut Option<OwnedFd>,
) -> Result<Child> {
    let (here, there) = socket::pair().doing("make a socket pair")?;
    let Some(gate) = clone::clone3(0, None).doing("make the process that joins namespaces")? else {
        drop(here);
        match pass(plan, flags, cgroup, antechamber, inherited) {
            // The container's process.
            Ok(None) => {
                drop((there, ours.take()));
                match inherited.take() {
                    Some(inherited) => child::run(inherited),
                    None => process::exit_now(1),
                }
            }
            Ok(Some(child)) => match faults::at("gate", "before-pidfd") {
                Ok(()) => drop(socket::send_fd(&there, b"+", child.pidfd.as_fd())),
                Err(e) => drop(socket::send(&there, &Report::new(&e).to_bytes())),
            },
            Err(e) => drop(socket::send(&there, &Report::new(&e).to_bytes())),
        }
        process::exit_now(0)
    };
    drop(there);
    let word = socket::receive(&here, 64 * 1024).doing("wait for the process that joins namespaces");
    clone::wait(&gate.pidfd).doing("wait for the process that joins namespaces")?;
    match word? {
        Some((_, Some(pidfd))) => {
            let pid = clone::pid_of(&pidfd).doing("ask for the pid of the container's process")?;
            Ok(Child { pid, pidfd })
        }
        Some((bytes, None)) => Err(Report::from_bytes(&bytes)
            .map_or_else(|| Error::new("the process that joins namespaces said something unexpected"), Report::error)),
        None => Err(Error::new("the process that joins namespaces was killed")),
    }
}

/// In the gate; and in the container's process, which gets nothing.
fn pass(
    plan: &Plan,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    antechamber: Option<&OwnedFd>,
    inherited: &mut Option<Inherited<'_>>,
) -> Result<Option<Child>> {
    faults::at("gate", "before-join")?;
    let joined = inherited.as_mut().map(|i| std::mem::take(&mut i.joined)).unwrap_or_default();
    if plan.tree == Tree::Antechamber
        && let Some(antechamber) = antechamber
    {
        clone::setns(antechamber, libc::CLONE_NEWNS).doing("enter the antechamber")?;
    }
    if let Some(offsets) = &plan.namespaces.time {
        super::launch::new_time(offsets)?;
    }
    for namespace in &joined {
        clone::setns(&namespace.file, namespace.flag as i32)
            .doing("join the namespace")
            .map_err(|e| e.field(namespace.field.clone()))?;
    }
    faults::at("gate", "after-join")?;
    clone::clone3_for_parent(flags, cgroup).doing("make the container's process")
}

/// A namespace to be joined, open.
pub struct Open {
    /// `CLONE_NEW*`
    pub flag: u64,
    /// Its file.
    pub file: OwnedFd,
    /// `linux.namespaces[3]`
    pub field: String,
}

/// Opens the namespaces that are joined, and sees to it that each is of its kind.
///
/// # Errors
/// A file that is not there, or no namespace of that kind.
pub fn open(plan: &Plan) -> Result<Vec<Open>> {
    let one = |joined: &crate::plan::Joined| {
        let path = &joined.path;
        let field =
            |e: Error| e.at(crate::error::Origin::new(joined.field.clone() + ".path", path.display().to_string()));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).call("open", || format!("{path:?}"));
        let file = file.doing("open the namespace").map_err(field)?;
        match clone::namespace_type(&file) {
            Ok(kind) if kind == joined.flag => Ok(Open { flag: joined.flag, file, field: joined.field.clone() }),
            Ok(kind) => {
                Err(field(Error::new(format!("it is a namespace of another kind: {}", clone::flag_names(kind)))))
            }
            Err(_) => Err(field(Error::new("it is no namespace"))),
        }
    };
    let open = plan.namespaces.join.iter().map(one).collect::<Result<Vec<Open>>>()?;
    open.iter().try_for_each(|namespace| spare_ours(plan, namespace))?;
    Ok(open)
}

/// A path may lead to the namespace that we are in ourselves: what the container sets there would be set for the host.
fn spare_ours(plan: &Plan, joined: &Open) -> Result<()> {
    let kind = |op: &Op| match op {
        Op::Hostname { .. } | Op::Domainname { .. } => Some(LinuxNamespaceType::Uts),
        Op::Sysctl { path, .. } => sysctl_namespace(path),
        _ => None,
    };
    let Some((step, kind)) = plan.steps.iter().find_map(|step| {
        let kind = kind(&step.op).filter(|kind| *kind as u64 == joined.flag)?;
        Some((step, kind))
    }) else {
        return Ok(());
    };
    let (word, file) = match kind {
        LinuxNamespaceType::Network => ("network", "net"),
        LinuxNamespaceType::Ipc => ("ipc", "ipc"),
        _ => ("uts", "uts"),
    };
    let path = format!("/proc/self/ns/{file}");
    let ours = rustix::fs::stat(path.as_str()).call("stat", || path.clone()).doing("look at our own namespace")?;
    let theirs =
        rustix::fs::fstat(&joined.file).call("fstat", || joined.field.clone()).doing("look at the namespace")?;
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
        return Ok(());
    }
    Err(Error::new(format!("not allowed in the host's {word} namespace"))
        .at(step.origin.clone())
        .hint(format!("that is where {}.path leads", joined.field)))
}
