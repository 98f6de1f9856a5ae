//! The container's cgroup: its path, its limits, its device filter.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::{Facts, Op, Options, Steps};
use crate::cgroup;
use crate::error::{Origin, Result};

/// Returns the cgroup's path below the cgroup2 mount, or none with `--cgroup-manager=disabled`.
pub fn plan(
    spec: &Spec,
    facts: &Facts,
    options: &Options,
    steps: &mut Steps,
    log: &mut Vec<String>,
) -> Result<Option<PathBuf>> {
    if options.no_cgroup {
        return Ok(None);
    }
    let linux = spec.linux().as_ref();
    let asked = linux.and_then(|l| l.cgroups_path().as_deref());
    let path = cgroup::container_path(asked, &options.id, &facts.own_cgroup)?;
    let origin = Origin::new("linux.cgroupsPath", facts.cgroup_root.join(&path).display().to_string());
    steps.before(origin, Op::CreateCgroup { path: path.clone() });
    let resources = linux.and_then(|l| l.resources().as_ref());
    if let Some(resources) = resources {
        log.extend(cgroup::limits::ignored(resources).iter().map(ToString::to_string));
        let writes = cgroup::limits::writes(resources)?;
        if !writes.is_empty() {
            steps.after(Origin::field("linux.resources"), Op::LimitCgroup { writes });
        }
    }
    let listed = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
    let nodes = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
    let rules = cgroup::devices::rules(listed, nodes)?;
    steps.after(Origin::field("linux.resources.devices"), Op::DeviceFilter { rules });
    Ok(Some(path))
}
