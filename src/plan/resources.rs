//! The container's cgroup: its path, its limits, its device filter.

use std::path::PathBuf;

use oci_spec::runtime::{Mount, Spec};

use super::{Facts, Namespaces, Op, Options, Steps};
use crate::cgroup;
use crate::cgroup::systemd::{Unit, properties};
use crate::error::{Error, Origin, Result};

/// crun's annotation for a cgroup below the scope, which the container's process is in.
const SUBGROUP: &str = "run.oci.systemd.subgroup";

/// Returns the cgroup's path below the cgroup2 mount (or none with `--cgroup-manager=disabled`), and its unit if systemd
/// makes it.
pub fn plan(
    spec: &Spec,
    facts: &Facts,
    options: &Options,
    steps: &mut Steps,
    log: &mut Vec<String>,
) -> Result<(Option<PathBuf>, Option<Unit>)> {
    if options.no_cgroup {
        return Ok((None, None));
    }
    let linux = spec.linux().as_ref();
    let asked = linux.and_then(|l| l.cgroups_path().as_deref());
    let unit = options.systemd.map(|manager| Unit::parse(asked, &options.id, manager)).transpose()?;
    let path = match &unit {
        Some(unit) => unit.path(),
        None => cgroup::container_path(asked, &options.id, &facts.own_cgroup)?,
    };
    let origin = Origin::new("linux.cgroupsPath", facts.cgroup_root.join(&path).display().to_string());

    let resources = linux.and_then(|l| l.resources().as_ref());
    let mut limits = Vec::new();
    if let Some(resources) = resources {
        log.extend(cgroup::limits::ignored(resources).iter().map(ToString::to_string));
        limits = cgroup::limits::writes(resources)?;
    }
    let listed = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
    let nodes = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
    let rules = cgroup::devices::rules(listed, nodes)?;

    match &unit {
        Some(unit) => {
            let properties = properties::annotated(spec.annotations().as_ref())?;
            let subgroup = spec.annotations().as_ref().and_then(|a| a.get(SUBGROUP)).filter(|name| !name.is_empty());
            if let Some(name) = subgroup {
                crate::state::check_id(name).map_err(|_| {
                    Error::new(format!("{name:?} is not the name of a cgroup"))
                        .field(format!("annotations[{SUBGROUP}]"))
                })?;
            }
            let (unit, limits, rules) = (unit.clone(), limits.clone(), rules.clone());
            steps.after(origin, Op::StartUnit { unit, limits, rules, properties, subgroup: subgroup.cloned() });
        }
        None => steps.before(origin, Op::CreateCgroup { path: path.clone() }),
    }
    if !limits.is_empty() {
        steps.after(Origin::field("linux.resources"), Op::LimitCgroup { writes: limits });
    }
    // Who is not root cannot attach it, and needs it less: nobody there can make a device node, or open one that he could
    // not open without a container.
    let optional = !facts.privileged;
    steps.after(Origin::field("linux.resources.devices"), Op::DeviceFilter { rules, optional });
    // As runc has it: where the container sees its cgroup as the root, and may write to it.
    let namespaces = Namespaces::of(spec, false);
    let writable = |m: &Mount| {
        let options = m.options().as_deref().unwrap_or_default();
        matches!(m.typ().as_deref(), Some("cgroup" | "cgroup2")) && !options.iter().any(|o| o == "ro" || o == "rro")
    };
    if let Some(uid) = namespaces.maps.as_ref().and_then(|maps| maps.outside(0))
        && namespaces.cgroup
        && spec.mounts().iter().flatten().any(writable)
    {
        steps.after(Origin::field("linux.uidMappings"), Op::Delegate { uid });
    }
    Ok((Some(path), unit))
}
