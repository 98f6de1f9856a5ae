//! The container's process: what it has of config.json, and what it must not have of its caller.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use bed::{Bed, all};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

/// A shell in front of tare, which executes it in the end.
fn through(bed: &mut Bed, script: &str) {
    bed.through = ["sh", "-c", &format!("{script}; exec \"$@\""), "sh"].map(str::to_owned).into();
}

fn refused(bed: &Bed, words: &str) {
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 1, "{words}: {stdout}");
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

/// Of the caller's supplementary groups a container has none, unless Podman's `--group-add keep-groups` asks for them.
#[test]
fn the_callers_groups() {
    let mut bed = Bed::new("groups");
    bed.through = ["setpriv", "--groups", "0,4321"].map(str::to_owned).into();
    bed.config["process"]["user"]["additionalGids"] = json!([77]);
    bed.shell("id -G");
    for (annotation, groups) in [(None, "0 77"), (Some("0"), "0 77"), (Some("1"), "0 4321")] {
        bed.config["annotations"] =
            annotation.map_or(json!({}), |value| json!({"run.oci.keep_original_groups": value}));
        all(bed.run(), 0, groups);
    }
    bed.nothing_left();
}

#[test]
fn descriptors_that_go_on_and_those_that_do_not() {
    // What the caller does, the flags; the descriptors above stderr and the variables that the process has.
    let table = [
        ("exec 3<fa 4<fb", "--preserve-fds=0", "\n"),
        ("exec 3<fa 4<fb 5<fc", "--preserve-fds=2", "3 A\n4 B\n"),
        // A hole is no error: Podman passes numbers that may be closed.
        ("exec 4<fb 5<fc", "--preserve-fds=2", "4 B\n"),
        ("exec 3<fa", "--preserve-fds=4294967295", "3 A\n"),
        ("exec 3<fa 4<fb; export LISTEN_FDS=1 LISTEN_PID=$$", "", "3 A\nLISTEN_FDS=1\nLISTEN_PID=1\n"),
        (
            "exec 3<fa 4<fb; export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b",
            "",
            "3 A\n4 B\nLISTEN_FDS=2\nLISTEN_PID=1\n",
        ),
        // They come first, and the preserved ones after them.
        (
            "exec 3<fa 4<fb 5<fc; export LISTEN_FDS=1 LISTEN_PID=$$",
            "--preserve-fds=1",
            "3 A\n4 B\nLISTEN_FDS=1\nLISTEN_PID=1\n",
        ),
        // Meant for another process, or for nobody (sd_listen_fds(3)).
        ("exec 3<fa; export LISTEN_FDS=1 LISTEN_PID=1", "", "\n"),
        ("exec 3<fa; export LISTEN_FDS=1", "", "\n"),
        ("exec 3<fa; export LISTEN_FDS=one LISTEN_PID=$$", "", "\n"),
    ];
    let mut bed = Bed::new("descriptors");
    for (name, text) in [("fa", "A"), ("fb", "B"), ("fc", "C")] {
        fs::write(bed.dir.join(name), text).unwrap();
    }
    // The shell's own descriptor for a script is above 9.
    bed.shell("for i in 3 4 5 6 7 8; do test -e /proc/$$/fd/$i && echo $i $(cat /proc/$$/fd/$i); done; env | grep LISTEN_ | busybox sort; true");
    for (script, flag, want) in table {
        through(&mut bed, script);
        let id = bed.id();
        let args: Vec<&str> = ["run", flag, &id].into_iter().filter(|a| !a.is_empty()).collect();
        let out = bed.tare(&args);
        assert!(out.status.success(), "{script}: {out:?}");
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), want.trim(), "{script} {flag}");
    }
    // What config.json says of them is not so.
    bed.config["process"]["env"] = json!(["PATH=/bin", "LISTEN_FDS=9", "LISTEN_PID=8", "LISTEN_FDNAMES=q"]);
    through(&mut bed, "exec 3<fa; export LISTEN_FDS=1 LISTEN_PID=$$");
    all(bed.run(), 0, "3 A\nLISTEN_FDNAMES=q\nLISTEN_FDS=1\nLISTEN_PID=1");
}

#[test]
fn environment() {
    let table: &[(&[&str], &str)] = &[
        (&["PATH=/bin", "A=1", "B=2", "A=3"], "A=3\nB=2\nHOME=/root\nPATH=/bin"),
        (&["PATH=/bin", "HOME=/given", "E=", "X=a=b"], "E=\nHOME=/given\nPATH=/bin\nX=a=b"),
        // An empty HOME is a missing one, as with runc.
        (&["PATH=/bin", "HOME="], "HOME=/root\nPATH=/bin"),
    ];
    let mut bed = Bed::new("env");
    fs::create_dir_all(bed.dir.join("rootfs/etc")).unwrap();
    fs::write(bed.dir.join("rootfs/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    for (env, want) in table {
        bed.config["process"]["env"] = json!(env);
        bed.shell("env | busybox sort | grep -vE '^(PWD|SHLVL)='");
        all(bed.run(), 0, want);
    }
    // Nothing of the runtime's own environment.
    bed.config["process"]["env"] = json!([]);
    bed.config["process"]["args"] = json!(["/bin/env"]);
    bed.through = vec!["env".into(), "OF_THE_CALLER=1".into()];
    all(bed.run(), 0, "HOME=/root");
    bed.config["process"].as_object_mut().unwrap().remove("env");
    all(bed.run(), 0, "HOME=/root");
    bed.config["process"]["user"]["uid"] = json!(4242);
    all(bed.run(), 0, "HOME=/");
    for (bad, words) in [("A", "has no '='"), ("=x", "has an empty name"), ("A=x\0y", "contains a NUL byte")] {
        bed.config["process"]["env"] = json!(["PATH=/bin", "B=1", bad]);
        refused(
            &bed,
            &format!("process.env[2]: {}", if bad.contains('\0') { words.into() } else { format!("{bad:?} {words}") }),
        );
    }
}

#[test]
fn the_program_is_looked_for() {
    let mut bed = Bed::new("lookup");
    let bin = bed.dir.join("rootfs/other");
    fs::create_dir_all(bin.join("dir-of-this-name")).unwrap();
    fs::create_dir_all(bed.dir.join("rootfs/second/sub")).unwrap();
    for (path, mode, text) in [
        ("other/script", 0o755, "#!/bin/sh\necho script \"$@\"\n"),
        ("other/no-line", 0o755, "echo no line\n"),
        ("other/bad-interpreter", 0o755, "#!/no/such\n"),
        ("other/not-executable", 0o644, ""),
        ("second/not-executable", 0o755, "#!/bin/sh\necho second\n"),
        ("second/dir-of-this-name", 0o755, "#!/bin/sh\necho not the directory\n"),
        ("second/sub/relative", 0o755, "#!/bin/sh\necho relative\n"),
    ] {
        let path = bed.dir.join("rootfs").join(path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    bed.config["process"]["env"] = json!(["PATH=/none:/other:/second:/bin"]);
    bed.config["process"]["cwd"] = json!("/second");
    for (args, out) in [
        (json!(["script", "a b", ""]), "script a b"),
        (json!(["/other/script"]), "script"),
        // What may not be executed is passed over.
        (json!(["not-executable"]), "second"),
        (json!(["dir-of-this-name"]), "not the directory"),
        // With a slash it counts from the working directory, and not from $PATH.
        (json!(["sub/relative"]), "relative"),
        (json!(["./sub/../sub/relative"]), "relative"),
    ] {
        bed.config["process"]["args"] = args;
        all(bed.run(), 0, out);
    }
    for (args, words) in [
        (json!(["relative"]), "exec: \"relative\": executable file not found in $PATH"),
        (json!(["/other/not-executable"]), "exec: \"/other/not-executable\": permission denied"),
        (json!(["/other/no-line"]), "exec /other/no-line: exec format error"),
        (json!(["/other/bad-interpreter"]), "exec /other/bad-interpreter: no such file or directory"),
    ] {
        bed.config["process"]["args"] = args;
        refused(&bed, words);
    }
    // Neither $PATH nor "" nor "." is the working directory.
    for path in ["A=1", "PATH=", "PATH=:.:sub"] {
        bed.config["process"]["env"] = json!([path]);
        bed.config["process"]["args"] = json!(["relative"]);
        bed.config["process"]["cwd"] = json!("/second/sub");
        refused(&bed, "exec: \"relative\": executable file not found in $PATH");
    }
}

#[test]
fn working_directory() {
    let mut bed = Bed::new("cwd");
    bed.shell("pwd; stat -c '%a %u' . ..");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bed.config["process"]["cwd"] = json!("/made/below");
    // Also below a read-only root: it is made before that is read-only.
    all(bed.run(), 0, "/made/below\n755 0\n755 0");
    // The caller's umask is not the container's.
    fs::remove_dir_all(bed.dir.join("rootfs/made")).unwrap();
    through(&mut bed, "umask 077");
    all(bed.run(), 0, "/made/below\n755 0\n755 0");
    bed.through.clear();
    for (cwd, words) in [
        ("relative", "process.cwd: must be an absolute path, not \"relative\""),
        ("", "process.cwd: must not be empty"),
        ("/bin/busybox", "ENOTDIR (not a directory)"),
    ] {
        bed.config["process"]["cwd"] = json!(cwd);
        refused(&bed, words);
    }
}

#[test]
fn umask_of_config_and_of_the_specification() {
    let mut bed = Bed::new("umask");
    bed.shell("umask");
    through(&mut bed, "umask 077");
    all(bed.run(), 0, "0022");
    for (mask, want) in [(0o27, "0027"), (0, "0000"), (0o777, "0777")] {
        bed.config["process"]["user"]["umask"] = json!(mask);
        all(bed.run(), 0, want);
    }
}

#[test]
fn nothing_of_the_callers_signals() {
    let mut bed = Bed::new("signals");
    bed.through = ["env", "--ignore-signal", "--block-signal=TERM", "--block-signal=USR1", "--block-signal=CHLD"]
        .map(str::to_owned)
        .into();
    bed.config["process"]["args"] = json!(["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]);
    all(bed.run(), 0, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000");
    // yes ends by SIGPIPE, or would not end at all.
    bed.shell("yes | head -n 1; kill -0 1 && echo alive");
    all(bed.run(), 0, "y\nalive");
}

#[test]
fn nothing_of_the_callers_cpus_session_and_terminal() {
    let mut bed = Bed::new("cpus");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let cpus = own.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let last = cpus.rsplit(['-', ',']).next().unwrap();
    assert_ne!(cpus, last, "this test needs two CPUs");
    bed.through = ["taskset", "--cpu-list", last].map(str::to_owned).into();
    bed.shell("grep Cpus_allowed_list /proc/self/status; busybox cut -d' ' -f1,5,6,7 /proc/1/stat; true < /dev/tty");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 1, "{stdout}{stderr}");
        // Its own session and process group, and no terminal.
        assert_eq!(stdout, format!("Cpus_allowed_list:\t{cpus}\n1 1 1 0\n"));
        assert!(stderr.contains("No such device or address"), "{stderr}");
    }
}

#[test]
fn users_and_groups_at_the_ends() {
    let mut bed = Bed::new("ids");
    let none = u32::MAX;
    bed.shell("id -u; id -g; id -G | busybox wc -w");
    bed.config["process"]["user"] = json!({"uid": none - 1, "gid": none - 1, "additionalGids": [0, 0, none - 1]});
    all(bed.run(), 0, "4294967294\n4294967294\n3");
    // NGROUPS_MAX of linux/limits.h
    bed.config["process"]["user"] = json!({"uid": 1, "gid": 1, "additionalGids": (0..65536).collect::<Vec<_>>()});
    all(bed.run(), 0, "1\n1\n65536");
    bed.config["process"]["user"] = json!({"uid": 1, "gid": 1, "additionalGids": (0..65537).collect::<Vec<_>>()});
    for (code, _, stderr) in bed.run() {
        assert!(code == 1 && stderr.contains("process.user: set the supplementary groups"), "{stderr}");
        assert!(stderr.len() < 1000, "{} bytes", stderr.len());
    }
    for (user, field) in [
        (json!({"uid": none, "gid": 0}), "process.user.uid"),
        (json!({"uid": 0, "gid": none}), "process.user.gid"),
        (json!({"uid": 0, "gid": 0, "additionalGids": [1, none]}), "process.user.additionalGids[1]"),
    ] {
        bed.config["process"]["user"] = user;
        refused(&bed, &format!("{field}: 4294967295 is no id"));
    }
}

#[test]
fn stdio_can_be_opened_anew_by_the_user() {
    let mut bed = Bed::new("stdio-owner");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    // The bed's files are root's; the container's /dev/null stays root's.
    bed.shell("echo again >> /dev/stderr; true < /dev/stdin; stat -L -c %u /dev/stdin /dev/stdout");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "0\n1000\n", "again\n"));
    }
}

#[test]
fn capability_sets() {
    let (chown, kill, raw) = (1u64, 1u64 << 5, 1u64 << 13);
    // The sets in the order bounding, effective, permitted, inheritable, ambient; the user; what the process has as
    // inheritable, permitted, effective, bounding, ambient.
    let (c, k, r) = ("CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW");
    type Row<'a> = ([&'a [&'a str]; 5], u32, [u64; 5]);
    let table: &[Row] = &[
        ([&[c, k], &[c], &[c, k], &[], &[]], 0, [0, chown | kill, chown | kill, chown | kill, 0]),
        ([&[c, k], &[], &[k], &[k], &[k]], 0, [kill, kill, kill, chown | kill, kill]),
        // Another user has none but the ambient ones.
        ([&[c, k, r], &[c, k], &[c, k], &[], &[]], 1000, [0, 0, 0, chown | kill | raw, 0]),
        ([&[c, k], &[c], &[c, k], &[c, k], &[k]], 1000, [chown | kill, kill, kill, chown | kill, kill]),
        // An ambient one that is not inheritable has no effect.
        ([&[k], &[k], &[k], &[], &[k]], 1000, [0, 0, 0, kill, 0]),
        ([&[c], &[], &[], &[], &[]], 0, [0, 0, 0, chown, 0]),
        ([&[], &[], &[], &[], &[]], 0, [0; 5]),
    ];
    let mut bed = Bed::new("capabilities");
    bed.shell("grep -E '^Cap' /proc/self/status");
    let show = |[inheritable, permitted, effective, bounding, ambient]: [u64; 5]| {
        format!(
            "CapInh:\t{inheritable:016x}\nCapPrm:\t{permitted:016x}\nCapEff:\t{effective:016x}\nCapBnd:\t{bounding:016x}\nCapAmb:\t{ambient:016x}"
        )
    };
    for (sets, uid, want) in table {
        let names = ["bounding", "effective", "permitted", "inheritable", "ambient"];
        bed.config["process"]["capabilities"] =
            names.iter().zip(sets).map(|(n, s)| ((*n).to_owned(), json!(s))).collect();
        bed.config["process"]["user"] = json!({"uid": uid, "gid": uid});
        for no_new_privileges in [true, false] {
            bed.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            let mut want = *want;
            if *uid == 0 && !no_new_privileges {
                // Root's execve(2) gives all that is inheritable or bounding.
                let all_of_root = want[0] | want[3];
                (want[1], want[2]) = (all_of_root, all_of_root);
            }
            all(bed.run(), 0, &show(want));
        }
    }
    // None at all, where config.json does not say (crun; runc leaves all).
    bed.config["process"].as_object_mut().unwrap().remove("capabilities");
    all(bed.run(), 0, &show([0; 5]));
    bed.config["process"]["capabilities"] = json!({"effective": [k], "permitted": [c]});
    refused(&bed, "process.capabilities.effective: CAP_KILL is not in the permitted set");
}

#[test]
fn an_unknown_capability_is_a_warning() {
    let mut bed = Bed::new("capability-unknown");
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    }
    bed.shell("grep CapEff /proc/self/status");
    let out = bed.tare(&["--log", "log", "run", &bed.id()]);
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stdout).as_ref()),
        (Some(0), "CapEff:\t0000000000000020\n")
    );
    assert!(out.stderr.is_empty(), "{out:?}");
    let log = fs::read_to_string(bed.dir.join("log")).unwrap();
    assert!(log.contains("level=warning") && log.contains("[CAP_OF_TOMORROW]"), "{log}");
}

#[test]
fn rlimits() {
    let mut bed = Bed::new("rlimits");
    // The name in config.json and in /proc/PID/limits; soft and hard are below any usual limit, or the same as it.
    let names = [
        ("CPU", "cpu time"),
        ("FSIZE", "file size"),
        ("DATA", "data size"),
        ("STACK", "stack size"),
        ("CORE", "core file size"),
        ("RSS", "resident set"),
        ("NPROC", "processes"),
        ("NOFILE", "open files"),
        ("MEMLOCK", "locked memory"),
        ("AS", "address space"),
        ("LOCKS", "file locks"),
        ("SIGPENDING", "pending signals"),
        ("MSGQUEUE", "msgqueue size"),
        ("NICE", "nice priority"),
        ("RTPRIO", "realtime priority"),
        ("RTTIME", "realtime timeout"),
    ];
    let limit = |name: &str| match name {
        "FSIZE" | "DATA" | "STACK" | "AS" | "RSS" => (100 << 20, 101 << 20),
        // Nothing may be raised here.
        "NICE" | "RTPRIO" => (0, 0),
        _ => (31, 32),
    };
    let list: Vec<Value> = names
        .iter()
        .map(|(name, _)| json!({"type": format!("RLIMIT_{name}"), "soft": limit(name).0, "hard": limit(name).1}))
        .collect();
    bed.config["process"]["rlimits"] = json!(list);
    bed.config["process"]["args"] = json!(["cat", "/proc/self/limits"]);
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        for (name, text) in names {
            let line = stdout.lines().find(|l| l.starts_with(&format!("Max {text} "))).unwrap();
            let words: Vec<_> =
                line["Max ".len() + text.len()..].split_whitespace().take(2).map(str::to_owned).collect();
            assert_eq!(words, [limit(name).0.to_string(), limit(name).1.to_string()], "{line}");
        }
    }
    // What is not named is the caller's own, though the runtime itself raises what it may.
    bed.config["process"]["rlimits"] = json!([]);
    bed.shell("ulimit -S -n; ulimit -H -n; ulimit -S -c");
    through(&mut bed, "ulimit -S -n 70; ulimit -H -n 200; ulimit -S -c 0");
    all(bed.run(), 0, "70\n200\n0");
    // A limit that the runtime could not work under.
    bed.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4}]);
    bed.shell("ulimit -S -n; ulimit -H -n");
    all(bed.run(), 0, "3\n4");
}

#[test]
fn rlimits_that_cannot_be() {
    let mut bed = Bed::new("rlimits-bad");
    bed.shell("true");
    let core = |soft: u64, hard: u64| json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard});
    for (list, words) in [
        (json!([core(5, 4)]), "process.rlimits[0] (RLIMIT_CORE): soft limit 5 is above hard limit 4"),
        (json!([core(1, 2), core(1, 2)]), "process.rlimits[1] (RLIMIT_CORE): this limit is set twice"),
        (
            json!([{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type: unknown variant `RLIMIT_BOGUS`",
        ),
    ] {
        bed.config["process"]["rlimits"] = list;
        refused(&bed, words);
    }
    // Above the hard limit, without the right to.
    bed.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 300}]);
    through(&mut bed, "ulimit -n 200");
    let bounding = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"].map(str::to_owned);
    bed.through = [bounding.to_vec(), bed.through.clone()].concat();
    refused(&bed, "process.rlimits[0] (RLIMIT_NOFILE): raise the hard limit from 200 to 300: prlimit(");
    refused(&bed, "hint: the runtime needs CAP_SYS_RESOURCE to raise a limit");
}

#[test]
fn oom_score() {
    let mut bed = Bed::new("oom-score");
    bed.shell("cat /proc/self/oom_score_adj");
    through(&mut bed, "echo 300 > /proc/self/oom_score_adj");
    all(bed.run(), 0, "300");
    bed.config["process"]["oomScoreAdj"] = json!(500);
    all(bed.run(), 0, "500");
    bed.config["process"]["oomScoreAdj"] = json!(1001);
    refused(&bed, "process.oomScoreAdj: 1001 is not within -1000..1000");
    bed.config["process"]["oomScoreAdj"] = json!(-1000);
    let bounding = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"].map(str::to_owned);
    bed.through = [bounding.to_vec(), bed.through.clone()].concat();
    refused(&bed, "process.oomScoreAdj: set oom_score_adj: write(");
    refused(&bed, "hint: lowering oom_score_adj needs CAP_SYS_RESOURCE");
}

#[test]
fn sysctls_and_names() {
    let mut bed = Bed::new("sysctl");
    bed.config["linux"]["sysctl"] = json!({
        "kernel.shmmni": "100", "kernel.msgmax": "9000", "fs.mqueue.msg_max": "11",
        "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/rp_filter": "2", "kernel.domainname": "from.sysctl",
    });
    bed.config["hostname"] = json!("a-host");
    let files = "kernel/shmmni kernel/msgmax fs/mqueue/msg_max net/ipv4/ip_forward net/ipv4/conf/lo/rp_filter kernel/domainname";
    bed.shell(&format!("hostname; cd /proc/sys; cat {files}"));
    all(bed.run(), 0, "a-host\n100\n9000\n11\n1\n2\nfrom.sysctl");
    bed.config["linux"]["sysctl"] = json!({});
    bed.config["domainname"] = json!("from.config");
    bed.shell("cat /proc/sys/kernel/domainname");
    all(bed.run(), 0, "from.config");
    let all_namespaces = bed.config["linux"]["namespaces"].clone();
    // Without which namespace, which sysctl; the words.
    for (without, name, value, words) in [
        ("ipc", "kernel.shmmni", "1", "linux.sysctl (kernel.shmmni): not allowed in the host's ipc namespace"),
        (
            "network",
            "net.ipv4.ip_forward",
            "1",
            "linux.sysctl (net.ipv4.ip_forward): not allowed in the host's network namespace",
        ),
        ("none", "vm.swappiness", "1", "linux.sysctl (vm.swappiness): not in a separate kernel namespace"),
        (
            "none",
            "kernel.hostname",
            "x",
            "linux.sysctl (kernel.hostname): not allowed as it conflicts with the OCI \"hostname\" field",
        ),
        (
            "none",
            "kernel.shmmni",
            "many",
            "linux.sysctl[\"kernel.shmmni\"]: write the sysctl: write(/proc/sys/kernel/shmmni, \"many\"): EINVAL",
        ),
        ("none", "net.no.such", "1", "hint: the kernel has no such sysctl"),
    ] {
        bed.config["linux"]["namespaces"] = all_namespaces.clone();
        bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != without);
        bed.config["linux"]["sysctl"] = json!({name: value});
        refused(&bed, words);
    }
    bed.config["linux"]["sysctl"] = json!({});
    bed.config["linux"]["namespaces"] = all_namespaces;
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "uts");
    refused(&bed, "hostname: unable to set hostname without a private UTS namespace");
    bed.config.as_object_mut().unwrap().remove("hostname");
    refused(&bed, "domainname: unable to set domainname without a private UTS namespace");
}

#[test]
fn session_keyring() {
    let mut bed = Bed::new("keyring");
    bed.config["linux"]["maskedPaths"] = json!([]);
    let flags: [&[&str]; 4] = [
        &["--mount-namespace=clone"],
        &["--mount-namespace=antechamber"],
        &["--no-new-keyring"],
        &["--no-new-keyring"],
    ];
    for (i, flags) in flags.iter().enumerate() {
        // /proc/keys lists the keys that the reader may see. An ended container's keyring is there for a while: another name.
        let id = format!("{}-{i}", bed.id());
        bed.shell(&format!("grep -c _ses.{id}: /proc/keys; true"));
        let out = bed.tare(&[&["run"], *flags, &[&id]].concat());
        let want = if flags == &["--no-new-keyring"] { "0\n" } else { "1\n" };
        assert_eq!(String::from_utf8_lossy(&out.stdout), want, "{flags:?}: {out:?}");
    }
}

#[test]
fn pid_file_and_pidfd_socket() {
    let mut bed = Bed::new("pidfd");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let listener = UnixListener::bind(bed.dir.join("socket")).unwrap();
    let id = bed.id();
    let created = bed.tare(&["create", "--pid-file", "pid", "--pidfd-socket", "socket", &id]);
    assert!(created.status.success(), "{created:?}");
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    assert_eq!(pid, pid.parse::<u32>().unwrap().to_string(), "digits, and no newline");
    let (mut peer, _) = listener.accept().unwrap();
    let (mut data, mut space) = ([0; 64], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&peer, &mut [IoSliceMut::new(&mut data)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert!(received.bytes > 0);
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.collect() } else { Vec::new() })
        .collect();
    let [pidfd] = fds.as_slice() else { panic!("{} descriptors", fds.len()) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.lines().any(|l| l == format!("Pid:\t{pid}")), "{info}");
    assert_eq!(peer.read(&mut data).unwrap(), 0, "more than one message");
    let ended = |wait| {
        let at_most = rustix::event::Timespec { tv_sec: wait, tv_nsec: 0 };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_most)).unwrap() == 1
    };
    assert!(!ended(0));
    assert!(bed.tare(&["delete", "--force", &id]).status.success());
    assert!(ended(10));
    let nobody = bed.tare(&["create", "--pidfd-socket", "no-socket", &id]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("pidfd-socket"), "{nobody:?}");
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let table = [
        ("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 3})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 3})),
        ("/process/execCPUAffinity", json!({"initial": "0"})),
        ("/process/apparmorProfile", json!("x")),
        ("/process/selinuxLabel", json!("x")),
        ("/linux/personality", json!({"domain": "LINUX32"})),
    ];
    let mut bed = Bed::new("unsupported");
    let usual = bed.config.clone();
    for (field, value) in table {
        bed.config = usual.clone();
        let (parent, name) = field.rsplit_once('/').unwrap();
        bed.config.pointer_mut(parent).unwrap()[name] = value;
        let out = bed.tare(&["create", &bed.id()]);
        let words = format!("{}: not supported yet", field[1..].replace('/', "."));
        assert!(String::from_utf8_lossy(&out.stderr).contains(&words), "{field}: {out:?}");
        assert_eq!(out.status.code(), Some(1));
    }
}
