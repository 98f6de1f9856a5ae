//! `systemctl daemon-reload` and `daemon-reexec` with twenty containers running change nothing in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::bed::Bed;
use crate::machine::{DRIVERS, Driver, cgroup, disk, good, settings, sh, wait_until};

/// Opens an allowed and a denied device, again and again; notes each turn, and whether it was ever otherwise.
const PROBE: &str = "mknod /dev/kmsg1 c 1 11; mknod /dev/disk b $1 $2; n=0; while :; do \
    got=''; for d in kmsg1 disk; do if (: < /dev/$d) 2>/dev/null; then got=${got}y; else got=${got}n; fi; done; \
    [ $got = $3 ] || echo $got > /dev/shm/otherwise; (: < /dev/full) || echo full > /dev/shm/otherwise; \
    n=$((n+1)); echo $n > /dev/shm/turns; sleep 1; done";

struct Running {
    bed: Bed,
    pid: String,
    dir: PathBuf,
}

impl Running {
    fn shm(&self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/root/dev/shm/{file}", self.pid)).ok()
    }

    fn turns(&self) -> u32 {
        self.shm("turns").and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// The settings, and the processes that do not come and go.
    fn state(&self) -> (BTreeMap<String, String>, String, bool) {
        let cmdline = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap();
        (settings(&self.dir), cmdline, cgroup(&self.pid) == self.dir)
    }
}

fn start(i: u64, driver: Driver, node: &str) -> Running {
    let (major, minor) = node.split_once(':').unwrap();
    let mut bed = Bed::new(&format!("reload{i}"));
    // One may read the kernel's messages and the other one the disk.
    let (rule, want) = if i.is_multiple_of(2) {
        (json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}), "yn")
    } else {
        let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
        (json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}), "ny")
    };
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
    }
    bed.config["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}, rule],
        "memory": {"limit": (64 + i) << 20, "swap": (96 + i) << 20, "reservation": i << 20},
        "cpu": {"shares": 500 + i, "quota": 20_000 + 1000 * i, "period": 100_000},
        "pids": {"limit": 20 + i},
        "unified": {"memory.oom.group": "1", "memory.high": format!("{}M", 60 + i)},
    });
    bed.config["linux"]["cgroupsPath"] = json!(driver.place(&format!("reload{i}")));
    bed.config["process"]["args"] = json!(["sh", "-c", PROBE, "probe", major, minor, want]);
    let id = bed.id();
    good(&bed.tare(&[driver.flags(), &["run", "-d", "--pid-file", "pid", &id]].concat()));
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap().trim().to_owned();
    let dir = cgroup(&pid);
    Running { bed, pid, dir }
}

#[test]
fn twenty_containers_notice_nothing() {
    let (_, node) = disk();
    let running: Vec<_> = (0..20).map(|i| start(i, if i < 16 { Driver::Systemd } else { Driver::Fs }, &node)).collect();
    let turn = || {
        let before: Vec<_> = running.iter().map(Running::turns).collect();
        wait_until("every container has gone round", || running.iter().zip(&before).all(|(r, n)| r.turns() > n + 1));
    };
    turn();
    let before: Vec<_> = running.iter().map(Running::state).collect();
    assert_eq!(before[3].0["memory.oom.group"], "1");
    for command in ["daemon-reload", "daemon-reexec", "daemon-reload"] {
        sh(&format!("systemctl {command}"));
        turn();
        for (r, before) in running.iter().zip(&before) {
            assert_eq!(&r.state(), before, "{} after {command}", r.bed.id());
            assert_eq!(r.shm("otherwise"), None, "{} saw other device rules after {command}", r.bed.id());
            assert_eq!(r.bed.status(), "running");
        }
    }
    for r in &running {
        good(&r.bed.tare(&["delete", "--force", &r.bed.id()]));
        assert!(!r.dir.exists());
    }
}

/// systemd keeps a quota in whole percent of a CPU, so that a finer one is rounded up by a reload: as runc has it from the
/// outset.
#[test]
fn a_fine_quota_is_rounded_by_a_reload_and_never_down() {
    for driver in DRIVERS {
        let mut bed = Bed::new("fine");
        bed.config["linux"]["resources"] = json!({"cpu": {"quota": 33_333}});
        bed.config["linux"]["cgroupsPath"] = json!(driver.place("fine"));
        bed.shell("exec sleep 1000");
        let id = bed.id();
        good(&bed.tare(&[driver.flags(), &["run", "-d", "--pid-file", "pid", &id]].concat()));
        let dir = cgroup(&fs::read_to_string(bed.dir.join("pid")).unwrap());
        assert_eq!(settings(&dir)["cpu.max"], "33333 100000");
        // What systemd writes again for another reason is put right again by us.
        good(&bed.tare(&["update", "--cpu-share", "300", &id]));
        assert_eq!(settings(&dir)["cpu.max"], "33333 100000");
        sh("systemctl daemon-reload");
        let after = if driver == Driver::Fs { "33333 100000" } else { "34000 100000" };
        assert_eq!(settings(&dir)["cpu.max"], after);
    }
}
