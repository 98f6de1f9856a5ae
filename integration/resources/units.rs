//! The systemd driver: which unit a container gets, with which properties, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::machine::Runtime::{self, Crun, Runc, Tare};
use crate::machine::{cgroup, disk, good, has, read, refused, runtime, sh, show, wait_until};

const ROOT: &str = "/sys/fs/cgroup";

/// A sleeping container in the unit that `place` names; the pid of its process.
fn start(bed: &mut Bed, with: Runtime, place: &str) -> String {
    bed.config["linux"]["cgroupsPath"] = json!(place);
    bed.shell("exec sleep 1000");
    let id = bed.id();
    good(&runtime(bed, with, &["--systemd-cgroup", "run", "-d", "--pid-file", "pid", &id]));
    fs::read_to_string(bed.dir.join("pid")).unwrap().trim().to_owned()
}

fn is_there(unit: &str) -> bool {
    // A slice needs no file and is never "not found".
    if unit.ends_with(".slice") {
        show(unit, "ActiveState") != "inactive"
    } else {
        show(unit, "LoadState") != "not-found"
    }
}

#[test]
fn every_shape_of_cgroups_path_has_its_unit() {
    let mut bed = Bed::new("shapes");
    let id = bed.id();
    for (place, unit, path) in [
        ("system.slice:docker:x", "docker-x.scope", "system.slice/docker-x.scope"),
        (
            "k-b-podU.slice:cri-containerd:x",
            "cri-containerd-x.scope",
            "k.slice/k-b.slice/k-b-podU.slice/cri-containerd-x.scope",
        ),
        ("machine.slice:libpod:x", "libpod-x.scope", "machine.slice/libpod-x.scope"),
        (":p:x", "p-x.scope", "system.slice/p-x.scope"),
        ("::x", "x.scope", "system.slice/x.scope"),
        ("-.slice:p:x", "p-x.scope", "p-x.scope"),
        ("own.slice::x.slice", "x.slice", "x.slice"),
        ("", "", ""),
    ] {
        let mut after = Vec::new();
        // runc cannot have a slice for a container: it asks for PIDs in it, which systemd refuses.
        let runtimes = if unit.ends_with(".slice") { &[Tare][..] } else { &[Tare, Runc] };
        for &with in runtimes {
            let (unit, path) = match (unit, with) {
                ("", Tare) => (format!("tare-{id}.scope"), format!("system.slice/tare-{id}.scope")),
                ("", _) => (format!("runc-{id}.scope"), format!("system.slice/runc-{id}.scope")),
                // As crun has it.
                ("x.scope", Runc) => ("-x.scope".to_owned(), "system.slice/-x.scope".to_owned()),
                _ => (unit.to_owned(), path.to_owned()),
            };
            let pid = start(&mut bed, with, place);
            assert_eq!(cgroup(&pid), Path::new(ROOT).join(&path), "{place} by {with:?}");
            assert_eq!(show(&unit, "ActiveState"), "active");
            assert_eq!(show(&unit, "ControlGroup"), format!("/{path}"));
            let delegated = if unit.ends_with(".slice") { "no" } else { "yes" }; // a slice has no such property
            assert_eq!((show(&unit, "Delegate").as_str(), show(&unit, "Transient").as_str()), (delegated, "yes"));
            // Who deletes it need not know of systemd: it is in the state.
            good(&runtime(&bed, with, &["delete", "--force", &id]));
            wait_until("the unit is gone", || !is_there(&unit));
            assert!(!Path::new(ROOT).join(&path).exists(), "{place} by {with:?}");
            after.push(["k.slice", "k-b.slice", "k-b-podU.slice"].map(|slice| show(slice, "ActiveState")));
        }
        assert!(after.iter().all(|a| *a == after[0]), "{place}: other slices stay than with runc");
        sh("systemctl stop k.slice own.slice 2>/dev/null || :");
    }
    for bad in ["/docker/x", "a:b", "a:b:c:d", "x:docker:y", "a--b.slice:p:x", "system.slice:p:x/y"] {
        bed.config["linux"]["cgroupsPath"] = json!(bad);
        let words = refused(&bed.tare(&["--systemd-cgroup", "run", &id]));
        assert!(words.contains("linux.cgroupsPath") && words.contains("slice:prefix:name"), "{bad}: {words}");
    }
}

/// What differs by nature, between two units made one after the other.
const VOLATILE: [&str; 22] = [
    "Id",
    "Names",
    "Description",
    "ControlGroup",
    "ControlGroupId",
    "InvocationID",
    "FragmentPath",
    "DropInPaths",
    "StateChangeTimestamp",
    "InactiveExitTimestamp",
    "ActiveEnterTimestamp",
    "ConditionTimestamp",
    "AssertTimestamp",
    "EffectiveMemoryMax",
    "EffectiveMemoryHigh",
    "CPUUsageNSec",
    "MemoryCurrent",
    "MemoryPeak",
    "MemoryAvailable",
    "TasksCurrent",
    "JobId",
    "Job",
];

/// The properties of two units that are not the same: ours and theirs.
fn differences(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
) -> BTreeMap<String, (String, String)> {
    let names = ours.keys().chain(theirs.keys());
    let volatile = |n: &str| {
        VOLATILE.contains(&n)
            || n.ends_with("TimestampMonotonic")
            || n.starts_with("IO") && !n.contains("Max") && !n.contains("Weight")
    };
    let differ = names.filter(|n| !volatile(n) && ours.get(*n) != theirs.get(*n));
    let get = |map: &BTreeMap<String, String>, n: &String| map.get(n).cloned().unwrap_or_default();
    differ.map(|n| (n.clone(), (get(ours, n), get(theirs, n)))).collect()
}

#[test]
fn the_properties_are_runcs() {
    let (_, node) = disk();
    let (major, minor) =
        node.split_once(':').map(|(a, b)| (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())).unwrap();
    let mut all = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 16 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 200000},
        "pids": {"limit": 17},
        "blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1048576}]},
        "unified": {"memory.high": "50331648", "memory.min": "4096"},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}],
    });
    if has("cpuset") {
        all["cpu"]["cpus"] = json!("0");
        all["cpu"]["mems"] = json!("0");
    }
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, resources) in [("no limits", json!({})), ("all limits", all)] {
        let shown = [Tare, Runc, Crun].map(|with| {
            let mut bed = Bed::new("properties");
            bed.config["linux"]["resources"] = resources.clone();
            start(&mut bed, with, "system.slice:same:unit");
            let text = sh("systemctl show same-unit.scope");
            runtime(&bed, with, &["delete", "--force", &bed.id()]);
            wait_until("the unit is gone", || !is_there("same-unit.scope"));
            let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
                map.entry(key.to_owned()).or_default().push(value.to_owned());
            }
            let sorted = |(key, mut values): (String, Vec<String>)| {
                values.sort();
                (key, values.join("; "))
            };
            map.into_iter().map(sorted).collect::<BTreeMap<_, _>>()
        });
        let [ours, runc, crun] = &shown;
        for (property, value) in LIMITS.iter().filter(|_| name == "all limits") {
            assert_eq!(ours[*property], *value, "{property}");
        }
        for (with, theirs) in [(Runc, runc), (Crun, crun)] {
            let found = differences(ours, theirs);
            for (property, (ours, theirs)) in &found {
                println!("{name} | {with:?} | {property} | {ours} | {theirs}");
            }
            let why = |p: &str| JUSTIFIED.iter().position(|(w, property, _)| *w == with && *property == p);
            seen.extend(found.keys().filter_map(|p| why(p)));
            let new = found.keys().filter(|p| why(p).is_none()).map(|p| format!("{name}: not as {with:?} has it: {p}"));
            wrong.extend(new);
        }
    }
    let stale = JUSTIFIED.iter().enumerate().filter(|(i, _)| !seen.contains(i));
    wrong.extend(
        stale.map(|(_, (with, property, why))| format!("{property} no longer differs from {with:?}'s ({why})")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const LIMITS: [(&str, &str); 9] = [
    ("MemoryMax", "67108864"),
    ("MemorySwapMax", "33554432"),
    ("MemoryLow", "16777216"),
    ("MemoryHigh", "50331648"),
    ("MemoryMin", "4096"),
    ("CPUWeight", "59"),
    ("CPUQuotaPerSecUSec", "250ms"),
    ("CPUQuotaPeriodUSec", "200ms"),
    ("TasksMax", "17"),
];

/// Differences from runc's and crun's properties that are meant to be.
const JUSTIFIED: &[(Runtime, &str, &str)] = &[
    (Runc, "CollectMode", "a scope that was killed for its memory would keep its name"),
    (Crun, "CollectMode", "the same"),
    (Runc, "DeviceAllow", "runc names a group of devices by its number, systemd knows it by its name in /proc/devices"),
    (Crun, "DeviceAllow", "crun keeps its program in /sys/fs/bpf and gives systemd its path; ours stays without that"),
    (Crun, "DevicePolicy", "the same"),
    (Crun, "BPFProgram", "the same"),
    (Runc, "IOReadBandwidthMax", "runc and crun leave io.max to the file alone"),
    (Crun, "IOReadBandwidthMax", "the same"),
    (Crun, "MemorySwapMax", "crun gives systemd memory and swap together, and writes the difference to the file"),
];

#[test]
fn annotations_are_properties() {
    let mut bed = Bed::new("annotated");
    for (name, value, shown, text) in [
        ("TimeoutStopUSec", "uint64 5000000", "TimeoutStopUSec", "5s"),
        ("TimeoutStopSec", "7", "TimeoutStopUSec", "7s"),
        ("CollectMode", "'inactive'", "CollectMode", "inactive"),
        ("Description", "\"of mine\"", "Description", "of mine"),
        ("Delegate", "true", "Delegate", "yes"),
        ("CPUWeight", "uint64 33", "CPUWeight", "33"),
        ("Documentation", "['man:a', 'man:b']", "Documentation", "man:a man:b"),
    ] {
        bed.config["annotations"] = json!({ format!("org.systemd.property.{name}"): value });
        start(&mut bed, Tare, ":a:x");
        assert_eq!(show("a-x.scope", shown), text, "{name}");
        bed.delete();
    }
    for (name, value) in [
        ("NoSuchThing", "true"),           // systemd does not know it
        ("MemoryMax", "'lots'"),           // nor this type for it
        ("CollectMode", "'now and then'"), // nor this value
        ("CPUWeight", "uint64"),           // and this is no value at all
        ("not a name", "true"),
    ] {
        bed.config["annotations"] = json!({ format!("org.systemd.property.{name}"): value });
        let words = refused(&bed.tare(&["--systemd-cgroup", "run", &bed.id()]));
        assert!(words.contains(name) || words.contains(value), "{name}: {words}");
        assert!(bed.status().contains("does not exist"));
        assert!(!is_there("a-x.scope"), "{name}");
    }
}

#[test]
fn a_subgroup_is_below_the_limits() {
    for with in [Tare, Crun] {
        let mut bed = Bed::new("subgroup");
        bed.config["annotations"] = json!({"run.oci.systemd.subgroup": "inner"});
        bed.config["linux"]["resources"] = json!({"pids": {"limit": 20}});
        let pid = start(&mut bed, with, ":sub:x");
        let dir = cgroup(&pid);
        assert_eq!(dir, Path::new(ROOT).join("system.slice/sub-x.scope/inner"), "{with:?}");
        assert_eq!(read(dir.parent().unwrap(), "pids.max"), "20", "{with:?}");
        let out = runtime(&bed, with, &["update", "--pids-limit", "30", &bed.id()]);
        good(&out);
        assert_eq!(read(dir.parent().unwrap(), "pids.max"), "30", "{with:?}");
        good(&runtime(&bed, with, &["pause", &bed.id()]));
        let frozen = || read(&dir, "cgroup.events").contains("frozen 1");
        assert!(with != Tare || frozen(), "it is so when pause ends");
        wait_until("it is frozen", frozen);
        good(&runtime(&bed, with, &["resume", &bed.id()]));
        good(&runtime(&bed, with, &["delete", "--force", &bed.id()]));
        wait_until("the unit is gone", || !is_there("sub-x.scope"));
    }
    let mut bed = Bed::new("subgroup-bad");
    bed.config["annotations"] = json!({"run.oci.systemd.subgroup": "../x"});
    assert!(refused(&bed.tare(&["--systemd-cgroup", "run", &bed.id()])).contains("subgroup"));
}

#[test]
fn a_failed_unit_of_the_name_is_forgotten_and_a_living_one_is_left_alone() {
    let mut bed = Bed::new("names");
    sh("systemd-run -q --scope -u n-x -p RuntimeMaxSec=1 sleep 100 || :");
    assert_eq!(show("n-x.scope", "ActiveState"), "failed");
    start(&mut bed, Tare, ":n:x");
    assert_eq!(show("n-x.scope", "ActiveState"), "active");
    bed.delete();

    sh("systemd-run -q --scope -u n-x sleep 1000 >/dev/null 2>&1 &");
    wait_until("it is there", || show("n-x.scope", "ActiveState") == "active");
    let group = Path::new(ROOT).join("system.slice/n-x.scope");
    let pids = read(&group, "cgroup.procs");
    bed.config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    let words = refused(&bed.tare(&["--systemd-cgroup", "run", &bed.id()]));
    assert!(words.contains("not empty") || words.contains("n-x.scope"), "{words}");
    bed.tare(&["delete", "--force", &bed.id()]);
    assert_eq!((show("n-x.scope", "ActiveState").as_str(), read(&group, "cgroup.procs")), ("active", pids));
    assert_ne!(read(&group, "pids.max"), "5");
    sh("systemctl stop n-x.scope");
}

#[test]
fn a_unit_that_the_memory_limit_has_ended_is_forgotten() {
    let mut bed = Bed::new("ended");
    bed.config["linux"]["resources"] = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    bed.config["linux"]["cgroupsPath"] = json!(":e:x");
    std::os::unix::fs::symlink("busybox", bed.dir.join("rootfs/bin/tail")).unwrap();
    bed.config["process"]["args"] = json!(["tail", "/dev/zero"]);
    for _ in 0..2 {
        assert_eq!(bed.tare(&["--systemd-cgroup", "run", &bed.id()]).status.code(), Some(137));
        assert!(!is_there("e-x.scope"));
    }
    let state: Value = json!(bed.status());
    assert!(state.as_str().unwrap().contains("does not exist"));
}
