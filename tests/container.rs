//! Containers on this host. Each test makes bundles and a state directory of its own. They need root, cgroup v2 (a pure
//! one or `/sys/fs/cgroup/unified`) and busybox-static, and say so where one is missing: they never pass by doing nothing.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::symlink;

use bed::{Bed, all, cgroup_of, left_behind};
use serde_json::{Value, json};

#[test]
fn a_life_step_by_step() {
    let mut bed = Bed::new("life");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let id = bed.id();
    assert!(bed.status().contains("container does not exist"));
    let created = bed.tare(&["create", "--pid-file", "pid", &id]);
    assert!(created.status.success(), "{created:?}");
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    assert!(pid.bytes().all(|b| b.is_ascii_digit()), "{pid:?}");
    assert_eq!(bed.status(), "created");
    let again = bed.tare(&["create", &id]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("container with given ID already exists"));
    assert!(bed.tare(&["start", &id]).status.success());
    assert_eq!(bed.status(), "running");
    let twice = bed.tare(&["start", &id]);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("cannot start an already running container"));
    let early = bed.tare(&["delete", &id]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("cannot delete container that is not stopped: running"));
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.lines().any(|l| l.starts_with("0::") && l.ends_with(&id)), "{groups}");
    assert!(bed.tare(&["kill", &id, "KILL"]).status.success());
    let pidfd_gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
    for _ in 0..1000 {
        if pidfd_gone() {
            break;
        }
        std::thread::yield_now();
    }
    let late = bed.tare(&["delete", "--force", &id]);
    assert!(late.status.success(), "{late:?}");
    assert!(bed.tare(&["delete", "--force", &id]).status.success(), "deleting what is gone");
    assert!(!bed.dir.join("state").join(&id).exists());
    assert!(!cgroup_of(&id).exists(), "the cgroup is left");
}

#[test]
fn confinement_as_the_process_sees_it() {
    let mut bed = Bed::new("confined");
    bed.config["process"]["noNewPrivileges"] = json!(true);
    bed.shell("echo $$; hostname; id -u; grep -E 'CapEff|CapInh|NoNewPrivs' /proc/self/status; ls /proc/self/fd | head -n 3; touch /x 2>&1; cat /proc/kcore 2>/dev/null | head -c 1");
    let caps = "CapInh:\t0000000000000000\nCapEff:\t0000000020000420\nNoNewPrivs:\t1";
    all(bed.run(), 0, &format!("1\ntare\n0\n{caps}\n0\n1\n2\ntouch: /x: Read-only file system"));
}

#[test]
fn exit_codes_and_words() {
    let mut bed = Bed::new("words");
    all(bed.shell("exit 7").run(), 7, "");
    all(bed.shell("kill -9 $$; exec sleep 0 & kill -TERM 1; exit 3").run(), 3, "");
    for (args, words) in [
        (json!(["nothing-of-this-name"]), "exec: \"nothing-of-this-name\": executable file not found in $PATH"),
        (json!(["/no/such"]), "exec: \"/no/such\": stat /no/such: no such file or directory"),
        (json!(["/etc"]), "exec: \"/etc\": is a directory"),
        (json!(["/data"]), "exec: \"/data\": permission denied"),
    ] {
        fs::create_dir_all(bed.dir.join("rootfs/etc")).unwrap();
        fs::write(bed.dir.join("rootfs/data"), "x").unwrap();
        bed.config["process"]["args"] = args;
        for (code, _, stderr) in bed.run() {
            assert_eq!(code, 1);
            assert!(stderr.contains(words), "{stderr}");
        }
    }
}

#[test]
fn user_groups_environment_and_directory() {
    let mut bed = Bed::new("user");
    fs::create_dir_all(bed.dir.join("rootfs/etc")).unwrap();
    // CVE-2016-3697: a number is never looked up as a name.
    fs::write(bed.dir.join("rootfs/etc/passwd"), "1000:x:0:0::/byname:/bin/sh\nu:x:1000:7::/home/u:/bin/sh\n").unwrap();
    bed.config["root"]["readonly"] = json!(false);
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 7, "additionalGids": [8, 9], "umask": 63});
    bed.config["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2"]);
    bed.config["process"]["cwd"] = json!("/new/dir");
    bed.shell(
        "id -u; id -g; id -G; echo $A $HOME; readlink /proc/self/cwd; grep -E 'CapEff|CapAmb|Umask' /proc/self/status",
    );
    all(
        bed.run(),
        0,
        "1000\n7\n7 8 9\n2 /home/u\n/new/dir\nUmask:\t0077\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000",
    );
}

#[test]
fn bind_mounts_and_links_stay_inside() {
    let mut bed = Bed::new("mounts");
    let canary = bed.dir.join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::create_dir_all(bed.dir.join("data")).unwrap();
    fs::write(bed.dir.join("data/file"), "hello").unwrap();
    symlink("/../../canary", bed.dir.join("rootfs/link")).unwrap();
    let mounts = bed.config["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/data", "type": "bind", "source": bed.dir.join("data"), "options": ["rbind", "ro"]}),
    );
    mounts.push(json!({"destination": "/link/sub", "type": "bind", "source": "data", "options": ["bind"]}));
    mounts.push(
        json!({"destination": "/one", "type": "bind", "source": bed.dir.join("data/file"), "options": ["bind", "ro"]}),
    );
    bed.shell("cat /data/file /canary/sub/file /one; touch /data/x 2>&1 || true");
    all(bed.run(), 0, "hellohellohellotouch: /data/x: Read-only file system");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "something was made outside the rootfs");
}

#[test]
fn proc_and_sys_are_not_led_elsewhere() {
    for (place, words) in
        [("proc", "must be mounted on ordinary directory"), ("sys", "must be mounted on ordinary directory")]
    {
        let mut bed = Bed::new(&format!("led-{place}"));
        fs::create_dir_all(bed.dir.join("rootfs/other")).unwrap();
        symlink("other", bed.dir.join("rootfs").join(place)).unwrap();
        bed.shell("true");
        for (code, _, stderr) in bed.run() {
            assert_eq!(code, 1);
            assert!(stderr.contains(words), "{stderr}");
        }
    }
}

#[test]
fn masked_and_readonly_paths() {
    let mut bed = Bed::new("masked");
    fs::create_dir_all(bed.dir.join("rootfs/secret")).unwrap();
    fs::write(bed.dir.join("rootfs/secret/s"), "s").unwrap();
    fs::write(bed.dir.join("rootfs/key"), "k").unwrap();
    bed.config["root"]["readonly"] = json!(false);
    bed.config["linux"]["maskedPaths"] = json!(["/secret", "/key", "/none"]);
    bed.config["linux"]["readonlyPaths"] = json!(["/bin"]);
    bed.shell("ls /secret; cat /key; touch /secret/x /bin/x 2>&1; touch /y && echo y");
    all(bed.run(), 0, "touch: /secret/x: Read-only file system\ntouch: /bin/x: Read-only file system\ny");
}

#[test]
fn devices_are_filtered() {
    let mut bed = Bed::new("devices");
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
    }
    // A character device that the host can open and no default rule names. What the rule allows is the proof that only
    // the filter keeps the container from it.
    let default = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (1, 11)];
    let other = fs::read_dir("/dev").unwrap().flatten().find_map(|entry| {
        let stat = rustix::fs::stat(entry.path()).ok()?;
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let char = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let opens = || rustix::fs::open(entry.path(), flags, rustix::fs::Mode::empty()).is_ok();
        (char && number.0 != 136 && number.0 != 4 && !default.contains(&number) && opens()).then_some(number)
    });
    let (major, minor) =
        other.expect("this test needs a device that the host can open, as /dev/fuse or /dev/loop-control");
    bed.shell(&format!(
        "mknod /dev/other c {major} {minor} && true < /dev/other && echo opened; echo x > /dev/null && ls /dev/full"
    ));
    for (_, stdout, stderr) in bed.run() {
        assert!(stderr.contains("/dev/other: Operation not permitted"), "{stdout}{stderr}");
        assert_eq!(stdout.trim(), "/dev/full");
    }
    let rules = bed.config["linux"]["resources"]["devices"].as_array_mut().unwrap();
    rules.push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "r"}));
    all(bed.run(), 0, "opened\n/dev/full");
}

#[test]
fn seccomp_with_and_without_no_new_privileges() {
    for uid in [0, 1000] {
        for no_new_privileges in [true, false] {
            let mut bed = Bed::new(&format!("seccomp-{uid}-{no_new_privileges}"));
            bed.config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
            });
            bed.config["process"]["user"] = json!({"uid": uid, "gid": uid});
            bed.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            for set in ["bounding", "effective", "permitted"] {
                bed.config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
            }
            bed.shell("grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status; mkdir /dev/shm/x 2>&1");
            let caps = if uid == 0 { "0000000000000020" } else { "0000000000000000" };
            let want = format!(
                "CapPrm:\t{caps}\nCapEff:\t{caps}\nSeccomp:\t2\nmkdir: can't create directory '/dev/shm/x': Not supported"
            );
            for (_, stdout, stderr) in bed.run() {
                assert!(
                    stdout.trim() == want || stdout.trim() == want.replace("Not supported", "Operation not supported"),
                    "{stdout}{stderr}"
                );
            }
        }
    }
}

#[test]
fn every_subset_of_namespaces() {
    let kinds = ["pid", "network", "ipc", "uts", "cgroup"];
    for subset in 0..1 << kinds.len() {
        let mut bed = Bed::new(&format!("ns-{subset}"));
        let has = |i: usize| subset & (1 << i) != 0;
        let chosen: Vec<_> =
            kinds.iter().enumerate().filter(|(i, _)| has(*i)).map(|(_, k)| json!({"type": k})).collect();
        bed.config["linux"]["namespaces"] = json!([chosen, vec![json!({"type": "mount"})]].concat());
        bed.config["linux"]["maskedPaths"] = json!([]);
        if !has(3) {
            bed.config.as_object_mut().unwrap().remove("hostname");
        }
        bed.config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        bed.shell("for n in pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done");
        let host: Vec<_> = ["pid", "net", "ipc", "uts", "cgroup"]
            .iter()
            .map(|n| fs::read_link(format!("/proc/self/ns/{n}")).unwrap().to_string_lossy().into_owned())
            .collect();
        for (code, stdout, stderr) in bed.run() {
            assert_eq!(code, 0, "{subset}: {stderr}");
            let own: Vec<_> = stdout.lines().collect();
            for i in 0..kinds.len() {
                assert_eq!(
                    own[i] != host[i],
                    has(i),
                    "subset {subset}, {}: {} on the host {}",
                    kinds[i],
                    own[i],
                    host[i]
                );
            }
        }
    }
}

#[test]
fn loopback_is_up_in_a_new_network_namespace() {
    let mut bed = Bed::new("loopback");
    bed.shell("grep -c . /proc/net/if_inet6; cat /sys/class/net/lo/carrier");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.trim().ends_with('1'), "{stdout}{stderr}");
    }
}

#[test]
fn without_a_mount_namespace() {
    let mut bed = Bed::new("no-mount");
    bed.config["linux"] = json!({"namespaces": [{"type": "pid"}]});
    bed.config["mounts"] = json!([]);
    bed.config["root"]["readonly"] = json!(false);
    bed.config.as_object_mut().unwrap().remove("hostname");
    bed.shell("ls /bin/sh; ls -d /dev/null");
    let before = left_behind();
    let out = bed.tare(&["run", &bed.id()]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "/bin/sh\n/dev/null\n", "{out:?}");
    assert_eq!(left_behind(), before);
}

#[test]
fn a_failure_leaves_nothing_and_names_the_field() {
    let mut bed = Bed::new("fails");
    let mounts = bed.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["rbind"]}));
    let index = mounts.len() - 1;
    for (code, _, stderr) in bed.run() {
        assert_eq!(code, 1);
        assert!(stderr.contains(&format!("mounts[{index}] (/data): open the source /no/such/source")), "{stderr}");
        assert!(stderr.contains("ENOENT (no such file or directory)"), "{stderr}");
    }
    assert!(!cgroup_of(&bed.id()).exists(), "the cgroup is left");
}

#[test]
fn the_runtime_cannot_be_written_from_inside() {
    let mut bed = Bed::new("sealed");
    bed.config["process"]["args"] = json!(["sh", "-c", "true"]);
    let id = bed.id();
    assert!(bed.tare(&["create", "--pid-file", "pid", &id]).status.success());
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    // While it runs, any executable is "text file busy": so what a container would keep is kept, and opened afterwards.
    let kept = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    let flags = rustix::fs::fstatvfs(&kept).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "not sealed: {flags:?}");
    assert!(bed.tare(&["delete", "--force", &id]).status.success());
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
    let errno = fs::OpenOptions::new().write(true).open(again).err().and_then(|e| e.raw_os_error());
    // Other tests may run the same file just now.
    assert!(matches!(errno, Some(libc::EROFS | libc::ETXTBSY)), "{errno:?}");
    assert!(!cgroup_of(&id).exists());
}

#[test]
fn errors_go_to_the_log_in_one_line() {
    let bed = Bed::new("log");
    let log = bed.dir.join("log.json");
    let out = bed.tare(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nobody"]);
    assert!(!out.status.success());
    let text = fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("container does not exist"));
}
