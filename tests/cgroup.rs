//! What is done with the processes of a container: pause, resume, ps, events, kill --all, update. The limits themselves need
//! controllers that not every host has on cgroup v2.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::process::{Command, Stdio};

use bed::{Bed, cgroup_of, tare};
use serde_json::{Value, json};

/// A container that runs `script`, with what it prints in the file `out`; its pid on the host.
fn start(bed: &mut Bed, script: &str) -> String {
    bed.shell(script);
    let id = bed.id();
    let out = bed.tare(&["run", "-d", "--pid-file", "pid", &id]);
    assert!(out.status.success(), "{out:?}");
    fs::read_to_string(bed.dir.join("pid")).unwrap()
}

fn words(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn ok(bed: &Bed, args: &[&str]) -> String {
    let out = bed.tare(args);
    assert!(out.status.success(), "{args:?}: {}", words(&out));
    assert!(out.stderr.is_empty(), "{args:?} printed on stderr: {}", words(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn paused_processes_do_nothing_until_they_are_resumed() {
    let mut bed = Bed::new("pause");
    let count = bed.dir.join("count");
    fs::create_dir(&count).unwrap();
    bed.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/count", "type": "bind", "source": count, "options": ["bind"]}));
    let pid = start(&mut bed, "i=0; while true; do i=$((i+1)); echo $i > /count/n; done");
    let id = bed.id();
    let number = || fs::read_to_string(count.join("n")).unwrap();
    let begin = std::time::Instant::now();
    while !count.join("n").exists() {
        assert!(begin.elapsed().as_secs() < 20, "it does not count");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    ok(&bed, &["pause", &id]);
    let frozen = number();
    assert_eq!(bed.status(), "paused");
    assert!(words(&bed.tare(&["pause", &id])).contains("container not running or created: paused"));
    assert!(words(&bed.tare(&["start", &id])).contains("cannot start a container in the paused state"));
    let (user, system) = cpu_time(&pid);
    for _ in 0..100 {
        std::thread::yield_now();
        assert_eq!(number(), frozen);
    }
    assert_eq!(cpu_time(&pid), (user, system));
    ok(&bed, &["resume", &id]);
    assert_eq!(bed.status(), "running");
    while number() == frozen {
        std::thread::yield_now();
    }
    assert!(words(&bed.tare(&["resume", &id])).contains("container not paused: running"));
    // SIGKILL reaches a frozen process.
    ok(&bed, &["pause", &id]);
    ok(&bed, &["kill", &id, "KILL"]);
    ok(&bed, &["delete", "--force", &id]);
    assert!(!cgroup_of(&id).exists());
}

/// utime and stime (proc_pid_stat(5)).
fn cpu_time(pid: &str) -> (String, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].to_owned(), fields[12].to_owned())
}

#[test]
fn ps_shows_the_processes_of_nested_cgroups_as_well() {
    let mut bed = Bed::new("ps");
    let pid = start(&mut bed, "sleep 1000 & sleep 1000 & wait");
    let id = bed.id();
    let listed = || -> Vec<i32> { serde_json::from_str(&ok(&bed, &["ps", "--format", "json", &id])).unwrap() };
    while listed().len() < 3 {
        std::thread::yield_now();
    }
    let pids = listed();
    assert!(pids.contains(&pid.parse().unwrap()), "{pids:?} without {pid}");
    let nested = cgroup_of(&id).join("nested");
    fs::create_dir(&nested).unwrap();
    let moved = *pids.iter().find(|p| p.to_string() != pid).unwrap();
    fs::write(nested.join("cgroup.procs"), moved.to_string()).unwrap();
    assert_eq!(listed(), pids, "one was moved into a nested cgroup");
    let table = ok(&bed, &["ps", &id, "-o", "pid,args"]);
    let mut lines = table.lines();
    assert_eq!(lines.next().unwrap().trim(), "PID COMMAND");
    assert_eq!(lines.count(), 3, "{table}");
    assert!(words(&bed.tare(&["ps", &id, "-o", "args"])).contains("couldn't find PID field in ps output"));
    // Pause and resume reach it, too, and so does the end.
    ok(&bed, &["pause", &id]);
    assert!(fs::read_to_string(nested.join("cgroup.events")).unwrap().contains("frozen 1"));
    ok(&bed, &["delete", "--force", &id]);
    assert!(!cgroup_of(&id).exists());
    assert!(words(&bed.tare(&["ps", &id])).contains("container does not exist"));
}

#[test]
fn events_end_with_the_container() {
    let mut bed = Bed::new("events");
    start(&mut bed, "sleep 1000");
    let id = bed.id();
    let once: Value = serde_json::from_str(&ok(&bed, &["events", "--stats", &id])).unwrap();
    assert_eq!((&once["type"], &once["id"]), (&json!("stats"), &json!(id)));
    for part in ["cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
        assert!(once["data"][part].is_object(), "{part}: {once}");
    }
    assert!(once["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{once}");
    for bad in ["0s", "5", "x"] {
        assert!(words(&bed.tare(&["events", "--interval", bad, &id])).contains("--interval"), "{bad}");
    }
    let mut stream = Command::new(tare())
        .arg("--root")
        .arg(bed.dir.join("state"))
        .args(["events", "--interval", "20ms", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream.stdout.take().unwrap()));
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    ok(&bed, &["kill", &id, "KILL"]);
    assert!(lines.all(|line| line.unwrap().contains("\"stats\"")), "it goes on after the container's end");
    assert!(stream.wait().unwrap().success());
    assert!(words(&bed.tare(&["events", "--stats", &id])).contains("container not running: stopped"));
}

#[test]
fn kill_all_reaches_what_is_left_after_init() {
    let mut bed = Bed::new("killall");
    // Without a pid namespace of its own, the end of init leaves the others alive.
    let kinds = bed.config["linux"]["namespaces"].as_array_mut().unwrap();
    kinds.retain(|n| n["type"] != "pid");
    let pid = start(&mut bed, "sleep 1000 & exec sleep 1000");
    let id = bed.id();
    let listed = || -> Vec<i32> { serde_json::from_str(&ok(&bed, &["ps", "-f", "json", &id])).unwrap() };
    while listed().len() < 2 {
        std::thread::yield_now();
    }
    let other = listed().into_iter().find(|p| p.to_string() != pid).unwrap();
    ok(&bed, &["kill", &id, "TERM"]);
    while bed.status() != "stopped" {
        std::thread::yield_now();
    }
    let lives = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    assert!(lives(other), "the other process should have outlived init");
    assert!(words(&bed.tare(&["kill", &id, "TERM"])).contains("container not running"));
    ok(&bed, &["kill", "--all", &id, "KILL"]);
    while lives(other) {
        std::thread::yield_now();
    }
    ok(&bed, &["delete", &id]);
    assert!(!cgroup_of(&id).exists());
}

#[test]
fn an_update_is_whole_or_not_at_all_and_is_saved() {
    let mut bed = Bed::new("update");
    start(&mut bed, "sleep 1000");
    let id = bed.id();
    let update = |resources: Value| {
        fs::write(bed.dir.join("resources.json"), resources.to_string()).unwrap();
        bed.tare(&["update", "--resources", "resources.json", &id])
    };
    let depth = || fs::read_to_string(cgroup_of(&id).join("cgroup.max.depth")).unwrap().trim().to_owned();
    let saved = || -> Value {
        let state = fs::read(bed.dir.join("state").join(&id).join("tare.json")).unwrap();
        serde_json::from_slice::<Value>(&state).unwrap()["config"]["linux"]["resources"]["unified"].clone()
    };
    assert!(update(json!({"unified": {"cgroup.max.depth": "7"}})).status.success());
    assert_eq!((depth().as_str(), &saved()["cgroup.max.depth"]), ("7", &json!("7")));
    // The second value is refused by the kernel; the first was written before it.
    let refused = update(json!({"unified": {"cgroup.max.depth": "9", "cgroup.max.descendants": "many"}}));
    assert!(words(&refused).contains("linux.resources.unified[cgroup.max.descendants]"), "{}", words(&refused));
    assert_eq!((depth().as_str(), saved()), ("7", json!({"cgroup.max.depth": "7"})));
    // Zero, empty and absent are no change; and what is said again is written again.
    assert!(update(json!({"memory": {"limit": 0}, "cpu": {"shares": 0, "cpus": ""}, "pids": {}})).status.success());
    fs::write(cgroup_of(&id).join("cgroup.max.depth"), "3").unwrap();
    assert!(update(json!({})).status.success());
    assert_eq!(depth(), "3");
    assert!(update(json!({"unified": {"cgroup.max.depth": "7"}})).status.success());
    assert_eq!(depth(), "7");
    for (bad, field) in [
        (json!({"memory": {"limit": "much"}}), "linux.resources.memory.limit"),
        (json!({"memory": {"limit": 4096, "swap": 1}}), "linux.resources.memory.swap"),
        (json!({"unified": {"a/b": "1"}}), "linux.resources.unified: \"a/b\""),
        (json!({"devices": [{"allow": true, "access": "x"}]}), "linux.resources.devices"),
    ] {
        let out = update(bad);
        assert!(!out.status.success() && words(&out).contains(field), "{field}: {}", words(&out));
    }
    for args in [["--l3-cache-schema", "x"], ["--cpu-rt-period", "5"], ["--memory", "lots"]] {
        let out = bed.tare(&["update", args[0], args[1], &id]);
        assert!(words(&out).contains(args[0]), "{args:?}: {}", words(&out));
    }
    ok(&bed, &["kill", &id, "KILL"]);
    while bed.status() != "stopped" {
        std::thread::yield_now();
    }
    assert!(words(&update(json!({"pids": {"limit": 5}}))).contains("container not running"));
}

#[test]
fn device_rules_of_a_running_container_are_exchanged() {
    let mut bed = Bed::new("exchange");
    let results = bed.dir.join("results");
    fs::create_dir(&results).unwrap();
    bed.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/results", "type": "bind", "source": results, "options": ["bind"]}));
    // /dev/full is in every list; /dev/kmsg (1:11) is in none until it is asked for.
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
    }
    start(
        &mut bed,
        "mknod /dev/asked c 1 11; while true; do \
         if (: < /dev/asked) 2>/dev/null; then echo yes; else echo no; fi > /results/new && mv /results/new /results/asked; \
         (: < /dev/full) || touch /results/lost; done",
    );
    let id = bed.id();
    let wait_for = |word: &str| {
        while fs::read_to_string(results.join("asked")).map_or(true, |text| text.trim() != word) {
            std::thread::yield_now();
        }
    };
    let update = |devices: Value| {
        fs::write(bed.dir.join("resources.json"), json!({ "devices": devices }).to_string()).unwrap();
        ok(&bed, &["update", "-r", "resources.json", &id]);
    };
    wait_for("no");
    update(
        json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
    );
    wait_for("yes");
    update(json!([{"allow": false, "access": "rwm"}]));
    wait_for("no");
    assert!(!results.join("lost").exists(), "for a moment not even the default devices were allowed");
}
