//! The seccomp profiles that `tare spec --seccomp` writes, each in a container: what it forbids and what it lets through,
//! as their README says.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::process::Command;
use std::time::Duration;

use bed::{Bed, all, tare};
use serde_json::json;

/// A bed whose config.json is what `tare spec --seccomp NAME` writes, with the capabilities for what the profile forbids.
fn with_profile(name: &str, test: &str) -> Bed {
    let mut bed = Bed::new(&format!("profile-{name}-{test}"));
    fs::remove_file(bed.dir.join("config.json")).unwrap();
    let out = Command::new(tare()).args(["spec", "--seccomp", name, "--bundle"]).arg(&bed.dir).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    bed.config = serde_json::from_slice(&fs::read(bed.dir.join("config.json")).unwrap()).unwrap();
    bed.config["process"]["terminal"] = json!(false);
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_SYS_CHROOT"]);
    }
    bed
}

/// Each command fails with its words under the profile, and works without it: else its failure would say nothing.
fn forbids(bed: &mut Bed, table: &[(&str, &str)]) {
    for (command, words) in table {
        bed.config["process"]["args"] = command.split(' ').collect();
        for (code, stdout, stderr) in bed.run() {
            assert!(code != 0 && stderr.contains(words), "{command}: {code} {stdout}{stderr}");
        }
        let profile = bed.config["linux"].as_object_mut().unwrap().remove("seccomp").unwrap();
        all(bed.run(), 0, "");
        bed.config["linux"]["seccomp"] = profile;
    }
}

#[test]
fn default_lets_programs_do_what_they_do() {
    let mut bed = with_profile("default", "allows");
    bed.shell(
        "grep '^Seccomp:' /proc/self/status; cd /dev/shm && mkdir d && echo text > d/f && busybox ln d/f l && busybox chown 1:2 l && \
         stat -c %u:%g d/f && cat l | cat && (exit 3); echo $?; busybox mkfifo p && busybox rm -r d l p && ls; \
         busybox nc -l -p 7000 -e echo served & until busybox nc 127.0.0.1 7000 2>/dev/null; do sleep 0.05; done; kill -0 $$ && echo alive; \
         busybox chroot / echo in; exec echo executed",
    );
    all(bed.run(), 0, "Seccomp:\t2\n1:2\ntext\n3\nserved\nalive\nin\nexecuted");
}

#[test]
fn default_forbids_mounts_namespaces_and_names() {
    let table = [
        ("mount -t tmpfs x /dev/shm", "mount: permission denied"),
        ("busybox umount /dev/mqueue", "Operation not permitted"),
        ("busybox unshare --mount true", "unshare(0x20000): Operation not permitted"),
        ("busybox unshare --uts true", "Operation not permitted"),
        ("busybox nsenter --target=1 --ipc true", "setns"),
        ("hostname other", "Operation not permitted"),
    ];
    forbids(&mut with_profile("default", "forbids"), &table);
}

#[test]
fn strict_is_for_one_program() {
    let mut bed = with_profile("strict", "one");
    // Files, and another program in its place.
    bed.shell("read line < /proc/self/status; echo $line; echo text > /dev/shm/f; exec cat /dev/shm/f");
    all(bed.run(), 0, "Name:\tsh\ntext".replace('\t', " ").as_str());
    // None beside it.
    bed.shell("echo before; ls /; echo after");
    for (code, stdout, stderr) in bed.run() {
        assert!(code != 0 && stdout == "before\n" && stderr.contains("can't fork"), "{code} {stdout}{stderr}");
    }
    // Sockets: refused by nobody who listens, and not by the profile.
    bed.config["process"]["args"] = json!(["busybox", "nc", "-w", "1", "127.0.0.1", "7"]);
    for (code, stdout, stderr) in bed.run() {
        assert!(code != 0 && stderr.contains("Connection refused"), "{code} {stdout}{stderr}");
    }
}

#[test]
fn strict_forbids_what_a_server_does_not_need() {
    let table = [
        ("busybox chown 1:1 /dev/shm", "Operation not permitted"),
        ("busybox ln -s x /dev/shm/l", "Operation not permitted"),
        ("busybox mkfifo /dev/shm/p", "Operation not permitted"),
        ("busybox chroot / true", "Operation not permitted"),
        ("busybox unshare --mount true", "Operation not permitted"),
        ("mount -t tmpfs x /dev/shm", "permission denied"),
    ];
    forbids(&mut with_profile("strict", "forbids"), &table);
}

#[test]
fn log_forbids_nothing_and_logs_what_strict_lacks() {
    let mut bed = with_profile("log", "all");
    bed.shell("grep '^Seccomp:' /proc/self/status; mount -t tmpfs x /dev/shm && busybox unshare --mount echo unshared");
    all(bed.run(), 0, "Seccomp:\t2\nunshared");
    // A name of its own in the kernel's log; the kernel drops lines when many come at once, so it is tried again.
    let name = format!("busybox-{:07}", std::process::id());
    fs::copy("/bin/busybox", bed.dir.join("rootfs/bin").join(&name)).unwrap();
    let calls = || -> Vec<i64> {
        let out = Command::new("dmesg").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let ours = text.lines().filter(|l| l.contains("type=1326") && l.contains(&format!("comm=\"{name}\"")));
        ours.filter_map(|l| l.split("syscall=").nth(1)?.split(' ').next()?.parse().ok()).collect()
    };
    let makes_node = |calls: &[i64]| calls.iter().any(|n| [libc::SYS_mknodat, NODE].contains(n));
    for i in 0..20 {
        bed.config["process"]["args"] = json!([&name, "mkfifo", format!("/dev/shm/{i}")]);
        all(bed.run(), 0, "");
        if makes_node(&calls()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let calls = calls();
    assert!(makes_node(&calls), "this test needs a kernel that logs seccomp's actions, and no auditd: {calls:?}");
    for allowed in [libc::SYS_read, libc::SYS_write, libc::SYS_execve, libc::SYS_brk, libc::SYS_exit_group] {
        assert!(!calls.contains(&allowed), "{allowed} was logged, which strict.json allows");
    }
}

/// mknod(2), where there is one.
#[cfg(target_arch = "x86_64")]
const NODE: i64 = libc::SYS_mknod;
#[cfg(not(target_arch = "x86_64"))]
const NODE: i64 = libc::SYS_mknodat;

#[test]
fn other_names_are_refused() {
    let bed = Bed::new("profile-unknown");
    let out = bed.tare(&["spec", "--bundle", "/no/such", "--seccomp", "lax"]);
    assert_eq!(out.status.code(), Some(1));
    let words = "--seccomp: no profile \"lax\": there are default, strict, log";
    assert!(String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
}
