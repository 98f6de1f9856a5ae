//! What tare does not do yet, refused by its name; and what no runtime does on cgroup v2, told in the log.
//! What is empty, false or zero asks for nothing and is never refused.

use oci_spec::runtime::{
    LinuxIntelRdt, LinuxNamespaceType, LinuxPersonality, LinuxPersonalityDomain, LinuxSeccompAction, Spec,
};

use super::bad;
use super::check::{filled, word};
use crate::error::{Error, Origin, Result};

const LATER: &str = "not supported yet";

/// Refuses the first field that is asked for.
fn refuse(fields: &[(&'static str, bool)]) -> Result<()> {
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(bad(*field, LATER)),
        None => Ok(()),
    }
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|l| !l.is_empty())
}

/// Who asks for a virtual machine counts on its isolation.
pub fn platform(spec: &Spec) -> Result<()> {
    match spec.vm() {
        Some(_) => Err(bad("vm", "not supported: this runtime starts no virtual machines")),
        None => Ok(()),
    }
}

pub fn process(spec: &Spec) -> Result<()> {
    let Some(process) = spec.process() else { return Ok(()) };
    let affinity = process.exec_cpu_affinity().as_ref();
    refuse(&[
        ("process.apparmorProfile", filled(process.apparmor_profile())),
        ("process.selinuxLabel", filled(process.selinux_label())),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.execCPUAffinity", affinity.is_some_and(|a| filled(a.initial()) || filled(a.cpu_affinity_final()))),
    ])
}

pub fn namespaces(spec: &Spec) -> Result<()> {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    for (i, namespace) in list.iter().enumerate() {
        let kind = namespace.typ();
        let joined = namespace.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty());
        if kind == LinuxNamespaceType::Mount && joined {
            return Err(Error::new(format!("joining a mount namespace is {LATER}"))
                .at(Origin::new(format!("linux.namespaces[{i}].path"), word(kind))));
        }
    }
    Ok(())
}

pub fn linux(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let cpu = linux.resources().as_ref().and_then(|r| r.cpu().as_ref());
    refuse(&[
        ("linux.mountLabel", filled(linux.mount_label())),
        ("linux.intelRdt", linux.intel_rdt().as_ref().is_some_and(asks_for_rdt)),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty())),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().as_ref().is_some_and(asks_for_personality)),
    ])?;
    for (field, asked) in [
        ("linux.resources.cpu.realtimeRuntime", cpu.is_some_and(|c| c.realtime_runtime().unwrap_or(0) != 0)),
        ("linux.resources.cpu.realtimePeriod", cpu.is_some_and(|c| c.realtime_period().unwrap_or(0) != 0)),
    ] {
        if asked {
            return Err(bad(field, "not supported: cgroup v2 has no realtime limits"));
        }
    }
    Ok(())
}

/// enableCMT and enableMBM are found by `schema`: the type has lost them here.
fn asks_for_rdt(rdt: &LinuxIntelRdt) -> bool {
    filled(rdt.clos_id())
        || some(rdt.schemata())
        || filled(rdt.l3_cache_schema())
        || filled(rdt.mem_bw_schema())
        || *rdt.enable_monitoring() == Some(true)
}

/// LINUX is what every process has unless somebody changed it.
fn asks_for_personality(personality: &LinuxPersonality) -> bool {
    personality.domain() != LinuxPersonalityDomain::PerLinux || some(personality.flags())
}

pub fn seccomp(spec: &Spec) -> Result<()> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    let Some(seccomp) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else { return Ok(()) };
    refuse(&[
        ("linux.seccomp.listenerPath", seccomp.listener_path().as_ref().is_some_and(|p| !p.as_os_str().is_empty())),
        ("linux.seccomp.listenerMetadata", filled(seccomp.listener_metadata())),
    ])?;
    let notify = |field| Err(bad(field, format!("SCMP_ACT_NOTIFY is {LATER}")));
    if seccomp.default_action() == NOTIFY {
        return notify("linux.seccomp.defaultAction".to_owned());
    }
    match seccomp.syscalls().iter().flatten().position(|s| s.action() == NOTIFY) {
        Some(i) => notify(format!("linux.seccomp.syscalls[{i}].action")),
        None => Ok(()),
    }
}

/// What cgroup v1 had. runc ignores these as well; engines still send them.
#[allow(deprecated)] // memory.kernel
pub fn ignored_on_v2(spec: &Spec, log: &mut Vec<String>) {
    let Some(resources) = spec.linux().as_ref().and_then(|l| l.resources().as_ref()) else { return };
    let memory = resources.memory().as_ref();
    let network = resources.network().as_ref();
    let block_io = resources.block_io().as_ref();
    let weights = block_io.and_then(|b| b.weight_device().as_deref()).unwrap_or_default();
    for (field, there) in [
        ("memory.kernel", memory.is_some_and(|m| m.kernel().unwrap_or(0) != 0)),
        ("memory.kernelTCP", memory.is_some_and(|m| m.kernel_tcp().unwrap_or(0) != 0)),
        ("memory.swappiness", memory.is_some_and(|m| m.swappiness().unwrap_or(0) != 0)),
        ("memory.disableOOMKiller", memory.is_some_and(|m| m.disable_oom_killer() == Some(true))),
        ("memory.useHierarchy", memory.is_some_and(|m| m.use_hierarchy() == Some(true))),
        ("network.classID", network.is_some_and(|n| n.class_id().unwrap_or(0) != 0)),
        ("network.priorities", network.is_some_and(|n| some(n.priorities()))),
        ("blockIO.leafWeight", block_io.is_some_and(|b| b.leaf_weight().unwrap_or(0) != 0)),
        ("blockIO.weightDevice[].leafWeight", weights.iter().any(|w| w.leaf_weight().unwrap_or(0) != 0)),
    ] {
        if there {
            log.push(format!("linux.resources.{field}: ignored, cgroup v2 has no such control"));
        }
    }
}
