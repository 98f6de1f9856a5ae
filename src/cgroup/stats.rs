//! What the container uses, in the form of `runc events` (types/events.go there; times in nanoseconds, sizes in bytes):
//! read from the files of its cgroup. A controller that is not enabled leaves its part at zero.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use serde::Serialize;
use serde_json::{Map, Value};

use super::fs::{Cgroup, gone, read};
use crate::error::{Error, Result};

/// The `data` of a `stats` event.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    intel_rdt: Map<String, Value>,
    network_interfaces: Option<Vec<Value>>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// What cgroup v1 had, and runc prints still.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpuset {
    cpu_exclusive: u64,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: Entry,
    swap: Entry,
    kernel: Entry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Entry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Entry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, PartialEq, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    failcnt: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst): percent of the time, and microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Psi {
    some: Pressure,
    full: Pressure,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Pressure {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Cgroup {
    /// What the container uses now.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        stats(|file| match read(self.as_fd(), file) {
            Ok(text) => Ok(Some(text)),
            // The controller is not enabled; PSI may be disabled altogether (psi=0).
            Err(e) if gone(e.errno) || e.errno == nix::errno::Errno::EOPNOTSUPP => Ok(None),
            Err(e) => Err(Error::sys(format!("read {file}"), e).at(self.origin())),
        })
    }
}

/// From the files' texts; `file` gives none for one that is not there.
fn stats(file: impl Fn(&str) -> Result<Option<String>>) -> Result<Stats> {
    let number = |name: &str| Ok::<_, Error>(file(name)?.and_then(|text| amount(&text)).unwrap_or(0));
    let mut stats = Stats::default();

    let cpu = file("cpu.stat")?.unwrap_or_default();
    let nanoseconds = |name| key(&cpu, name).unwrap_or(0).saturating_mul(1000);
    stats.cpu = Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
        },
        throttling: Throttling {
            periods: key(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: key(&cpu, "nr_throttled").unwrap_or(0),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: file("cpu.pressure")?.map(|text| pressure(&text)),
    };

    if let Some(raw) = file("memory.stat")? {
        let raw: BTreeMap<String, u64> = pairs(&raw).map(|(k, v)| (k.to_owned(), v)).collect();
        let usage = Entry {
            limit: number("memory.max")?,
            usage: number("memory.current")?,
            max: number("memory.peak")?,
            failcnt: file("memory.events")?.and_then(|text| key(&text, "max")).unwrap_or(0),
        };
        // Memory and swap together, as cgroup v1 had it and runc has it still.
        let swap = Entry {
            limit: number("memory.swap.max")?.saturating_add(usage.limit),
            usage: number("memory.swap.current")? + usage.usage,
            ..Entry::default()
        };
        stats.memory = Memory {
            cache: raw.get("file").copied().unwrap_or(0),
            usage,
            swap,
            raw,
            psi: file("memory.pressure")?.map(|text| pressure(&text)),
            ..Memory::default()
        };
    }

    // No limit is 0, as runc has it.
    let limit = file("pids.max")?.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    stats.pids = Pids { current: number("pids.current")?, limit };

    let (bytes, operations) = io(&file("io.stat")?.unwrap_or_default());
    let psi = file("io.pressure")?.map(|text| pressure(&text));
    stats.blkio = Blkio { io_service_bytes_recursive: bytes, io_serviced_recursive: operations, psi };

    for size in huge_page_sizes() {
        // What is reserved counts if the kernel counts it (Linux 5.7).
        let usage = match file(&format!("hugetlb.{size}.rsvd.current"))? {
            Some(text) => Some(text),
            None => file(&format!("hugetlb.{size}.current"))?,
        };
        let Some(usage) = usage.and_then(|text| amount(&text)) else { continue };
        let failcnt = file(&format!("hugetlb.{size}.events"))?.and_then(|text| key(&text, "max")).unwrap_or(0);
        stats.hugetlb.insert(size, Hugetlb { usage, failcnt });
    }
    Ok(stats)
}

/// A number, or the greatest for "max".
fn amount(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Lines of a key and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| line.split_once(' ')).filter_map(|(k, v)| Some((k, v.parse().ok()?)))
}

fn key(text: &str, name: &str) -> Option<u64> {
    pairs(text).find(|(k, _)| *k == name).map(|(_, v)| v)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(text: &str) -> Psi {
    let line = |kind: &str| {
        let mut pressure = Pressure::default();
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => pressure.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => pressure.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => pressure.avg300 = value.parse().unwrap_or(0.0),
                "total" => pressure.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        pressure
    };
    Psi { some: line("some "), full: line("full ") }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`, one line a device.
fn io(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let node = words.next().and_then(|node| node.split_once(':'));
        let Some((Ok(major), Ok(minor))) = node.map(|(a, b)| (a.parse(), b.parse())) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, op) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue, // what cgroup v1 did not count
            };
            table.push(BlkioEntry { major, minor, op, value: value.parse().unwrap_or(0) });
        }
    }
    (bytes, operations)
}

/// The sizes that this kernel has, as the files of the hugetlb controller have them: `2MB`, `1GB`.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| {
        let kb: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kb {
            kb if kb % (1 << 20) == 0 => format!("{}GB", kb >> 20),
            kb if kb % (1 << 10) == 0 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
    };
    entries.filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_files() {
        let files = [
            ("cpu.stat", "usage_usec 3\nuser_usec 1\nsystem_usec 2\nnr_periods 7\nnr_throttled 5\nthrottled_usec 4\n"),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=8\n",
            ),
            ("memory.stat", "anon 4096\nfile 8192\n"),
            ("memory.current", "20000\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "5\n"),
            ("memory.swap.current", "100\n"),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 2\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \n"),
        ];
        let read = |name: &str| Ok(files.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned()));
        let stats = serde_json::to_value(stats(read).unwrap()).unwrap();
        assert_eq!(stats["cpu"]["usage"], serde_json::json!({"total": 3000, "kernel": 2000, "user": 1000}));
        let throttling = serde_json::json!({"periods": 7, "throttledPeriods": 5, "throttledTime": 4000});
        assert_eq!(stats["cpu"]["throttling"], throttling);
        assert_eq!(stats["cpu"]["psi"]["some"]["avg10"], 1.5);
        assert_eq!(stats["cpu"]["psi"]["full"]["total"], 8);
        let usage = serde_json::json!({"limit": u64::MAX, "usage": 20000, "failcnt": 6});
        assert_eq!(stats["memory"]["usage"], usage);
        assert_eq!(stats["memory"]["swap"]["usage"], 20100);
        assert_eq!(stats["memory"]["swap"]["limit"], u64::MAX);
        assert_eq!(stats["memory"]["cache"], 8192);
        assert_eq!(stats["memory"]["raw"]["anon"], 4096);
        assert_eq!(stats["pids"], serde_json::json!({"current": 3}));
        let bytes = serde_json::json!([
            {"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2}
        ]);
        assert_eq!(stats["blkio"]["ioServiceBytesRecursive"], bytes);
        assert_eq!(stats["network_interfaces"], Value::Null);
    }

    #[test]
    fn without_controllers() {
        assert_eq!(stats(|_| Ok(None)).unwrap(), Stats::default());
    }
}
