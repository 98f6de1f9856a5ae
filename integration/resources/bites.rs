//! Limits that bite: a process tree that breaks each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::bed::{Bed, tare};
use crate::machine::{DRIVERS, Driver, cgroup, count, disk, good, has, read, refused, sh, swap, wait_until};

const M: u64 = 1 << 20;

/// A bed whose container has these resources and runs the script.
fn limited(name: &str, driver: Driver, resources: Value, script: &str) -> Bed {
    let mut bed = Bed::new(name);
    // Memory that is written to, and blocks that are read past the cache.
    for applet in ["dd", "tail", "usleep", "cut"] {
        std::os::unix::fs::symlink("busybox", bed.dir.join("rootfs/bin").join(applet)).unwrap();
    }
    bed.config["linux"]["resources"] = resources;
    bed.config["linux"]["cgroupsPath"] = json!(driver.place(name));
    bed.shell(script);
    bed
}

fn run(bed: &Bed, driver: Driver, args: &[&str]) -> std::process::Output {
    bed.tare(&[driver.flags(), &["run"], args, &[&bed.id()]].concat())
}

fn start(bed: &Bed, driver: Driver) -> (String, std::path::PathBuf) {
    good(&run(bed, driver, &["--detach", "--pid-file", "pid"]));
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let cgroup = cgroup(&pid);
    (pid, cgroup)
}

/// `tail` of zeros without a line break keeps all that it reads.
const EATS: &str = "head -c 300m /dev/zero | tail >/dev/null";

#[test]
fn memory_runs_out_for_a_child() {
    for driver in DRIVERS {
        let resources = json!({"memory": {"limit": 32 * M, "swap": 32 * M}});
        let script = format!("read go < /go; {EATS}; echo $? > /died; exec sleep 1000");
        let mut bed = limited("oom-child", driver, resources, &script);
        bed.config["root"]["readonly"] = json!(false);
        sh(&format!("mkfifo {}/rootfs/go", bed.dir.display()));
        let (_, dir) = start(&bed, driver);
        assert_eq!(count(&dir, "memory.events", "oom_kill"), 0);
        let (mut events, mut lines) = events(&bed);
        fs::write(bed.dir.join("rootfs/go"), "\n").unwrap();
        let oom = lines.find(|event| event["type"] != "stats").unwrap();
        assert_eq!(oom, json!({"type": "oom", "id": bed.id()}), "{driver:?}");
        assert_eq!(count(&dir, "memory.events", "oom_kill"), 1);
        wait_until("the shell has seen it", || {
            fs::read_to_string(bed.dir.join("rootfs/died")).is_ok_and(|s| s == "137\n")
        });
        assert!(read(&dir, "memory.peak").parse::<u64>().unwrap() <= 32 * M);
        assert_eq!(bed.status(), "running");
        bed.delete();
        assert!(events.wait().unwrap().success());
    }
}

/// `tare events`, which has begun to watch: and what it prints from now on.
fn events(bed: &Bed) -> (Child, impl Iterator<Item = Value>) {
    let mut command = Command::new(tare());
    command.arg("--root").arg(bed.dir.join("state")).args(["events", "--interval", "100ms", &bed.id()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().unwrap()["type"], "stats");
    (child, lines)
}

#[test]
fn memory_runs_out_for_init() {
    for driver in DRIVERS {
        let resources = json!({"memory": {"limit": 32 * M, "swap": 32 * M}});
        let mut bed = limited("oom-init", driver, resources, "");
        // Not through a shell: the eater is the container's first process.
        bed.config["process"]["args"] = json!(["tail", "/dev/zero"]);
        let out = run(&bed, driver, &[]);
        assert_eq!(out.status.code(), Some(137), "{driver:?}: {out:?}");

        bed.config["process"]["args"] = json!(["sh", "-c", "read go < /go; exec tail /dev/zero"]);
        sh(&format!("mkfifo {}/rootfs/go", bed.dir.display()));
        let life = || {
            start(&bed, driver);
            let (mut events, lines) = events(&bed);
            fs::write(bed.dir.join("rootfs/go"), "\n").unwrap();
            let printed: Vec<Value> = lines.filter(|event| event["type"] != "stats").collect();
            assert!(events.wait().unwrap().success());
            assert!(
                printed.is_empty() || printed == [json!({"type": "oom", "id": bed.id()})],
                "{driver:?}: {printed:?}"
            );
            wait_until("it has stopped", || bed.status() == "stopped");
            good(&bed.tare(&["delete", &bed.id()]));
            !printed.is_empty()
        };
        // systemd takes an empty scope away at once, with its counts, and then nobody can know: a matter of who is first.
        let lives = if driver == Driver::Systemd { 20 } else { 1 };
        assert!((0..lives).any(|_| life()), "{driver:?}: no event of {lives} lives");
    }
}

#[test]
fn swap_is_what_is_above_the_memory_limit() {
    swap();
    let used = |script: &str, total: i64| {
        let bed = limited("swap", Driver::Fs, json!({"memory": {"limit": 32 * M, "swap": total}}), script);
        run(&bed, Driver::Fs, &[]).status.code().unwrap()
    };
    let eats = "head -c 60m /dev/zero | tail > /dev/null; exit $?"; // about 60 MB at once
    assert_eq!(used(eats, 32 << 20), 137, "no swap");
    assert_eq!(used(eats, 48 << 20), 137, "16 MB of swap");
    assert_eq!(used(eats, 200 << 20), 0, "168 MB of swap");
    assert_eq!(used(eats, -1), 0, "no limit on swap");
}

#[test]
fn a_limit_too_low_to_start_says_so() {
    for driver in DRIVERS {
        let bed = limited("low", driver, json!({"memory": {"limit": 4096, "swap": 4096}}), "true");
        let words = refused(&run(&bed, driver, &[]));
        assert!(words.contains("linux.resources.memory.limit"), "{words}");
        assert!(words.contains("memory limit is too low to start the container"), "{words}");
        assert!(driver == Driver::Systemd || words.contains(" bytes were in use at most"), "{words}");
        assert!(bed.status().contains("does not exist"));
    }
}

#[test]
fn pids_are_counted() {
    for driver in DRIVERS {
        // The shell ends at the first fork that fails, and leaves its children.
        let script = "sh -c 'sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait'; while :; do sleep 1000; done";
        let bed = limited("pids", driver, json!({"pids": {"limit": 4}}), script);
        let (pid, dir) = start(&bed, driver);
        wait_until("a fork has failed", || count(&dir, "pids.events", "max") > 0);
        let pids: Vec<u32> = serde_json::from_str(&good(&bed.tare(&["ps", "-f", "json", &bed.id()]))).unwrap();
        assert!((2..=4).contains(&pids.len()), "{pids:?} of {pid}");
        bed.delete();
        // 0 is a limit: the first process, and none besides.
        let bed = limited("pids-0", driver, json!({"pids": {"limit": 0}}), "sleep 0 && echo forked");
        let out = run(&bed, driver, &[]);
        assert!(!out.status.success() && out.stdout.is_empty(), "{driver:?}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("can't fork"), "{out:?}");
        let bed = limited("pids-free", driver, json!({"pids": {"limit": -1}}), "sleep 0 && echo forked");
        assert_eq!(good(&run(&bed, driver, &[])), "forked\n");
    }
}

#[test]
fn the_cpu_quota_bounds_and_is_counted() {
    for driver in DRIVERS {
        let bed = limited("quota", driver, json!({"cpu": {"quota": 10_000, "period": 50_000}}), "while :; do :; done");
        let (_, dir) = start(&bed, driver);
        let (start, before) = (Instant::now(), count(&dir, "cpu.stat", "usage_usec"));
        std::thread::sleep(std::time::Duration::from_secs(2));
        let used = (count(&dir, "cpu.stat", "usage_usec") - before) as f64;
        let share = used / start.elapsed().as_micros() as f64;
        // Less where the machine itself gets less; one period more at the edges.
        assert!(share < 0.25, "{driver:?}: {share:.2} of a CPU where 0.20 was the limit");
        assert!(count(&dir, "cpu.stat", "nr_throttled") > 5, "{driver:?}");
        let stats: Value = serde_json::from_str(&good(&bed.tare(&["events", "--stats", &bed.id()]))).unwrap();
        assert!(stats["data"]["cpu"]["throttling"]["throttledPeriods"].as_u64().unwrap() > 5, "{stats}");
        println!("{driver:?}: {share:.3} of a CPU, limit 0.200");
    }
}

#[test]
fn cpus_are_a_set() {
    if !has("cpuset") {
        for driver in DRIVERS {
            let bed = limited("cpus", driver, json!({"cpu": {"cpus": "0"}}), "true");
            let words = refused(&run(&bed, driver, &[]));
            assert!(words.contains("linux.resources.cpu.cpus") && words.contains("cpuset"), "{words}");
        }
        return;
    }
    assert_eq!(read(Path::new("/sys/fs/cgroup"), "cpuset.cpus.effective"), "0-1", "this test wants two CPUs");
    for driver in DRIVERS {
        let script = "grep Cpus_allowed_list /proc/self/status | cut -f 2";
        let bed = limited("cpus", driver, json!({"cpu": {"cpus": "1", "mems": "0"}}), script);
        assert_eq!(good(&run(&bed, driver, &[])), "1\n", "{driver:?}");
    }
}

#[test]
fn io_is_throttled() {
    let (disk, node) = disk();
    let (major, minor) = node.split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    for driver in DRIVERS {
        let time = |rate: u64| {
            let resources = json!({
                "devices": [{"allow": false, "access": "rwm"},
                    {"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}],
                "blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": rate}]},
            });
            let mut bed =
                limited("io", driver, resources, "dd if=/disk of=/dev/null bs=256k count=8 iflag=direct 2>&1");
            bed.config["linux"]["devices"] = json!([{"path": "/disk", "type": "b", "major": major, "minor": minor}]);
            let start = Instant::now();
            good(&run(&bed, driver, &[]));
            start.elapsed().as_secs_f64()
        };
        let (free, throttled) = (time(0), time(M));
        println!("{driver:?}: 2 MB of {disk} in {free:.2} s, at 1 MB/s in {throttled:.2} s");
        assert!(throttled > 1.4 && free < throttled / 2.0, "{driver:?}: {free:.2} and {throttled:.2} s");
    }
}

#[test]
fn huge_pages_are_limited() {
    // hugetlbfs without a limit of its own: 8 MB are written with 4 MB allowed.
    let script = "mount -t hugetlbfs -o pagesize=2M none /huge && truncate -s 8M /huge/file";
    if !has("hugetlb") {
        let bed = limited("huge", Driver::Fs, json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * M}]}), script);
        let words = refused(&run(&bed, Driver::Fs, &[]));
        assert!(words.contains("linux.resources.hugepageLimits[0]") && words.contains("hugetlb"), "{words}");
        return;
    }
    sh("echo 8 >/proc/sys/vm/nr_hugepages");
    for driver in DRIVERS {
        // fallocate(2) on hugetlbfs takes the pages.
        let take = |limit: u64| {
            let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
            let mut bed = limited("huge", driver, resources, "fallocate -l 8m /huge/file");
            std::os::unix::fs::symlink("busybox", bed.dir.join("rootfs/bin/fallocate")).unwrap();
            bed.mount("/huge", "hugetlbfs", "none", &["pagesize=2M"]);
            run(&bed, driver, &[])
        };
        refused(&take(4 * M));
        good(&take(8 * M));
    }
}

#[test]
fn an_update_below_what_is_used_is_refused_when_it_is_to_be_checked() {
    for driver in DRIVERS {
        // 40 MB in memory: files of the container's own /dev/shm.
        let script = "head -c 40m /dev/zero > /dev/shm/file; echo > /dev/shm/full; exec sleep 1000";
        let bed = limited("check", driver, json!({"memory": {"limit": 128 * M}}), script);
        let (pid, dir) = start(&bed, driver);
        let full = format!("/proc/{}/root/dev/shm/full", pid.trim());
        wait_until("it is full", || Path::new(&full).exists());
        let update = |resources: Value| {
            fs::write(bed.dir.join("r.json"), resources.to_string()).unwrap();
            bed.tare(&["update", "-r", "r.json", &bed.id()])
        };
        let words = refused(&update(json!({"memory": {"limit": 20 * M, "checkBeforeUpdate": true}})));
        assert!(words.contains("rejecting memory limit 20971520 <= usage"), "{words}");
        assert_eq!(read(&dir, "memory.max"), (128 * M).to_string());
        good(&update(json!({"memory": {"limit": 64 * M, "checkBeforeUpdate": true}})));
        assert_eq!(read(&dir, "memory.max"), (64 * M).to_string());
        assert_eq!(bed.status(), "running");
    }
}
