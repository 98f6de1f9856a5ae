//! `update`: unset is unchanged, all or none, saved; in the files and, by the systemd driver, in the unit.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::machine::{DRIVERS, Driver, cgroup, disk, good, read, refused, settings, sh, show, wait_until};

struct Box {
    bed: Bed,
    driver: Driver,
    dir: PathBuf,
    unit: String,
}

impl Box {
    fn new(name: &str, driver: Driver, resources: Value, script: &str) -> Box {
        let mut bed = Bed::new(name);
        bed.config["linux"]["resources"] = resources;
        bed.config["linux"]["cgroupsPath"] = json!(driver.place(name));
        bed.shell(script);
        Box { bed, driver, dir: PathBuf::new(), unit: format!("t-{name}.scope") }
    }

    fn start(mut self, command: &[&str]) -> Box {
        let id = self.bed.id();
        good(&self.bed.tare(&[self.driver.flags(), command, &["--pid-file", "pid", &id]].concat()));
        self.dir = cgroup(&fs::read_to_string(self.bed.dir.join("pid")).unwrap());
        self
    }

    /// By flags, or by a file in the form of linux.resources.
    fn update(&self, args: &[&str]) -> std::process::Output {
        self.bed.tare(&[&["update"], args, &[&self.bed.id()]].concat())
    }

    fn update_json(&self, resources: Value) -> std::process::Output {
        fs::write(self.bed.dir.join("r.json"), resources.to_string()).unwrap();
        self.update(&["--resources", "r.json"])
    }

    fn saved(&self) -> Value {
        let state = fs::read(self.bed.dir.join("state").join(self.bed.id()).join("tare.json")).unwrap();
        serde_json::from_slice::<Value>(&state).unwrap()["config"]["linux"]["resources"].clone()
    }

    /// The properties that limits become.
    fn properties(&self) -> BTreeMap<&'static str, String> {
        let shown = sh(&format!("systemctl show -p {} '{}'", PROPERTIES.join(","), self.unit));
        let value = |name: &str| {
            let lines = shown.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let mut lines: Vec<_> = lines.collect();
            lines.sort_unstable(); // a reload turns the order of lists round
            lines.join("; ")
        };
        PROPERTIES.iter().map(|name| (*name, value(name))).collect()
    }
}

const PROPERTIES: [&str; 14] = [
    "MemoryMax",
    "MemoryLow",
    "MemoryHigh",
    "MemorySwapMax",
    "TasksMax",
    "CPUWeight",
    "CPUQuotaPerSecUSec",
    "CPUQuotaPeriodUSec",
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "IOReadIOPSMax",
    "IOWriteIOPSMax",
    "DevicePolicy",
    "DeviceAllow",
];

/// One update: what is said; the files that it changes, and the properties.
type Step = (Said, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

enum Said {
    Flags(&'static [&'static str]),
    Json(Value),
}

fn steps(node: &str) -> Vec<Step> {
    use Said::{Flags, Json};
    let (major, minor) =
        node.split_once(':').map(|(a, b)| (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())).unwrap();
    let disk = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    vec![
        (Flags(&[]), &[], &[]),
        (Json(json!({})), &[], &[]),
        (Json(json!({"memory": {}, "cpu": {"cpus": ""}, "blockIO": {}, "pids": null, "unified": {}})), &[], &[]),
        (Flags(&["--memory", "128M"]), &[("memory.max", "134217728")], &[("MemoryMax", "134217728")]),
        (Flags(&["--memory-swap", "192M"]), &[("memory.swap.max", "67108864")], &[("MemorySwapMax", "67108864")]),
        // Swap alone is in the files, so it is written again when memory changes.
        (
            Flags(&["--memory", "160M"]),
            &[("memory.max", "167772160"), ("memory.swap.max", "33554432")],
            &[("MemoryMax", "167772160"), ("MemorySwapMax", "33554432")],
        ),
        (Flags(&["--memory-reservation", "32M"]), &[("memory.low", "33554432")], &[("MemoryLow", "33554432")]),
        (Flags(&["--memory-swap", "-1"]), &[("memory.swap.max", "max")], &[("MemorySwapMax", "infinity")]),
        (Flags(&["--kernel-memory", "64M", "--kernel-memory-tcp", "64M"]), &[], &[]),
        (Flags(&["--pids-limit", "20"]), &[("pids.max", "20")], &[("TasksMax", "20")]),
        (Flags(&["--pids-limit", "0"]), &[("pids.max", "1")], &[("TasksMax", "1")]),
        (Flags(&["--pids-limit", "-1"]), &[("pids.max", "max")], &[("TasksMax", "infinity")]),
        (Flags(&["--cpu-idle", "1"]), &[("cpu.idle", "1"), ("cpu.weight", "1")], &[("CPUWeight", "idle")]),
        (Flags(&["--cpu-idle", "0"]), &[("cpu.idle", "0"), ("cpu.weight", "100")], &[("CPUWeight", "[not set]")]),
        (Flags(&["--cpu-share", "512"]), &[("cpu.weight", "59")], &[("CPUWeight", "59")]),
        (
            Flags(&["--cpu-quota", "50000"]),
            &[("cpu.max", "50000 100000")],
            &[("CPUQuotaPerSecUSec", "500ms"), ("CPUQuotaPeriodUSec", "100ms")],
        ),
        (
            Flags(&["--cpu-period", "200000"]),
            &[("cpu.max", "50000 200000")],
            &[("CPUQuotaPerSecUSec", "250ms"), ("CPUQuotaPeriodUSec", "200ms")],
        ),
        (Flags(&["--cpu-burst", "20000"]), &[("cpu.max.burst", "20000")], &[]),
        (
            Flags(&["--cpu-quota", "-1", "--cpu-burst", "0"]),
            &[("cpu.max", "max 200000"), ("cpu.max.burst", "0")],
            &[("CPUQuotaPerSecUSec", "infinity")],
        ),
        (Flags(&["--cpu-idle", "1"]), &[("cpu.idle", "1"), ("cpu.weight", "1")], &[("CPUWeight", "idle")]),
        (Flags(&["--cpu-idle", "0"]), &[("cpu.idle", "0"), ("cpu.weight", "59")], &[("CPUWeight", "59")]),
        (
            Json(json!({"blockIO": {"throttleReadBpsDevice": disk(1 << 20), "throttleWriteIOPSDevice": disk(40)}})),
            &[("io.max", "7:0 rbps=1048576 wbps=max riops=max wiops=40")],
            &[("IOReadBandwidthMax", "/dev/block/7:0 1048576"), ("IOWriteIOPSMax", "/dev/block/7:0 40")],
        ),
        (
            Json(json!({"blockIO": {"throttleReadBpsDevice": disk(1 << 21)}})),
            &[("io.max", "7:0 rbps=2097152 wbps=max riops=max wiops=40")],
            &[("IOReadBandwidthMax", "/dev/block/7:0 2097152")],
        ),
        (
            Json(json!({"unified": {"memory.high": "64M", "memory.oom.group": "1"}})),
            &[("memory.high", "67108864"), ("memory.oom.group", "1")],
            &[("MemoryHigh", "67108864")],
        ),
        // What `unified` says stays the last word.
        (
            Json(
                json!({"memory": {"limit": 200 << 20, "swap": 300 << 20, "reservation": 1 << 20}, "cpu": {"shares": 2},
                "pids": {"limit": 30}}),
            ),
            &[
                ("memory.max", "209715200"),
                ("memory.swap.max", "104857600"),
                ("memory.low", "1048576"),
                ("cpu.weight", "1"),
                ("pids.max", "30"),
            ],
            &[
                ("MemoryMax", "209715200"),
                ("MemorySwapMax", "104857600"),
                ("MemoryLow", "1048576"),
                ("CPUWeight", "1"),
                ("TasksMax", "30"),
            ],
        ),
        (
            Flags(&["--memory", "-1", "--memory-swap", "-1"]),
            &[("memory.max", "max"), ("memory.swap.max", "max")],
            &[("MemoryMax", "infinity"), ("MemorySwapMax", "infinity")],
        ),
        (Flags(&["--cpu-quota", "60000"]), &[("cpu.max", "60000 200000")], &[("CPUQuotaPerSecUSec", "300ms")]),
    ]
}

#[test]
fn every_field_changes_what_it_is_about_and_nothing_else() {
    let (_, node) = disk();
    for driver in DRIVERS {
        for state in ["created", "running", "paused"] {
            let it = Box::new("update", driver, json!({"memory": {"limit": 64 << 20}}), "exec sleep 1000");
            let it = it.start(if state == "created" { &["create"] } else { &["run", "-d"] });
            if state == "paused" {
                good(&it.bed.tare(&["pause", &it.bed.id()]));
            }
            let mut files = settings(&it.dir);
            let mut properties = if driver == Driver::Systemd { it.properties() } else { BTreeMap::new() };
            for (said, changed, told) in steps(&node) {
                let (out, words) = match said {
                    Said::Flags(args) => (it.update(args), args.join(" ")),
                    Said::Json(resources) => (it.update_json(resources.clone()), resources.to_string()),
                };
                good(&out);
                files.extend(changed.iter().map(|(f, v)| ((*f).to_owned(), v.replace("7:0", &node))));
                assert_eq!(settings(&it.dir), files, "{words} by {driver:?}, {state}");
                if driver == Driver::Systemd {
                    properties.extend(told.iter().map(|(p, v)| (*p, v.replace("7:0", &node))));
                    assert_eq!(it.properties(), properties, "{words}, {state}");
                }
            }
            if driver == Driver::Systemd {
                sh("systemctl daemon-reload");
                // From OOMPolicy=, which systemd takes at the start of a unit only.
                files.insert("memory.oom.group".into(), "0".into());
                assert_eq!(settings(&it.dir), files, "after daemon-reload, {state}");
                assert_eq!(it.properties(), properties, "after daemon-reload, {state}");
            }
            let saved = it.saved();
            assert_eq!(saved["memory"], json!({"limit": -1, "swap": -1, "reservation": 1 << 20}));
            assert_eq!(saved["cpu"], json!({"shares": 2, "quota": 60000, "period": 200000, "burst": 0, "idle": 0}));
            assert_eq!(saved["unified"], json!({"memory.high": "64M", "memory.oom.group": "1"}));
            assert_eq!((it.bed.status().as_str(), saved["pids"]["limit"].as_i64()), (state, Some(30)));
            it.bed.delete();
        }
    }
}

#[test]
fn a_refused_value_leaves_everything_as_it_was() {
    let (_, node) = disk();
    let (major, minor) =
        node.split_once(':').map(|(a, b)| (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())).unwrap();
    let disk = |minor: u32| json!({"major": major, "minor": minor, "rate": 77});
    let resources = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000},
        "blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]},
    });
    for driver in DRIVERS {
        let it = Box::new("refused", driver, resources.clone(), "exec sleep 1000").start(&["run", "-d"]);
        let before = (settings(&it.dir), it.saved(), it.properties());
        for (bad, field) in [
            (json!({"pids": {"limit": 5}, "cpu": {"quota": 999}}), "linux.resources.cpu.quota"),
            (json!({"memory": {"limit": 32 << 20, "swap": 16 << 20}}), "linux.resources.memory.swap"),
            (json!({"pids": {"limit": 5}, "unified": {"memory.high": "lots"}}), "linux.resources.unified[memory.high]"),
            (json!({"pids": {"limit": 5}, "unified": {"no.file": "1"}}), "linux.resources.unified[no.file]"),
            (
                json!({"pids": {"limit": 5}, "blockIO": {"throttleReadBpsDevice": [disk(minor), disk(minor + 99)]}}),
                "linux.resources.blockIO.throttleReadBpsDevice[1]",
            ),
            (json!({"memory": {"limit": 48 << 20}, "cpu": {"idle": 7}}), "linux.resources.cpu.idle"),
            // The kernel takes it, systemd does not.
            (
                json!({"pids": {"limit": 5}, "unified": {"memory.high": "0"}}),
                if driver == Driver::Fs { "" } else { "MemoryHigh" },
            ),
            (json!({"devices": [{"allow": true, "access": "x"}], "pids": {"limit": 5}}), "linux.resources.devices"),
        ] {
            if field.is_empty() {
                continue; // nobody refuses it without systemd
            }
            let words = refused(&it.update_json(bad.clone()));
            assert!(words.contains(field), "{bad}: {words}");
            let (files, saved, properties) = &before;
            assert_eq!(&settings(&it.dir), files, "{bad} by {driver:?}");
            assert_eq!(&it.saved(), saved, "{bad} by {driver:?}");
            assert_eq!(&it.properties(), properties, "{bad} by {driver:?}");
        }
        for flags in [
            ["--memory", "lots"],
            ["--l3-cache-schema", "x"],
            ["--mem-bw-schema", "x"],
            ["--cpu-rt-period", "1"],
            ["--cpu-rt-runtime", "1"],
        ] {
            let words = refused(&it.update(&flags));
            assert!(words.contains(flags[0]), "{flags:?}: {words}");
        }
        assert_eq!(settings(&it.dir), before.0);
    }
}

#[test]
fn device_rules_are_exchanged_in_place() {
    for driver in DRIVERS {
        let rule = |minor: u32| json!({"allow": true, "type": "c", "major": 1, "minor": minor, "access": "r"});
        let none = json!({"allow": false, "access": "rwm"});
        let script = "mknod /dev/asked c 1 11; while :; do \
            if (: < /dev/asked) 2>/dev/null; then echo yes; else echo no; fi > /dev/shm/new && mv /dev/shm/new /dev/shm/asked; \
            (: < /dev/full) || : > /dev/shm/lost; done";
        let mut it = Box::new("exchange", driver, json!({"devices": [none], "pids": {"limit": 20}}), script);
        std::os::unix::fs::symlink("busybox", it.bed.dir.join("rootfs/bin/mv")).unwrap();
        for set in ["bounding", "effective", "permitted"] {
            it.bed.config["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
        }
        let it = it.start(&["run", "-d"]);
        let pid = fs::read_to_string(it.bed.dir.join("pid")).unwrap();
        let shm = PathBuf::from(format!("/proc/{}/root/dev/shm", pid.trim()));
        let wait_for = |word: &str| {
            wait_until(word, || fs::read_to_string(shm.join("asked")).is_ok_and(|text| text.trim() == word));
        };
        let listed = || show(&it.unit, "DeviceAllow").contains("/dev/char/1:11 r");
        wait_for("no");
        for _ in 0..5 {
            good(&it.update_json(json!({"devices": [none, rule(11)]})));
            wait_for("yes");
            assert_eq!(listed(), driver == Driver::Systemd);
            good(&it.update_json(json!({"devices": [none]})));
            wait_for("no");
            assert!(!listed(), "systemd still lists what is allowed no more");
        }
        // The last step is to save it: where that cannot be done, all is as it was.
        let before = (settings(&it.dir), it.properties());
        let state = it.bed.dir.join("state").join(it.bed.id());
        sh(&format!("mount --bind {0} {0} && mount -o remount,bind,ro {0}", state.display()));
        let words = refused(&it.update_json(json!({"devices": [none, rule(11)], "pids": {"limit": 5}})));
        sh(&format!("umount {}", state.display()));
        assert!(words.contains("EROFS"), "{words}");
        assert_eq!((settings(&it.dir), it.properties()), before, "{driver:?}");
        assert!(!listed(), "systemd keeps the rules that were refused");
        wait_for("no");
        // Everything, and back: the program goes and comes.
        good(&it.update_json(json!({"devices": [{"allow": true, "access": "rwm"}]})));
        wait_for("yes");
        good(&it.update_json(json!({"devices": [none]})));
        wait_for("no");
        assert!(!shm.join("lost").exists(), "{driver:?}: for a moment not even the default devices were allowed");
        assert_eq!(read(&it.dir, "cgroup.freeze"), "0");
    }
}
