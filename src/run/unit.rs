//! `--systemd-cgroup`: the container's cgroup is made by systemd around the process that is there already.

use std::path::Path;

use super::prepare::Prepared;
use crate::cgroup::systemd::{Unit, bus, properties};
use crate::cgroup::{self, Cgroup};
use crate::error::{Doing, Error, Result};
use crate::plan::{Op, Plan};
use crate::state::CgroupState;
use crate::sys::Call;

/// Has systemd start the unit with the process in it, and opens its cgroup.
///
/// # Errors
/// systemd does not answer, or refuses; the process is not where it should be.
pub fn start(op: &Op, plan: &Plan, prepared: &mut Prepared, pid: i32) -> Result<()> {
    let Op::StartUnit { unit, limits, rules, properties: annotated, subgroup } = op else {
        return Err(Error::new("not the start of a unit"));
    };
    let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let mut all = properties::unit(unit, &plan.id, pid as u32);
    let version = version(unit, limits);
    all.extend(properties::limits(limits, version));
    if !unit.is_slice() {
        all.extend(properties::oom_policy(limits, version));
    }
    all.extend(properties::devices(rules, &groups));
    for (name, value) in annotated {
        all.retain(|(n, _)| n != name); // systemd would refuse it twice, or take both
        all.push((name.clone(), value.clone()));
    }
    bus::start(unit, &all).map_err(|e| {
        // systemd may refuse a value without a word of which one.
        let names: Vec<_> = annotated.iter().map(|(name, _)| name.as_str()).collect();
        match (&e.hint, names.is_empty()) {
            (None, false) => e.hint(format!("the annotations org.systemd.property.* ask for {}", names.join(", "))),
            _ => e,
        }
    })?;
    prepared.unit = Some(unit.clone()); // one that could not be started is perhaps somebody else's
    let host = cgroup::Host::find()?;
    let cgroup = find(&host, unit, pid)?;
    if !limits.is_empty() {
        cgroup.enable_controllers(&host);
    }
    if unit.is_slice() {
        cgroup.attach(pid)?;
    }
    if let Some(name) = subgroup {
        cgroup.make_subgroup(name)?.attach(pid)?;
    }
    prepared.cgroup = Some(cgroup);
    Ok(())
}

/// The version of systemd, asked for only where it matters.
pub fn version(unit: &Unit, limits: &[cgroup::limits::Write]) -> u32 {
    let newer = ["cpu.idle", "memory.zswap.max", "memory.oom.group"];
    if limits.iter().any(|w| newer.contains(&w.file.as_ref())) { bus::version(unit) } else { 0 }
}

/// Where systemd has put the process.
fn find(host: &cgroup::Host, unit: &Unit, pid: i32) -> Result<Cgroup> {
    let path = if unit.is_slice() {
        unit.path()
    } else {
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&file).call("read", || file).doing("find the container's cgroup")?;
        let path = cgroup::own_path(&text)?;
        Path::new(path.trim_start_matches('/')).to_owned()
    };
    if !unit.is_slice() && path.file_name() != Some(unit.name.as_ref()) {
        return Err(Error::new(format!("systemd left the process in {path:?}, not in {}", unit.name)));
    }
    cgroup::open_existing(&host.root.join(path))?.ok_or_else(|| Error::new("the cgroup of the unit is gone again"))
}

/// Ends the unit of a container whose processes have been killed.
///
/// # Errors
/// systemd does not answer, or cannot stop it.
pub fn stop(state: &CgroupState) -> Result<()> {
    state.unit.as_ref().map_or(Ok(()), bus::stop)
}
