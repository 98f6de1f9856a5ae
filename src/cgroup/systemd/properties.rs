//! What systemd is told of a container, as properties of its unit (org.freedesktop.systemd1(5), systemd.resource-control(5)).

use std::collections::HashMap;

use super::Unit;
use super::variant;
use crate::cgroup::devices::{Kind, Rule};
use crate::cgroup::limits::Write;
use crate::error::{Error, Result};

/// A value of a property, by its D-Bus type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `s`
    Str(String),
    /// `as`
    Strs(Vec<String>),
    /// `au`
    U32s(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(st)`
    Amounts(Vec<(String, u64)>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
}

/// A property and its value.
pub type Property = (String, Value);

/// What every container's unit has. `pid` is the process that the scope starts with; a slice starts without.
pub fn unit(unit: &Unit, id: &str, pid: u32) -> Vec<Property> {
    let mut list = vec![
        ("Description".into(), Value::Str(format!("tare container {id}"))),
        ("DefaultDependencies".into(), Value::Bool(false)),
    ];
    for accounting in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
        list.push((accounting.into(), Value::Bool(true)));
    }
    if unit.is_slice() {
        list.push(("Wants".into(), Value::Strs(vec![unit.slice.clone()])));
    } else {
        list.push(("Slice".into(), Value::Str(unit.slice.clone())));
        // The container's own cgroups are no business of systemd's. (A slice has no such property.)
        list.push(("Delegate".into(), Value::Bool(true)));
        list.push(("PIDs".into(), Value::U32s(vec![pid])));
        // Forgotten by systemd even if it failed (OOM), so that the name is free again.
        list.push(("CollectMode".into(), Value::Str("inactive-or-failed".into())));
    }
    list
}

/// The limits, as far as systemd (of this version) has properties for them.
pub fn limits(writes: &[Write], version: u32) -> Vec<Property> {
    let mut list: Vec<Property> = Vec::new();
    let mut put = |name: &str, value: Value| {
        match (list.iter_mut().find(|(n, _)| n == name), value) {
            // One line for each device; the property holds them all.
            (Some((_, Value::Amounts(old))), Value::Amounts(new)) => old.extend(new),
            (Some((_, old)), new) => *old = new,
            (None, new) => list.push((name.to_owned(), new)),
        }
    };
    // `unified` may have several lines, each for a device.
    for (write, value) in writes.iter().flat_map(|w| w.value.lines().map(move |line| (w, line.trim()))) {
        // What is no number the kernel refuses, when it is written to the file.
        let mut amount = |name: &str| number(value).into_iter().for_each(|n| put(name, Value::U64(n)));
        match write.file.as_ref() {
            "memory.max" => amount("MemoryMax"),
            "memory.high" => amount("MemoryHigh"),
            "memory.low" => amount("MemoryLow"),
            "memory.min" => amount("MemoryMin"),
            "memory.swap.max" => amount("MemorySwapMax"),
            "memory.zswap.max" if version >= 253 => amount("MemoryZSwapMax"),
            "pids.max" => amount("TasksMax"),
            "cpu.weight" => amount("CPUWeight"),
            // 0 is the weight of an idle unit; the greatest is none of its own, for one that is idle no more.
            "cpu.idle" if version >= 252 => put("CPUWeight", Value::U64(if value == "0" { u64::MAX } else { 0 })),
            "cpu.max" => {
                let (quota, period) = cpu_max(value);
                put("CPUQuotaPeriodUSec", Value::U64(period));
                put("CPUQuotaPerSecUSec", Value::U64(quota));
            }
            "cpuset.cpus" => put("AllowedCPUs", bits(value)),
            "cpuset.mems" => put("AllowedMemoryNodes", bits(value)),
            "io.weight" => match value.split_once(' ') {
                Some((node, weight)) if node.contains(':') => put("IODeviceWeight", per_device(node, weight)),
                _ => put("IOWeight", Value::U64(number(value.trim_start_matches("default ")).unwrap_or(u64::MAX))),
            },
            "io.max" => {
                let mut words = value.split_whitespace();
                let node = words.next().unwrap_or_default();
                for (key, limit) in words.filter_map(|word| word.split_once('=')) {
                    match key {
                        "rbps" => put("IOReadBandwidthMax", per_device(node, limit)),
                        "wbps" => put("IOWriteBandwidthMax", per_device(node, limit)),
                        "riops" => put("IOReadIOPSMax", per_device(node, limit)),
                        "wiops" => put("IOWriteIOPSMax", per_device(node, limit)),
                        _ => {}
                    }
                }
            }
            _ => {} // systemd leaves this file alone
        }
    }
    list
}

/// memory.oom.group, which systemd writes from this property (since version 253 also a scope's). Only a unit that is started
/// takes it.
pub fn oom_policy(writes: &[Write], version: u32) -> Option<Property> {
    let group = writes.iter().rfind(|w| w.file == "memory.oom.group").filter(|_| version >= 253)?;
    let policy = if group.value.trim() == "1" { "kill" } else { "continue" };
    Some(("OOMPolicy".into(), Value::Str(policy.into())))
}

/// A number as the kernel reads it, `64M` as well (memparse); the greatest for "max".
fn number(text: &str) -> Option<u64> {
    if text == "max" {
        return Some(u64::MAX);
    }
    let unit = text.chars().last().and_then(|c| "kmgtpe".find(c.to_ascii_lowercase()));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit.map_or(0, |i| 10 * (i + 1)))
}

fn per_device(node: &str, limit: &str) -> Value {
    Value::Amounts(vec![(format!("/dev/block/{node}"), number(limit).unwrap_or(u64::MAX))])
}

/// `cpu.max` as microseconds of CPU time in a second, and the period. systemd rounds a quota to 10 ms; runc rounds up.
fn cpu_max(value: &str) -> (u64, u64) {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let period: u64 = period.trim().parse().ok().filter(|p| *p > 0).unwrap_or(100_000);
    match quota.parse::<u64>() {
        Ok(quota) => (quota.saturating_mul(1_000_000).div_ceil(period).div_ceil(10_000).saturating_mul(10_000), period),
        Err(_) => (u64::MAX, period),
    }
}

/// A list of CPUs or memory nodes as bits, the lowest first: `0-2,9`.
fn bits(list: &str) -> Value {
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
        // More than the kernel can have (CONFIG_NR_CPUS) is refused by the file.
        for bit in first..=last.min(8192) {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Value::Bytes(bytes)
}

/// What systemd shows as allowed devices. Its own program asks beside ours, and both must allow: so it allows at least what
/// the rules allow, and where it cannot say that, everything. `groups` is /proc/devices.
pub fn devices(rules: &[Rule], groups: &str) -> Vec<Property> {
    let all =
        vec![("DevicePolicy".into(), Value::Str("auto".into())), ("DeviceAllow".into(), Value::Pairs(Vec::new()))];
    let mut allowed = Vec::new();
    for rule in rules.iter().filter(|rule| rule.allow) {
        let mut put = |kind: &str| match device(rule, kind, groups) {
            Some(name) => {
                allowed.push((name, rule.letters()));
                true
            }
            None => false,
        };
        let said = match rule.kind {
            Kind::Char => put("char"),
            Kind::Block => put("block"),
            Kind::Any => put("char") && put("block"),
        };
        if !said {
            return all;
        }
    }
    // What is said is added to what a unit allows already: so it is emptied before.
    vec![
        ("DevicePolicy".into(), Value::Str("strict".into())),
        ("DeviceAllow".into(), Value::Pairs(Vec::new())),
        ("DeviceAllow".into(), Value::Pairs(allowed)),
    ]
}

/// A device as DeviceAllow= has it: by its number, or by its group for any minor number.
fn device(rule: &Rule, kind: &str, groups: &str) -> Option<String> {
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => group(groups, kind, major).map(|name| format!("{kind}-{name}")),
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
    }
}

/// The name of a major number in /proc/devices.
fn group<'a>(groups: &'a str, kind: &str, major: u32) -> Option<&'a str> {
    let title = if kind == "char" { "Character devices:" } else { "Block devices:" };
    let section = groups.split_once(title)?.1.trim_start_matches('\n');
    let lines = section.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.trim().split_once(' ')).find(|(n, _)| n.parse() == Ok(major)).map(|(_, name)| name)
}

const ANNOTATION: &str = "org.systemd.property.";

/// Properties that the caller wants besides: annotations `org.systemd.property.NAME`, whose values have GVariant's text
/// form. `NAMESec` is for people; on the bus it is `NAMEUSec`, in microseconds.
///
/// # Errors
/// A name or a value that cannot be one.
pub fn annotated(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>> {
    let mut list = Vec::new();
    let mut all: Vec<_> = annotations.into_iter().flatten().collect();
    all.sort();
    for (key, text) in all {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let bad = |why: &str| Error::new(format!("{why}: {text:?}")).field(format!("annotations[{key}]"));
        if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(bad("the name of the property is no name of systemd's"));
        }
        let value = variant::parse(text).ok_or_else(|| bad("the value is not in GVariant's text form"))?;
        match name.strip_suffix("Sec").filter(|stem| !stem.is_empty() && !stem.ends_with('U')) {
            Some(stem) => {
                let seconds = match value {
                    Value::I32(n) => u64::try_from(n).ok(),
                    Value::I64(n) => u64::try_from(n).ok(),
                    Value::U32(n) => Some(n.into()),
                    Value::U64(n) => Some(n),
                    _ => None,
                };
                let seconds = seconds.ok_or_else(|| bad("a time must be a number of seconds"))?;
                list.push((format!("{stem}USec"), Value::U64(seconds.saturating_mul(1_000_000))));
            }
            None => list.push((name.to_owned(), value)),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxResources;

    use super::*;
    use crate::cgroup::{devices as rules, limits as writes};

    fn limits_of(resources: &str, version: u32) -> Vec<Property> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        limits(&writes::writes(&resources).unwrap(), version)
    }

    #[test]
    fn limits_become_properties() {
        let resources = r#"{
            "memory": {"limit": 1048576, "swap": 2097152, "reservation": 4096},
            "cpu": {"shares": 1024, "quota": 25000, "period": 100000, "cpus": "0-2,9", "mems": "0"},
            "pids": {"limit": 7},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}, {"major": 8, "minor": 16, "rate": 6}]},
            "unified": {"memory.high": "max", "io.weight": "8:0 50", "hugetlb.2MB.max": "0"}
        }"#;
        let list = limits_of(resources, 257);
        let get = |name: &str| list.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        for (name, value) in [
            ("MemoryMax", Value::U64(1 << 20)),
            ("MemorySwapMax", Value::U64(1 << 20)),
            ("MemoryLow", Value::U64(4096)),
            ("MemoryHigh", Value::U64(u64::MAX)),
            ("CPUWeight", Value::U64(100)),
            ("CPUQuotaPerSecUSec", Value::U64(250_000)),
            ("CPUQuotaPeriodUSec", Value::U64(100_000)),
            ("AllowedCPUs", Value::Bytes(vec![0b111, 0b10])),
            ("AllowedMemoryNodes", Value::Bytes(vec![1])),
            ("TasksMax", Value::U64(7)),
            ("IOReadBandwidthMax", Value::Amounts(vec![("/dev/block/8:0".into(), 5), ("/dev/block/8:16".into(), 6)])),
            ("IODeviceWeight", Value::Amounts(vec![("/dev/block/8:0".into(), 50)])),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        assert_eq!(list.len(), 12, "{list:?}");
    }

    #[test]
    fn what_only_newer_versions_have() {
        let idle = r#"{"cpu": {"idle": 1}}"#;
        assert_eq!(limits_of(idle, 252), [("CPUWeight".to_owned(), Value::U64(0))]);
        assert_eq!(limits_of(idle, 251), []);
        let policy = |group: &str, version| {
            let resources = format!(r#"{{"unified": {{"memory.oom.group": "{group}"}}}}"#);
            oom_policy(&writes::writes(&serde_json::from_str(&resources).unwrap()).unwrap(), version)
        };
        assert_eq!(policy("1", 253), Some(("OOMPolicy".to_owned(), Value::Str("kill".into()))));
        assert_eq!(policy("0", 253), Some(("OOMPolicy".to_owned(), Value::Str("continue".into()))));
        assert_eq!((policy("1", 252), oom_policy(&[], 257)), (None, None));
    }

    #[test]
    fn numbers_as_the_kernel_reads_them() {
        for (text, want) in [
            ("max", Some(u64::MAX)),
            ("4096", Some(4096)),
            ("64M", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("lots", None),
            ("", None),
            ("K", None),
            ("99999999999e", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
        let lines = r#"{"unified": {"io.max": "8:0 rbps=5\n8:16 rbps=max", "memory.high": "much", "cpu.idle": "0"}}"#;
        let rates = vec![("/dev/block/8:0".into(), 5), ("/dev/block/8:16".into(), u64::MAX)];
        let want = [("CPUWeight", Value::U64(u64::MAX)), ("IOReadBandwidthMax", Value::Amounts(rates))];
        assert_eq!(limits_of(lines, 257), want.map(|(n, v)| (n.to_owned(), v)));
    }

    #[test]
    fn quotas() {
        for (value, quota, period) in [
            ("max 100000", u64::MAX, 100_000),
            ("50000 100000", 500_000, 100_000),
            // 33.3 % is rounded up to 34 %, as runc has it.
            ("33300 100000", 340_000, 100_000),
            ("5000 1000", 5_000_000, 1000),
        ] {
            assert_eq!(cpu_max(value), (quota, period), "{value}");
        }
    }

    #[test]
    fn device_rules() {
        let groups = "Character devices:\n  1 mem\n 10 misc\n136 pts\n\nBlock devices:\n  8 sd\n";
        let of =
            |list: &str| devices(&rules::rules(&serde_json::from_str::<Vec<_>>(list).unwrap(), &[]).unwrap(), groups);
        let list =
            of(r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}]"#);
        assert_eq!(list[0].1, Value::Str("strict".into()));
        assert_eq!(list[1].1, Value::Pairs(Vec::new()));
        let Value::Pairs(pairs) = &list[2].1 else { panic!() };
        for (name, access) in [
            ("char-misc", "rw"),
            ("/dev/block/8:0", "r"),
            ("char-*", "m"),
            ("block-*", "m"),
            ("char-pts", "rwm"),
            ("/dev/char/1:3", "rwm"),
        ] {
            assert!(pairs.contains(&(name.into(), access.into())), "{name} {access}: {pairs:?}");
        }
        // A group that the host does not know, and a minor number of all groups, cannot be said.
        for odd in [
            r#"{"allow": true, "type": "c", "major": 77, "access": "r"}"#,
            r#"{"allow": true, "minor": 1, "access": "r"}"#,
        ] {
            assert_eq!(of(&format!("[{odd}]"))[0].1, Value::Str("auto".into()), "{odd}");
        }
    }

    #[test]
    fn annotations() {
        let of = |key: &str, value: &str| annotated(Some(&HashMap::from([(key.to_owned(), value.to_owned())])));
        let kill = of("org.systemd.property.KillSignal", "15").unwrap();
        assert_eq!(kill, [("KillSignal".to_owned(), Value::I32(15))]);
        let stop = of("org.systemd.property.TimeoutStopUSec", "uint64 123456789").unwrap();
        assert_eq!(stop, [("TimeoutStopUSec".to_owned(), Value::U64(123_456_789))]);
        let seconds = of("org.systemd.property.TimeoutStopSec", "7").unwrap();
        assert_eq!(seconds, [("TimeoutStopUSec".to_owned(), Value::U64(7_000_000))]);
        let mode = of("org.systemd.property.CollectMode", "'inactive-or-failed'").unwrap();
        assert_eq!(mode, [("CollectMode".to_owned(), Value::Str("inactive-or-failed".into()))]);
        assert_eq!(of("some.other", "x").unwrap(), []);
        for (name, value) in [("a.b", "1"), ("", "1"), ("X", "1"), ("Name", "x y"), ("WaitSec", "'x'")] {
            assert!(of(&format!("org.systemd.property.{name}"), value).is_err(), "{name} {value}");
        }
    }
}
