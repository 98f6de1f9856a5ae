//! `update`: other limits for a container that is there. What is not mentioned stays as it is.

use std::io::Read;

use nix::errno::Errno;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::pause::cgroup;
use crate::cgroup::Cgroup;
use crate::cgroup::devices::{self, Others, Rule};
use crate::cgroup::limits::{self, Write};
use crate::cgroup::systemd::{Unit, bus, properties};
use crate::cli::Update;
use crate::error::{Doing, Error, Result};
use crate::host;
use crate::log::Log;
use crate::run::unit;
use crate::spec;
use crate::state::{Action, Store};
use crate::sys::Call;

/// Bytes of a resources file; more is a mistake.
const LONGEST: u64 = 16 << 20;

/// Fields of `linux.resources` in which 0 is a value and not an absent one.
const ZERO_COUNTS: [&str; 4] = ["pids.limit", "cpu.idle", "cpu.burst", "memory.checkBeforeUpdate"];

/// `tare update`. The new values are checked as those of a config.json are, written all or none, and saved with the
/// container, for later updates and for who reads its state.
pub fn update(args: &Update, store: &Store, log: &mut Log) -> Result<i32> {
    let asked = asked(args)?;
    let container = store.open(&args.id)?;
    // No delete, and no other update, comes between the reading and the writing of the state.
    let _lock = container.lock()?;
    let mut state = container.load()?;
    container.status(&state)?.allows(Action::Update)?;
    let cgroup = cgroup(&state)?;

    let saved = state.config.as_ref().ok_or_else(|| Error::new("the container's configuration is not in its state"))?;
    let mut config: Value = serde_json::from_str(saved.get()).map_err(|e| Error::new(e.to_string()))?;
    let before = resources(saved.get(), &mut Vec::new())?;
    merge(&mut config, &asked);
    let text = config.to_string();
    let mut warnings = Vec::new();
    let after = resources(&text, &mut warnings)?;

    let old = limits::writes(&before.0)?;
    let mut all = limits::writes(&after.0)?;
    let mut writes = all.clone();
    // What is asked for is written even if it was so: somebody else may have written the file since.
    writes.retain(|w| is_asked(&asked, &w.origin.field) || !old.contains(w));
    let rules = |(resources, nodes): &Resources| match asked.get("devices") {
        Some(_) => devices::rules(resources.devices().as_deref().unwrap_or_default(), nodes).map(Some),
        None => Ok(None),
    };
    let (old_rules, new_rules) = (rules(&before)?, rules(&after)?);
    warnings.extend(limits::ignored(&after.0).iter().map(ToString::to_string));
    log.warnings(warnings);

    let was = cgroup.replace(&writes)?;
    state.config = Some(RawValue::from_string(text).map_err(|e| Error::new(e.to_string()))?);
    let unit = state.cgroup.as_ref().and_then(|c| c.unit.as_ref());
    let mut told = None;
    let rest = unit
        .map_or(Ok(()), |unit| {
            tell_systemd(unit, &writes, new_rules.as_deref())?;
            told = Some(unit);
            // systemd writes all files that it has a property for, in its own words (a CPU quota is rounded).
            all.iter_mut().for_each(|w| w.unless_used = None);
            cgroup.apply(&all)
        })
        .and_then(|()| device_rules(&cgroup, new_rules.as_deref(), unit))
        .and_then(|()| container.write(&state));
    rest.map(|()| 0).map_err(|e| {
        // systemd first: it writes files, too.
        let back = told.map_or(Ok(()), |unit| tell_systemd(unit, &was.writes(), old_rules.as_deref()));
        let e = e.and(back).and(device_rules(&cgroup, old_rules.as_deref(), unit));
        cgroup.put_back(was, e)
    })
}

fn device_rules(cgroup: &Cgroup, rules: Option<&[Rule]>, unit: Option<&Unit>) -> Result<()> {
    match rules.map_or(Ok(()), |rules| devices::apply(cgroup, rules, Others::of(unit))) {
        Err(e) if !host::is_privileged() && e.errno() == Some(Errno::EPERM) => Ok(()), // as at its start
        done => done,
    }
}

/// systemd writes its files again at daemon-reload, from the properties.
fn tell_systemd(unit: &Unit, writes: &[Write], rules: Option<&[Rule]>) -> Result<()> {
    let mut changed = properties::limits(writes, unit::version(unit, writes));
    if let Some(rules) = rules {
        let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
        changed.extend(properties::devices(rules, &groups));
    }
    if changed.is_empty() { Ok(()) } else { bus::set(unit, &changed) }
}

type Resources = (oci_spec::runtime::LinuxResources, Vec<oci_spec::runtime::LinuxDevice>);

/// The resources of a config.json, checked, and its device nodes.
fn resources(config: &str, warnings: &mut Vec<String>) -> Result<Resources> {
    let spec = spec::parse(config, warnings)?;
    spec::check(&spec, warnings)?;
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|l| l.resources().clone()).unwrap_or_default();
    Ok((resources, linux.and_then(|l| l.devices().clone()).unwrap_or_default()))
}

/// The object of `--resources`, or that of the other flags.
fn asked(args: &Update) -> Result<Map<String, Value>> {
    let mut asked = match &args.resources {
        Some(path) => read(path)?,
        None => flags(args)?,
    };
    drop_absent(&mut asked, "");
    Ok(asked)
}

fn read(path: &std::path::Path) -> Result<Map<String, Value>> {
    let args = || format!("{path:?}");
    let mut text = String::new();
    let read = |from: &mut dyn Read, text: &mut String| from.take(LONGEST).read_to_string(text).map(drop);
    if path.as_os_str() == "-" {
        read(&mut std::io::stdin(), &mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| read(&mut file, &mut text))
    }
    .call("read", args)
    .doing("read the resources")
    .map_err(|e| e.field("--resources"))?;
    serde_json::from_str(&text).map_err(|e| Error::new(format!("{e}")).field("--resources"))
}

/// The flags as the object that they stand for.
fn flags(args: &Update) -> Result<Map<String, Value>> {
    let l3 = args.l3_cache_schema.is_some().then_some("--l3-cache-schema");
    let bandwidth = args.mem_bw_schema.is_some().then_some("--mem-bw-schema");
    if let Some(flag) = l3.or(bandwidth) {
        return Err(Error::new("not supported yet").field(flag));
    }
    let real_time = args.cpu_rt_period.is_some().then_some("--cpu-rt-period");
    if let Some(flag) = real_time.or(args.cpu_rt_runtime.is_some().then_some("--cpu-rt-runtime")) {
        return Err(Error::new("cgroup v2 has no bandwidth for real-time processes").field(flag));
    }
    let bytes = |value: &Option<String>, flag: &'static str| {
        value.as_deref().map(|text| bytes(text).map_err(|e| e.field(flag))).transpose()
    };
    let object = json!({
        "blockIO": { "weight": args.blkio_weight },
        "cpu": {
            "period": args.cpu_period,
            "quota": args.cpu_quota,
            "burst": args.cpu_burst,
            "shares": args.cpu_share,
            "cpus": args.cpuset_cpus,
            "mems": args.cpuset_mems,
            "idle": args.cpu_idle,
        },
        "memory": {
            "limit": bytes(&args.memory, "--memory")?,
            "reservation": bytes(&args.memory_reservation, "--memory-reservation")?,
            "swap": bytes(&args.memory_swap, "--memory-swap")?,
        },
        "pids": { "limit": args.pids_limit },
    });
    match object {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// `64M`, `1.5g`, `4096`, -1: a number of bytes, in powers of 1024.
fn bytes(text: &str) -> Result<i64> {
    let bad = || Error::new(format!("invalid size {text:?}")).hint("a number of bytes, or with a unit: 64M, 1.5g");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, shift) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 10),
        Some('m') => (&lower[..lower.len() - 1], 20),
        Some('g') => (&lower[..lower.len() - 1], 30),
        Some('t') => (&lower[..lower.len() - 1], 40),
        Some('p') => (&lower[..lower.len() - 1], 50),
        _ => (lower, 0),
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u32>() {
        return i64::from(whole).checked_mul(1 << shift).ok_or_else(bad);
    }
    match number.parse::<f64>() {
        Ok(n) if n >= 0.0 && n * 2f64.powi(shift) < i64::MAX as f64 => Ok((n * 2f64.powi(shift)) as i64),
        _ => Err(bad()),
    }
}

/// Takes out what means "unchanged": null, empty strings and objects, and 0 where it is no value of its own.
fn drop_absent(object: &mut Map<String, Value>, path: &str) {
    object.retain(|name, value| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Null => false,
            Value::String(s) => !s.is_empty(),
            Value::Number(n) => n.as_f64() != Some(0.0) || ZERO_COUNTS.contains(&path.as_str()),
            Value::Object(map) if !path.starts_with("unified") => {
                drop_absent(map, &path);
                !map.is_empty()
            }
            _ => true,
        }
    });
}

/// Puts what is asked for into `linux.resources`; a list takes the place of a list.
fn merge(config: &mut Value, asked: &Map<String, Value>) {
    fn into(to: &mut Value, from: &Map<String, Value>) {
        if !to.is_object() {
            *to = json!({});
        }
        for (name, value) in from {
            match value {
                Value::Object(map) => into(&mut to[name], map),
                value => to[name] = value.clone(),
            }
        }
    }
    if !config["linux"].is_object() {
        config["linux"] = json!({});
    }
    into(&mut config["linux"]["resources"], asked);
}

/// Whether the field that a value comes from is among those asked for: `linux.resources.blockIO.weightDevice[0]`.
fn is_asked(asked: &Map<String, Value>, field: &str) -> bool {
    let path = field.strip_prefix("linux.resources.").unwrap_or(field);
    let (path, key) = match path.split_once('[') {
        Some((path, key)) => (path, Some(key.trim_end_matches(']'))),
        None => (path, None),
    };
    let mut at = path.split('.').try_fold(None::<&Value>, |at, name| {
        let next = at.map_or_else(|| asked.get(name), |at| at.get(name));
        next.map(Some)
    });
    // A map's keys are names, a list's are numbers: a list is asked for as a whole.
    if let (Some(Some(Value::Object(map))), Some(key)) = (at, key) {
        at = map.get(key).map(Some);
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("-1", -1),
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2t", 2 << 40),
            ("8589934592", 8 << 30),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for text in ["", "M", "-2", "1x", "9999999p", "1 2", "nan", "inf"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn unset_means_unchanged() {
        let mut asked = object(json!({
            "memory": {"limit": 0, "swap": -1, "reservation": null},
            "cpu": {"shares": 0, "cpus": "", "idle": 0},
            "pids": {"limit": 0},
            "blockIO": {"weight": 0},
            "network": {},
            "unified": {"memory.high": ""},
        }));
        drop_absent(&mut asked, "");
        let want = json!({
            "memory": {"swap": -1}, "cpu": {"idle": 0}, "pids": {"limit": 0}, "unified": {"memory.high": ""}
        });
        assert_eq!(Value::Object(asked.clone()), want);
        for (field, is) in [
            ("memory.swap", true),
            ("memory.limit", false),
            ("pids.limit", true),
            ("unified[memory.high]", true),
            ("unified[memory.low]", false),
            ("hugepageLimits[0]", false),
        ] {
            assert_eq!(is_asked(&asked, &format!("linux.resources.{field}")), is, "{field}");
        }
        assert!(is_asked(&object(json!({"hugepageLimits": [{}]})), "linux.resources.hugepageLimits[0]"));
    }

    #[test]
    fn what_is_asked_for_is_put_over_what_there_was() {
        let mut config = json!({"linux": {"resources": {"memory": {"limit": 5, "swap": 9}, "devices": [1]}}});
        merge(&mut config, &object(json!({"memory": {"limit": 7}, "devices": [2, 3], "unified": {"a.b": "c"}})));
        let want = json!({"memory": {"limit": 7, "swap": 9}, "devices": [2, 3], "unified": {"a.b": "c"}});
        assert_eq!(config["linux"]["resources"], want);
        let mut bare = json!({});
        merge(&mut bare, &object(json!({"pids": {"limit": 5}})));
        assert_eq!(bare, json!({"linux": {"resources": {"pids": {"limit": 5}}}}));
    }
}
