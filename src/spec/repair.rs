//! What config.json may say and oci-spec's type cannot read: put right in the JSON tree, then read again.
//!
//! runc reads with Go's decoder, which takes null for absent and leaves the words (capabilities, flags) to later code;
//! oci-spec reads them with the file. Each function here is one such difference.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Map, Value};

use super::{explain, one_line, path};
use crate::error::{Error, Result};

/// A tree takes many times the room of its text; no engine writes a configuration of this size.
pub const LARGEST: usize = 4 << 20;

/// Reads `text` once more, repaired. When there was nothing to repair, the `error` of the first reading stands: it
/// has the line.
pub fn reread(text: &str, error: Error, log: &mut Vec<String>) -> Result<Spec> {
    if text.len() > LARGEST {
        return Err(error);
    }
    let Ok(mut tree) = serde_json::from_str::<Value>(text) else { return Err(error) };
    let mut repaired = drop_null(&mut tree);
    if let Some(process) = object(&mut tree, "process") {
        repaired |= user(process);
        repaired |= capabilities(process, log);
        repaired |= scheduler_flags(process);
        repaired |= affinity(process);
    }
    if let Some(resources) = object(&mut tree, "linux").and_then(|linux| linux.get_mut("resources")) {
        repaired |= device_rules(resources);
        repaired |= hugepages(resources, log);
    }
    if !repaired {
        return Err(error);
    }
    // Read as a text again: to read trees as well would be the same code a second time in the binary.
    let text = tree.to_string();
    serde_json::from_str(&text).map_err(|e| explain(&path::at(&text, e.line(), e.column()), &e, false))
}

/// oci-spec reads `"pids": {}` as the limit 0, which would let no process in; runc takes it for no limit.
pub fn absent_pids_limit(spec: &mut Spec, text: &str) {
    let Some(resources) = spec.linux_mut().as_mut().and_then(|l| l.resources_mut().as_mut()) else { return };
    if resources.pids().is_none_or(|pids| pids.limit() != 0) || text.len() > LARGEST {
        return;
    }
    let tree = serde_json::from_str::<Value>(text).unwrap_or_default();
    if tree["linux"]["resources"]["pids"]["limit"].is_null() {
        resources.set_pids(None);
    }
}

/// The member of that name, if both are objects.
fn object<'a>(tree: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    tree.get_mut(name)?.as_object_mut()
}

/// The elements of the array of that name.
fn list<'a>(tree: Option<&'a mut Value>, name: &str) -> impl Iterator<Item = &'a mut Value> {
    tree.and_then(|t| t.get_mut(name)).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Go writes null for a nil list, and reads null as absent.
fn drop_null(tree: &mut Value) -> bool {
    match tree {
        Value::Object(map) => {
            let before = map.len();
            map.retain(|_, value| !value.is_null());
            let dropped = map.len() < before;
            map.values_mut().fold(dropped, |dropped, value| drop_null(value) | dropped)
        }
        Value::Array(list) => list.iter_mut().fold(false, |dropped, value| drop_null(value) | dropped),
        _ => false,
    }
}

/// Required by the specification's text, not by its schema; runc takes root.
fn user(process: &mut Map<String, Value>) -> bool {
    let absent = !process.contains_key("user");
    if absent {
        process.insert("user".to_owned(), Value::Object(Map::new()));
    }
    absent
}

/// A capability that only a newer kernel has is no reason not to run (runc warns as well).
fn capabilities(process: &mut Map<String, Value>, log: &mut Vec<String>) -> bool {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return false };
    let mut unknown = BTreeSet::new();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        // What is no string is left for the type to refuse.
        set.retain(|name| match name.as_str() {
            Some(text) if serde_json::from_value::<Capability>(name.clone()).is_err() => {
                unknown.insert(one_line(text));
                false
            }
            _ => true,
        });
    }
    if !unknown.is_empty() {
        let names = one_line(&Vec::from_iter(unknown.iter().map(String::as_str)).join(" "));
        log.push(format!("process.capabilities: ignoring unknown or unavailable capabilities: [{names}]"));
    }
    !unknown.is_empty()
}

/// oci-spec spells two flags in its own way.
fn scheduler_flags(process: &mut Map<String, Value>) -> bool {
    let mut respelled = false;
    for flag in list(process.get_mut("scheduler"), "flags") {
        let ours = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = ours.into();
        respelled = true;
    }
    respelled
}

/// The schema allows spaces and the empty list in `execCPUAffinity`, oci-spec does not.
fn affinity(process: &mut Map<String, Value>) -> bool {
    let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) else { return false };
    let before = affinity.len();
    affinity.retain(|_, cpus| cpus.as_str() != Some(""));
    let mut repaired = affinity.len() < before;
    for cpus in affinity.values_mut() {
        if let Some(text) = cpus.as_str().filter(|t| t.contains(' ')) {
            *cpus = text.replace(' ', "").into();
            repaired = true;
        }
    }
    repaired
}

/// A device rule of type "" is for all types.
fn device_rules(resources: &mut Value) -> bool {
    let mut repaired = false;
    for rule in list(Some(resources), "devices") {
        if let Some(kind) = rule.get_mut("type").filter(|t| t.as_str() == Some("")) {
            *kind = "a".into();
            repaired = true;
        }
    }
    repaired
}

/// The specification's limit is unsigned, oci-spec's is not; both ends mean "no limit".
fn hugepages(resources: &mut Value, log: &mut Vec<String>) -> bool {
    let mut repaired = false;
    for (i, page) in list(Some(resources), "hugepageLimits").enumerate() {
        if let Some(limit) = page.get_mut("limit").filter(|l| l.as_u64().is_some_and(|l| i64::try_from(l).is_err())) {
            log.push(format!("linux.resources.hugepageLimits[{i}].limit: {limit} taken as {}", i64::MAX));
            *limit = i64::MAX.into();
            repaired = true;
        }
    }
    repaired
}
