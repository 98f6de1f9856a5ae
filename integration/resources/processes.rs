//! pause, ps, events, kill and delete where the container has cgroups of its own: nested, threaded, frozen.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::machine::{DRIVERS, Driver, Runtime, cgroup, good, read, refused, runtime, settings, wait_until};

/// A container that owns its cgroup and runs the script; its pid and its cgroup.
fn start(name: &str, driver: Driver, script: &str) -> (Bed, String, PathBuf) {
    let mut bed = Bed::new(name);
    bed.config["linux"]["cgroupsPath"] = json!(driver.place(name));
    for mount in bed.config["mounts"].as_array_mut().unwrap().iter_mut().filter(|m| m["type"] == "cgroup") {
        mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    }
    bed.shell(script);
    let id = bed.id();
    good(&bed.tare(&[driver.flags(), &["run", "-d", "--pid-file", "pid", &id]].concat()));
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap().trim().to_owned();
    let dir = cgroup(&pid);
    (bed, pid, dir)
}

/// Moves itself into a cgroup below, enables the controllers, and makes more cgroups with a process in each.
const NESTED: &str = "cd /sys/fs/cgroup; mkdir init; echo 0 > init/cgroup.procs; \
    echo '+cpu +memory +pids' > cgroup.subtree_control; mkdir -p a/b/c d; \
    for g in a a/b a/b/c d; do (echo 0 > /sys/fs/cgroup/$g/cgroup.procs; exec sleep 1000) & done; \
    touch /dev/shm/ready; while :; do sleep 1000; done";

fn ready(pid: &str) {
    let path = format!("/proc/{pid}/root/dev/shm/ready");
    wait_until("the container is ready", || fs::exists(&path).unwrap());
}

fn pids(bed: &Bed) -> Vec<i32> {
    serde_json::from_str(&good(&bed.tare(&["ps", "--format", "json", &bed.id()]))).unwrap()
}

#[test]
fn cgroups_of_the_containers_own_are_paused_listed_and_deleted() {
    for driver in DRIVERS {
        let (bed, pid, dir) = start("nested", driver, NESTED);
        ready(&pid);
        let id = bed.id();
        let top = dir.parent().unwrap(); // init is in a cgroup below by now
        let top = if dir.ends_with("init") { top.to_owned() } else { dir.clone() };
        wait_until("all are in place", || pids(&bed).len() == 6);
        let listed = pids(&bed);
        assert!(listed.contains(&pid.parse().unwrap()));
        let table = good(&bed.tare(&["ps", &id, "-o", "pid,args"]));
        assert_eq!(table.lines().count(), 7, "{table}");

        good(&bed.tare(&["pause", &id]));
        for group in ["init", "a", "a/b", "a/b/c", "d"] {
            assert!(read(&top.join(group), "cgroup.events").contains("frozen 1"), "{group}");
        }
        assert_eq!((bed.status().as_str(), pids(&bed)), ("paused", listed.clone()));
        good(&bed.tare(&["resume", &id]));
        assert!(read(&top.join("a/b"), "cgroup.events").contains("frozen 0"));
        assert_eq!(bed.status(), "running");

        // One that the container has frozen itself, and one that is threaded.
        fs::write(top.join("a/b/cgroup.freeze"), "1").unwrap();
        let threaded = top.join("d/threads");
        fs::create_dir(&threaded).unwrap();
        fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
        assert_eq!(pids(&bed), listed);
        good(&bed.tare(&["pause", &id]));
        good(&bed.tare(&["kill", &id, "KILL"])); // reaches a frozen process
        wait_until("it has ended", || bed.status() == "stopped");
        good(&bed.tare(&["delete", &id]));
        assert!(!top.exists(), "{driver:?}");
    }
}

#[test]
fn a_frozen_container_is_deleted_by_force() {
    for driver in DRIVERS {
        let (bed, pid, dir) = start("frozen", driver, NESTED);
        ready(&pid);
        good(&bed.tare(&["pause", &bed.id()]));
        let words = refused(&bed.tare(&["delete", &bed.id()]));
        assert!(words.contains("paused"), "{words}");
        good(&bed.tare(&["delete", "--force", &bed.id()]));
        assert!(!dir.exists() && !fs::exists(format!("/proc/{pid}")).unwrap(), "{driver:?}");
    }
}

#[test]
fn a_fork_storm_is_paused_and_killed() {
    for driver in DRIVERS {
        let script = "storm() { while :; do (:) & done; }; storm & storm & touch /dev/shm/ready; storm";
        let (bed, pid, dir) = start("storm", driver, script);
        ready(&pid);
        for _ in 0..5 {
            good(&bed.tare(&["pause", &bed.id()]));
            let (before, used) = (pids(&bed), read(&dir, "cpu.stat"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!((pids(&bed), read(&dir, "cpu.stat")), (before, used), "{driver:?}: something runs");
            good(&bed.tare(&["resume", &bed.id()]));
        }
        good(&bed.tare(&["kill", "--all", &bed.id(), "KILL"]));
        wait_until("all are dead", || !dir.exists() || read(&dir, "cgroup.events").contains("populated 0"));
        good(&bed.tare(&["delete", &bed.id()]));
        assert!(!dir.exists());
    }
}

#[test]
fn kill_all_after_init_is_dead() {
    for driver in DRIVERS {
        let mut bed = Bed::new("left");
        bed.config["linux"]["cgroupsPath"] = json!(driver.place("left"));
        // Without a pid namespace the end of init leaves the others alive.
        bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        bed.shell("sleep 1000 & sleep 1000 & exec sleep 1000");
        let id = bed.id();
        good(&bed.tare(&[driver.flags(), &["run", "-d", "--pid-file", "pid", &id]].concat()));
        let dir = cgroup(&fs::read_to_string(bed.dir.join("pid")).unwrap());
        wait_until("all are there", || pids(&bed).len() == 3);
        good(&bed.tare(&["kill", &id, "TERM"]));
        wait_until("init is dead", || bed.status() == "stopped");
        assert!(read(&dir, "cgroup.events").contains("populated 1"), "the others should live");
        good(&bed.tare(&["kill", "--all", &id, "TERM"]));
        wait_until("the others are dead", || !dir.exists() || read(&dir, "cgroup.events").contains("populated 0"));
        good(&bed.tare(&["kill", "--all", &id, "KILL"])); // nobody is left, perhaps not even the cgroup
        good(&bed.tare(&["delete", &id]));
        assert!(!dir.exists(), "{driver:?}");
    }
}

/// Every path in a JSON value: `data.cpu.usage.total`. Maps whose keys are data (memory.stat) count as one.
fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !path.ends_with(".raw") => {
            for (key, value) in map {
                keys(value, &format!("{path}.{key}"), into);
            }
        }
        Value::Array(list) if !list.is_empty() => keys(&list[0], &format!("{path}[]"), into),
        _ => drop(into.insert(path.to_owned())),
    }
}

#[test]
fn statistics_have_the_form_of_runcs() {
    for driver in DRIVERS {
        let mut found = Vec::new();
        for with in [Runtime::Tare, Runtime::Runc] {
            let mut bed = Bed::new("stats");
            bed.config["linux"]["cgroupsPath"] = json!(driver.place("stats"));
            bed.config["linux"]["resources"] =
                json!({"memory": {"limit": 64 << 20, "swap": 96 << 20}, "pids": {"limit": 9}, "cpu": {"quota": 20000}});
            bed.shell("while [ ! -e /throttled ]; do :; done; exec sleep 1000");
            let id = bed.id();
            good(&runtime(&bed, with, &[driver.flags(), &["run", "-d", "--pid-file", "pid", &id]].concat()));
            let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
            let cpu = cgroup(&pid);
            wait_until("it is throttled", || !read(&cpu, "cpu.stat").contains("throttled_usec 0"));
            fs::write(bed.dir.join("rootfs/throttled"), "").unwrap();
            wait_until("it sleeps", || fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap() == "sleep\n");
            let event: Value = serde_json::from_str(&good(&runtime(&bed, with, &["events", "--stats", &id]))).unwrap();
            assert_eq!(settings(&cgroup(&pid))["pids.max"], "9");
            runtime(&bed, with, &["delete", "--force", &id]);
            let mut names = BTreeSet::new();
            keys(&event, "", &mut names);
            names.remove(".data.memory.cache"); // left out when it is zero
            let exact =
                ["/data/memory/usage/limit", "/data/memory/swap/limit", "/data/pids/limit", "/data/pids/current"];
            let exact = exact.map(|pointer| event.pointer(pointer).cloned());
            let order: Vec<_> = event["data"]["memory"]["raw"].as_object().unwrap().keys().cloned().collect();
            assert!(event["data"]["cpu"]["throttling"]["throttledPeriods"].as_u64().unwrap() > 0, "{with:?}: {event}");
            found.push((names, exact, order));
        }
        let [ours, theirs] = &found[..] else { unreachable!() };
        assert_eq!(ours, theirs, "{driver:?}");
        println!("{driver:?}: {} keys as runc has them", ours.0.len() + ours.2.len());
    }
}

#[test]
fn events_come_at_their_interval_and_end_with_the_container() {
    let (bed, _, _) = start("interval", Driver::Systemd, "sleep 1; exec sleep 1");
    let out = good(&bed.tare(&["events", "--interval", "200ms", &bed.id()]));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!((5..=10).contains(&lines.len()), "{} in two seconds", lines.len());
    assert!(lines.iter().all(|line| line["type"] == "stats"), "{out}");
}
