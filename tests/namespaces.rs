//! New user namespaces, with and without every other namespace.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use bed::{Bed, KINDS, SHOW, all, cgroup_of, left_behind, namespace, tare};
use serde_json::json;

/// Ids of nobody on the host.
const IDS: [u32; 3] = [0, 200_000, 65_536];

fn in_user_namespace(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.user_namespace(&[IDS], &[IDS]);
    bed
}

/// Lines that map one id each, from 1000 up on the host.
fn lines(count: u32) -> Vec<[u32; 3]> {
    (0..count).map(|id| [id, 1000 + id, 1]).collect()
}

#[test]
fn every_mapping_that_the_kernel_takes() {
    let ranges = [[0, 200_000, 10], [10, 300_000, 1], [1000, 100_000, 64]];
    let table: [(&str, Vec<[u32; 3]>); 5] = [
        ("one", vec![[0, 4711, 1]]),
        ("range", vec![IDS]),
        ("ranges", ranges.to_vec()),
        ("identity", vec![[0, 0, u32::MAX]]),
        ("most", lines(340)),
    ];
    for (name, uids) in table {
        let gids: Vec<[u32; 3]> = uids.iter().map(|m| [m[0], m[1], m[2]]).collect();
        let mut bed = Bed::new(&format!("map-{name}"));
        bed.user_namespace(&uids, &gids);
        // Not everywhere is there a group 5.
        bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "devpts");
        bed.shell("id -u; id -g; cat /proc/self/uid_map; echo; cat /proc/self/gid_map; echo; cat /proc/self/setgroups");
        let map = |lines: &[[u32; 3]]| lines.iter().map(|l| l.map(|n| n.to_string()).join(" ")).collect::<Vec<_>>();
        for out in bed.prints() {
            let seen: Vec<String> = out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let want = [vec!["0".into(), "0".into()], map(&uids), vec![String::new()], map(&gids)].concat();
            assert_eq!(seen, [want, vec![String::new(), "allow".into()]].concat(), "{name}");
        }
        bed.nothing_left();
    }
}

#[test]
fn mappings_that_cannot_be() {
    let one = || vec![[0, 1000, 1]];
    // Few lines, but more than 4096 bytes.
    let long: Vec<[u32; 3]> = (0..340).map(|id| [id, 4_000_000_000 + id, 1]).collect();
    let hint = "at most 340 lines and less than 4096 bytes";
    for (name, uids, gids, words) in [
        ("341-users", lines(341), one(), ["linux.uidMappings: ", hint]),
        ("341-groups", one(), lines(341), ["linux.gidMappings: ", hint]),
        ("long", long, one(), ["linux.uidMappings: ", hint]),
        ("inside", vec![[0, 1000, 10], [9, 2000, 10]], one(), ["linux.uidMappings: ", "none may overlap"]),
        ("outside", one(), vec![[0, 1000, 10], [20, 1009, 10]], ["linux.gidMappings: ", "none may overlap"]),
        ("no-root", vec![[1, 1000, 10]], one(), ["linux.uidMappings: ", "id 0 must be mapped"]),
        ("no-root-group", one(), vec![[1, 1000, 10]], ["linux.gidMappings: ", "id 0 must be mapped"]),
        ("empty", one(), vec![], ["linux.gidMappings: ", "nor mappings to apply"]),
        ("nothing", vec![[0, 1000, 0]], one(), ["linux.uidMappings[0]: ", "the range is empty"]),
        ("beyond", vec![[0, 1, u32::MAX]], one(), ["linux.uidMappings[0]: ", "beyond the last id"]),
    ] {
        let mut bed = Bed::new(&format!("nomap-{name}"));
        bed.user_namespace(&uids, &gids);
        bed.shell("true").refused(&words);
    }
}

/// Takes away what needs a namespace that is not there.
fn without_the_rest(bed: &mut Bed, kinds: &[&str]) {
    if !kinds.contains(&"uts") {
        bed.config.as_object_mut().unwrap().remove("hostname");
    }
    if !kinds.contains(&"ipc") {
        // The kernel lets only who owns the ipc namespace mount its queues.
        bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "mqueue");
    }
}

#[test]
fn with_and_without_each_other_namespace() {
    const OTHERS: [&str; 6] = ["pid", "network", "ipc", "uts", "cgroup", "time"];
    let mut bed = Bed::new("subsets");
    let all_mounts = bed.config.clone();
    for chosen in 0..1 << OTHERS.len() {
        let kinds: Vec<&str> = (0..OTHERS.len()).filter(|i| chosen & 1 << i != 0).map(|i| OTHERS[i]).collect();
        let has = |kind| kinds.contains(&kind);
        bed.config = all_mounts.clone();
        bed.namespaces(&[&["mount"], kinds.as_slice()].concat(), &[]).user_namespace(&[IDS], &[IDS]);
        without_the_rest(&mut bed, &kinds);
        let mut files = vec!["/dev/shm", "/dev/pts/ptmx", "/proc/self/status"];
        files.extend(has("ipc").then_some("/dev/mqueue"));
        files.extend(has("network").then_some("/sys/class/net/lo/mtu"));
        files.extend(has("network").then_some("/proc/sys/net/ipv4/ip_forward"));
        files.extend(has("pid").then_some("/proc/1/stat"));
        bed.shell(&format!("{SHOW}; stat -c %u:%g {} | grep -v ^0:0; echo $$", files.join(" ")));
        for (tree, out) in bed.trees().iter().zip(bed.prints()) {
            let seen: Vec<&str> = out.lines().collect();
            for (i, (kind, file)) in KINDS.iter().enumerate() {
                let ours = namespace(format!("/proc/self/ns/{file}")) == seen[i];
                assert_eq!(!ours, has(*kind) || matches!(*kind, "user" | "mount"), "{tree}, {kinds:?}: {kind}");
            }
            // Nothing in between: all those files are root's.
            assert_eq!(seen.len(), KINDS.len() + 1, "{tree}, {kinds:?}: {seen:?}");
            assert_eq!(seen[KINDS.len()] == "1", has("pid"), "{tree}, {kinds:?}");
        }
        bed.nothing_left();
    }
}

#[test]
fn devices_are_bound_and_usable() {
    let mut bed = in_user_namespace("ns-devices");
    // A device of config.json is the host's by its path; not every kernel has one of these two.
    let (path, minor) =
        if Path::new("/dev/loop-control").exists() { ("/dev/loop-control", 237) } else { ("/dev/autofs", 235) };
    let device = json!({"path": path, "type": "c", "major": 10, "minor": minor});
    bed.config["linux"]["devices"] = json!([device, {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]);
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rwm"});
    bed.config["linux"]["resources"]["devices"].as_array_mut().unwrap().push(rule);
    let script = format!(
        "cd /dev; for d in null zero full random urandom tty {path}; do stat -c '%n %F %t:%T' $d; done; \
         stat -c '%n %F %u %a' pipe; echo x > null; head -c 2 zero | wc -c; head -c 2 urandom | wc -c; \
         echo x 2>&- > full || echo full; readlink fd; readlink ptmx"
    );
    let names = format!(
        "null character special file 1:3\nzero character special file 1:5\nfull character special file 1:7\n\
         random character special file 1:8\nurandom character special file 1:9\ntty character special file 5:0\n\
         {path} character special file a:{minor:x}\npipe fifo 0 600\n2\n2\nfull\n/proc/self/fd\npts/ptmx"
    );
    all(bed.shell(&script).run(), 0, &names);
    // It is bound and not made, so there must be one.
    for (path, minor, words) in [
        ("/dev/no-such-device", 237, ["linux.devices[0] (/dev/no-such-device): ", "ENOENT"]),
        (path, 236, [&*format!("linux.devices[0] ({path}): "), "another device than 10:236"]),
        ("/dev/null", 3, ["linux.devices[0] (/dev/null): ", "another device than 10:3"]),
    ] {
        bed.config["linux"]["devices"] = json!([{"path": path, "type": "c", "major": 10, "minor": minor}]);
        bed.refused(&words);
    }
}

/// Where nothing may be mounted no device can be bound: those of the image are there, and others are refused.
#[test]
fn devices_without_a_mount_namespace() {
    let mut bed = Bed::new("ns-devices-none");
    bed.namespaces(&["pid"], &[]).user_namespace(&[IDS], &[IDS]);
    bed.config["mounts"] = json!([]);
    bed.config["root"]["readonly"] = json!(false);
    bed.config.as_object_mut().unwrap().remove("hostname");
    for paths in ["maskedPaths", "readonlyPaths"] {
        bed.config["linux"].as_object_mut().unwrap().remove(paths);
    }
    fs::create_dir(bed.dir.join("rootfs/dev")).unwrap();
    bed.on_host("mknod -m 666 rootfs/dev/null c 1 3");
    bed.config["linux"]["devices"] = json!([{"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]);
    bed.own_rootfs(IDS[1], IDS[1]);
    bed.shell("ls /dev; echo > /dev/null");
    let out = bed.tare(&["run", &bed.id()]);
    let core = if Path::new("/proc/kcore").exists() { "core\n" } else { "" };
    let seen = String::from_utf8_lossy(&out.stdout);
    assert_eq!(seen, format!("{core}fd\nnull\npipe\nptmx\nstderr\nstdin\nstdout\n"), "{out:?}");
    bed.config["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]);
    let out = bed.tare(&["run", &bed.id()]);
    let words = "tare: linux.devices[0] (/dev/null): in a user namespace a device needs a new mount namespace";
    assert!(String::from_utf8_lossy(&out.stderr).starts_with(words), "{out:?}");
    bed.nothing_left();
}

#[test]
fn mounts_of_all_kinds() {
    let mut bed = in_user_namespace("ns-mounts");
    fs::create_dir_all(bed.dir.join("rootfs/secret")).unwrap();
    fs::write(bed.dir.join("rootfs/secret/s"), "s").unwrap();
    fs::write(bed.dir.join("rootfs/key"), "k").unwrap();
    bed.config["linux"]["maskedPaths"] = json!(["/secret", "/key", "/proc/kcore"]);
    bed.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    bed.mount("/scratch", "tmpfs", "tmpfs", &["size=1m", "mode=700"]);
    bed.shell(
        "ls /secret; cat /key; touch /x 2>&1; touch /scratch/y && stat -c '%u %a' /scratch; \
         touch /proc/sys/net/ipv4/ip_forward 2>&1; stat -c %g /dev/pts/ptmx; \
         grep -c ' - cgroup2 .*' /proc/self/mountinfo; mkdir /sys/fs/cgroup/a 2>&1",
    );
    for out in bed.run() {
        let seen: Vec<&str> = out.1.lines().collect();
        let forward = "touch: /proc/sys/net/ipv4/ip_forward: Read-only file system";
        assert_eq!(seen[..4], ["touch: /x: Read-only file system", "0 700", forward, "0"], "{out:?}");
        assert_eq!(seen[4..], ["1", "mkdir: can't create directory '/sys/fs/cgroup/a': Read-only file system"]);
    }
    bed.nothing_left();
}

#[test]
fn a_writable_cgroup_belongs_to_its_root() {
    let mut bed = in_user_namespace("ns-cgroup");
    for mount in bed.config["mounts"].as_array_mut().unwrap().iter_mut().filter(|m| m["type"] == "cgroup") {
        mount["options"] = json!(["nosuid", "noexec", "nodev"]);
    }
    let script = "cd /sys/fs/cgroup; stat -c %u . cgroup.procs cgroup.threads cgroup.subtree_control; mkdir a && \
                  echo 1 > a/cgroup.procs && cat /proc/1/cgroup; stat -c %u a/cgroup.procs memory.max cgroup.freeze 2>&-; true";
    bed.shell(script);
    for out in bed.prints() {
        let seen: Vec<&str> = out.lines().filter(|l| l.starts_with("0::") || !l.contains(':')).collect();
        assert_eq!(seen[..6], ["0", "0", "0", "0", "0::/a", "0"], "{out}");
        // The limits stay the host's.
        assert!(seen[6..].iter().all(|owner| *owner == "65534") && seen.len() > 6, "{out}");
    }
    bed.nothing_left();
    // Nothing is handed over where it could not be written anyway.
    bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed.detached(&[]);
    assert_eq!(fs::metadata(cgroup_of(&bed.id())).unwrap().uid(), 0);
    bed.delete();
}

#[test]
fn below_folders_that_only_root_may_enter() {
    let mut bed = in_user_namespace("ns-closed");
    fs::set_permissions(&bed.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let closed = bed.dir.join("closed");
    fs::create_dir_all(closed.join("data")).unwrap();
    fs::write(closed.join("data/file"), "hello").unwrap();
    fs::write(closed.join("one"), "one").unwrap();
    for dir in [closed.clone(), closed.join("data")] {
        chown(&dir, Some(IDS[1]), Some(IDS[1])).unwrap();
    }
    chown(&closed, Some(0), Some(0)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    bed.mount("/data", "bind", closed.join("data"), &["rbind"]);
    bed.mount("/one", "bind", closed.join("one"), &["bind", "ro"]);
    bed.mount("/rel", "bind", "closed/one", &["bind"]);
    bed.shell("cat /data/file /one /rel; touch /data/new; stat -c %u /data/new /one");
    all(bed.run(), 0, "hellooneone0\n65534");
    assert_eq!(fs::metadata(closed.join("data/new")).unwrap().uid(), IDS[1], "its root is nobody else on the host");
}

#[test]
fn limits_beyond_the_hard_one_and_oom_score() {
    let mut bed = in_user_namespace("ns-limits");
    bed.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 2000, "hard": 3000},
        {"type": "RLIMIT_CORE", "soft": 1024, "hard": 4096},
        {"type": "RLIMIT_MSGQUEUE", "soft": 4_000_000, "hard": 8_000_000},
    ]);
    bed.config["process"]["oomScoreAdj"] = json!(-500);
    bed.through = ["prlimit", "--nofile=1000:1000", "--core=0:0", "--msgqueue=1000:1000"].map(str::to_owned).into();
    bed.shell("grep -E 'open files|core file|msgqueue' /proc/self/limits | tr -s ' '; cat /proc/self/oom_score_adj");
    let want = "Max core file size 1024 4096 bytes\nMax open files 2000 3000 files\n\
                Max msgqueue size 4000000 8000000 bytes\n-500";
    // Not every machine lets even root do this.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
    const SYS_RESOURCE: u64 = 1 << 24;
    if u64::from_str_radix(effective.trim(), 16).unwrap() & SYS_RESOURCE != 0 {
        all(bed.run().into_iter().map(|(c, o, e)| (c, o.replace(" \n", "\n"), e)).collect(), 0, want);
    }
    // Who has not the right to raise them is told which it is.
    let drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"];
    bed.through.splice(0..0, drop.map(str::to_owned));
    bed.config["process"].as_object_mut().unwrap().remove("oomScoreAdj");
    bed.refused(&["process.rlimits[0] (RLIMIT_NOFILE): ", "EPERM"]);
}

#[test]
fn other_users_and_capabilities() {
    let mut bed = in_user_namespace("ns-user");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 7, "additionalGids": [8, 65_535]});
    bed.shell("id -u; id -g; id -G; grep -E 'CapEff|CapBnd' /proc/self/status; echo > /dev/null && ls /proc/self/fd/0");
    let want = "1000\n7\n7 8 65535\nCapEff:\t0000000000000000\nCapBnd:\t0000000020000420\n/proc/self/fd/0";
    all(bed.run(), 0, want);
    for (user, words) in [
        (json!({"uid": 65_536, "gid": 0}), ["process.user: ", "EINVAL"]),
        (json!({"uid": 0, "gid": 65_536}), ["process.user: ", "EINVAL"]),
        (json!({"uid": 0, "gid": 0, "additionalGids": [65_536]}), ["process.user: ", "EINVAL"]),
    ] {
        bed.config["process"]["user"] = user;
        bed.refused(&words);
    }
    // Its root has what it was given, and it counts inside.
    bed.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]);
    }
    bed.shell("grep CapEff /proc/self/status; hostname inside && hostname; mount -t tmpfs x /mnt 2>&1 || mount -t tmpfs x /dev/shm && echo mounted");
    fs::create_dir_all(bed.dir.join("rootfs/mnt")).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    all(bed.run(), 0, "CapEff:\t0000000000200001\ninside\nmounted");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
}

#[test]
fn seccomp_with_and_without_no_new_privileges() {
    for (uid, no_new_privileges) in [(0, true), (0, false), (1000, true), (1000, false)] {
        let mut bed = in_user_namespace(&format!("ns-seccomp-{uid}-{no_new_privileges}"));
        bed.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        bed.config["process"]["user"] = json!({"uid": uid, "gid": uid});
        bed.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        for set in ["bounding", "effective", "permitted"] {
            bed.config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
        bed.shell(
            "grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status; mkdir /dev/shm/x 2>&1 | grep -io 'not supported'",
        );
        let caps = if uid == 0 { "0000000000000020" } else { "0000000000000000" };
        all(
            bed.run().into_iter().map(|(c, o, e)| (c, o.replace("Not", "not"), e)).collect(),
            0,
            &format!("CapPrm:\t{caps}\nCapEff:\t{caps}\nSeccomp:\t2\nnot supported"),
        );
    }
}

/// Shared with the host means a slave of the host's here: what its root mounts must not appear there.
#[test]
fn shared_becomes_slave() {
    let mut bed = in_user_namespace("ns-shared");
    bed.own_host();
    fs::create_dir_all(bed.dir.join("data/sub")).unwrap();
    fs::create_dir_all(bed.dir.join("rootfs/mnt")).unwrap();
    bed.on_host(
        "mount -t tmpfs x data; mkdir -p data/sub data/rootfs; cp -a rootfs/. data/rootfs; mount --make-shared data",
    );
    bed.config["root"]["path"] = json!("data/rootfs");
    bed.config["root"]["readonly"] = json!(false);
    bed.config["linux"]["rootfsPropagation"] = json!("shared");
    let source = bed.dir.join("data");
    bed.mount("/data", "bind", source, &["rbind", "rshared"]);
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    bed.shell(
        "mount -t tmpfs inside /data/sub && mount -t tmpfs inside /mnt && grep -c ' inside ' /proc/self/mountinfo",
    );
    // `run` compares the host's mounts, but only afterwards: they must not be there meanwhile either.
    bed.config["process"]["args"][2] = json!(format!(
        "{} > /dev/shm/n; cat /dev/shm/n; sleep 1000",
        bed.config["process"]["args"][2].as_str().unwrap()
    ));
    for tree in bed.trees() {
        let before = bed.host_mounts();
        let pid = bed.detached(&[&format!("--mount-namespace={tree}")]);
        let inside = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let both = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            inside().matches(" - tmpfs inside ").count() >= 2
        });
        assert!(both, "{tree}: {}", inside());
        assert_eq!(bed.host_mounts(), before, "{tree}: it has reached the host");
        bed.delete();
        assert_eq!(bed.host_mounts(), before, "{tree}");
    }
}

#[test]
fn a_life_step_by_step_and_exec() {
    for tree in in_user_namespace("ns-life").trees() {
        let before = left_behind();
        let mut bed = in_user_namespace(&format!("ns-life-{tree}"));
        bed.config["process"]["args"] = json!(["sleep", "1000"]);
        let id = bed.id();
        let ok = |args: &[&str]| {
            let out = bed.tare(args);
            assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        ok(&["create", "--pid-file", "pid", &format!("--mount-namespace={tree}"), &id]);
        assert_eq!(bed.status(), "created");
        let exec = |options: &[&str], script: &str| ok(&[&["exec"], options, &[&id, "sh", "-c", script]].concat());
        assert_eq!(exec(&[], "id -u; id -g"), "0\n0\n", "into one that is created");
        ok(&["start", &id]);
        assert_eq!(bed.status(), "running");
        let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), IDS[1], "nobody's process on the host");
        // The same namespaces as init, all of them.
        let own: String = KINDS.iter().map(|(_, file)| namespace(format!("/proc/{pid}/ns/{file}")) + "\n").collect();
        assert_eq!(exec(&[], SHOW), own);
        assert_eq!(exec(&["-u", "1000:7"], "id -u; id -g; id -G"), "1000\n7\n7\n");
        assert_eq!(exec(&["-u", "5", "-g", "8", "-g", "9"], "id -u; id -G"), "5\n0 8 9\n");
        let capable = exec(&["--cap", "CAP_SYS_ADMIN"], "grep CapEff /proc/self/status");
        assert!(capable.contains("20200420"), "{capable}");
        assert_eq!(exec(&["--cwd", "/proc", "-e", "A=b"], "readlink /proc/self/cwd; echo $A"), "/proc\nb\n");
        let out = bed.tare(&["exec", "-u", "70000", &id, "id"]);
        assert_eq!(out.status.code(), Some(255), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("process.user"), "{out:?}");
        // What is frozen goes on afterwards.
        ok(&["pause", &id]);
        assert_eq!(bed.status(), "paused");
        let out = bed.tare(&["exec", &id, "true"]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("paused"), "{out:?}");
        ok(&["resume", &id]);
        assert_eq!(ok(&["ps", &id]).lines().count(), 2);
        assert!(ok(&["list", "-q"]).contains(&id));
        ok(&["kill", &id, "KILL"]);
        bed.delete();
        assert_eq!(left_behind(), before);
        bed.nothing_left();
    }
}

#[test]
fn a_terminal_belongs_to_the_user() {
    let mut bed = in_user_namespace("ns-terminal");
    bed.config["process"]["terminal"] = json!(true);
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bed.shell(
        "stat -Lc '%u %a' /proc/self/fd/0; stat -c %u /dev/console; stat -c '%F' /dev/console; echo x > /dev/tty",
    );
    // Its end of file would be typed, and echoed.
    let (input, _typist) = std::io::pipe().unwrap();
    let script = |command: &str| {
        let mut program = Command::new("script");
        program.args(["-qec", command, "/dev/null"]).current_dir(&bed.dir).stdin(input.try_clone().unwrap());
        let out = program.output().expect("this test needs script (bsdutils)");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).replace('\r', ""))
    };
    let start = format!("{} --root {}", tare().display(), bed.dir.join("state").display());
    for tree in bed.trees() {
        drop(bed.command(&[])); // writes the configuration
        let (code, out) = script(&format!("{start} run --mount-namespace={tree} {}", bed.id()));
        assert_eq!((code, out.as_str()), (Some(0), "1000 620\n1000\ncharacter special file\nx\n"), "{tree}");
        bed.nothing_left();
    }
    bed.config["process"]["terminal"] = json!(false);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed.detached(&[]);
    let (code, out) = script(&format!(
        "{start} exec -t -u 1000 {} sh -c 'stat -Lc %u /proc/self/fd/0; readlink /proc/self/fd/0; echo x > /dev/tty'",
        bed.id()
    ));
    assert_eq!((code, out.as_str()), (Some(0), "1000\n/dev/pts/0\nx\n"));
}
