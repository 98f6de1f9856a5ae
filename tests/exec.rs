//! `tare exec`: what the process has of the container and of the command line, what becomes of it, and what it leaves. In which
//! states and in which moments of the container it works is in exec_states.rs.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use bed::{Bed, cgroup_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A container whose process only waits.
fn sleeping(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed
}

#[track_caller]
fn fails(bed: &Bed, options: &[&str], command: &[&str], words: &str) {
    let _ = fs::remove_file(bed.dir.join("exec.pid"));
    let (code, out, err) = bed.exec(&[&["--pid-file", "exec.pid"], options].concat(), command);
    assert_eq!((code, out.as_str()), (255, ""), "{options:?} {command:?}: {err}");
    assert!(err.contains(words), "{options:?} {command:?}: not {words:?} but {err}");
    assert!(!bed.dir.join("exec.pid").exists(), "{options:?} {command:?}: a pid file, and no process");
}

#[track_caller]
fn prints(bed: &Bed, options: &[&str], command: &[&str], want: &str) {
    let (code, out, err) = bed.exec(options, command);
    assert_eq!((code, out.trim_end(), err.as_str()), (0, want, ""), "{options:?} {command:?}");
}

/// All that a process has, as lines of `name=value`.
const REPORT: &str = "
    echo cwd=$(pwd); echo uid=$(id -u); echo gid=$(id -g); echo groups=$(id -G); echo umask=$(umask)
    echo nofile=$(ulimit -Sn) $(ulimit -Hn); echo stack=$(ulimit -Hs); echo oom=$(cat /proc/self/oom_score_adj)
    for i in cgroup ipc mnt net pid uts user time; do echo ns.$i=$(readlink /proc/self/ns/$i); done
    echo root=$(stat -c %d:%i /); echo mounts=$(busybox md5sum < /proc/self/mountinfo); echo host=$(hostname)
    echo cgroup=$(cat /proc/self/cgroup); echo keys=$(grep -c $(hostname | busybox sed 's/^/_ses./'): /proc/keys)
    busybox sed -nE 's/^(Cap...|NoNewPrivs|Seccomp|Sig(Blk|Ign|Cgt)|Cpus_allowed):[ \\t]*/\\1=/p' /proc/self/status
    echo fds=$(ls /proc/self/fd)
    env | grep -vE '^(PWD|OLDPWD|SHLVL|_)=' | busybox sed 's/^/env./'
    echo END";

fn lines(report: &str) -> BTreeMap<String, String> {
    let lines = report.lines().filter_map(|l| l.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What the report of init says, which then waits.
fn report_of_init(bed: &mut Bed) -> BTreeMap<String, String> {
    bed.shell(&format!("{REPORT}; exec sleep 1000"));
    bed.detached(&[]);
    let out = fs::File::open(bed.dir.join("out")).unwrap();
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut text = String::new();
        (&out).read_to_string(&mut text).unwrap();
        std::io::Seek::rewind(&mut &out).unwrap();
        if text.ends_with("END\n") {
            return lines(&text);
        }
        assert!(std::time::Instant::now() < limit, "no report: {text}");
        std::thread::yield_now();
    }
}

/// A container in which hardly anything is as usual.
fn peculiar(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["hostname"] = json!(bed.id()); // by which the report knows the keyring
    fs::create_dir_all(bed.dir.join("rootfs/etc")).unwrap();
    fs::write(bed.dir.join("rootfs/etc/passwd"), "root:x:0:0::/root:\nu:x:1000:1000::/home/u:\ns:x:7:7::/seven:\n")
        .unwrap();
    bed.config["linux"]["maskedPaths"] = json!([]);
    bed.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    let process = &mut bed.config["process"];
    process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5], "umask": 0o27});
    process["env"] = json!(["PATH=/bin", "A=1", "B=2"]);
    process["cwd"] = json!("/bin");
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    process["oomScoreAdj"] = json!(300);
    process["noNewPrivileges"] = json!(true);
    let caps = json!(["CAP_KILL"]);
    process["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
    bed
}

#[test]
fn without_flags_it_has_what_init_has_and_each_flag_changes_its_own() {
    let mut bed = peculiar("exec-flags");
    let init = report_of_init(&mut bed);
    assert_eq!((init["uid"].as_str(), init["Seccomp"].as_str(), init["env.HOME"].as_str()), ("1000", "2", "/home/u"));
    let (chown, kill) = (1, 1 << 5);
    let bits = |set: u64| format!("{set:016x}");
    let both = bits(chown | kill);
    let table: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["--cwd=/etc"], &["cwd=/etc"]),
        (&["-e", "A=9", "--env=C=x=y", "-e", "D="], &["env.A=9", "env.C=x=y", "env.D="]),
        (&["-e", "HOME=/given"], &["env.HOME=/given"]),
        // Empty is missing, and is looked up.
        (&["-e", "HOME="], &[]),
        // The set of another user is all that the container's configuration grants, for root as well as for others.
        (
            &["-u", "0"],
            &["uid=0", "env.HOME=/root", &format!("CapPrm={}", bits(kill)), &format!("CapEff={}", bits(kill))],
        ),
        (&["--user", "7:8"], &["uid=7", "gid=8", "groups=8 5", "env.HOME=/seven"]),
        (&["-u=4294967294:0"], &["uid=4294967294", "gid=0", "groups=0 5", "env.HOME=/"]),
        (&["-g", "6", "--additional-gids=8,9"], &["groups=1001 5 6 8 9"]),
        (&["--cap", "CAP_CHOWN", "-c", "CAP_KILL"], &[&format!("CapBnd={both}")]),
        (
            &["-u", "0", "--cap=CAP_CHOWN"],
            &[
                "uid=0",
                "env.HOME=/root",
                &format!("CapPrm={both}"),
                &format!("CapEff={both}"),
                &format!("CapBnd={both}"),
            ],
        ),
        (&["--no-new-privs"], &[]),
        (&["--no-new-privs=false"], &["NoNewPrivs=0"]),
    ];
    for (flags, want) in table {
        let (code, out, err) = bed.exec(flags, &["sh", "-c", REPORT]);
        assert_eq!((code, err.as_str()), (0, ""), "{flags:?}");
        let report = lines(&out);
        assert_eq!(report.contains_key("env.A"), init.contains_key("env.A"));
        let mut missing: Vec<_> = init.keys().filter(|name| !report.contains_key(*name)).collect();
        missing.retain(|name| !want.iter().any(|w| w.starts_with(&format!("{name}="))));
        assert!(missing.is_empty(), "{flags:?}: {missing:?} are missing");
        let mut changed: Vec<_> = report.iter().filter(|(name, value)| init.get(*name) != Some(value)).collect();
        changed.sort();
        let changed: Vec<_> = changed.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut want = want.to_vec();
        want.sort();
        assert_eq!(changed, want, "{flags:?}");
    }
}

/// CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: no inheritable capability, unless the container itself has some.
#[test]
fn added_capabilities() {
    let mut bed = sleeping("exec-caps");
    let (kill, chown) = (json!(["CAP_KILL"]), "CAP_CHOWN");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bed.config["process"]["noNewPrivileges"] = json!(false);
    let sets = |inh, prm, eff, bnd, amb| {
        let line = |(name, set): (&str, u32)| format!("Cap{name}:\t{set:016x}");
        [("Inh", inh), ("Prm", prm), ("Eff", eff), ("Bnd", bnd), ("Amb", amb)].map(line).join("\n")
    };
    let show = ["grep", "^Cap", "/proc/self/status"];
    bed.config["process"]["capabilities"] = json!({"bounding": kill, "effective": kill, "permitted": kill});
    bed.detached(&[]);
    prints(&bed, &["--cap", chown], &show, &sets(0, 0, 0, 0x21, 0));
    prints(&bed, &["-u", "0", "--cap", chown], &show, &sets(0, 0x21, 0x21, 0x21, 0));
    bed.delete();
    // As runc does it: with an inheritable set the new one is asked for as an ambient one, too. It takes effect only if it is
    // inheritable.
    bed.config["process"]["capabilities"]["inheritable"] = kill;
    bed.detached(&[]);
    prints(&bed, &["--cap", "CAP_KILL"], &show, &sets(0x20, 0x20, 0x20, 0x20, 0x20));
    prints(&bed, &["--cap", chown], &show, &sets(0x20, 0, 0, 0x21, 0));
    bed.delete();
    // A configuration without any: only what is asked for.
    bed.config["process"].as_object_mut().unwrap().remove("capabilities");
    bed.detached(&[]);
    prints(&bed, &["-u", "0"], &show, &sets(0, 0, 0, 0, 0));
    prints(&bed, &["-u", "0", "--cap", chown], &show, &sets(0, 1, 1, 1, 0));
}

#[test]
fn the_process_of_a_file() {
    let mut bed = peculiar("exec-file");
    let init = report_of_init(&mut bed);
    let run = |process: Value| {
        fs::write(bed.dir.join("process.json"), process.to_string()).unwrap();
        bed.exec(&["--process", "process.json"], &[])
    };
    // Nothing but the container's own is left of the container's process.
    let (code, out, err) = run(json!({
        "args": ["/bin/sh", "-c", REPORT], "cwd": "/etc", "env": ["PATH=/bin", "E=file"],
        "user": {"uid": 7, "gid": 9, "additionalGids": [4], "umask": 0o77},
        "rlimits": [{"type": "RLIMIT_STACK", "soft": 4096000, "hard": 8192000}], "oomScoreAdj": 400,
        "capabilities": {"bounding": ["CAP_CHOWN"]}, "noNewPrivileges": false, "terminal": false,
    }));
    assert_eq!((code, err.as_str()), (0, ""));
    let report = lines(&out);
    for line in [
        "uid=7",
        "gid=9",
        "groups=9 4",
        "umask=0077",
        "cwd=/etc",
        "stack=8000",
        "oom=400",
        "NoNewPrivs=0",
        "env.E=file",
        "CapBnd=0000000000000001",
        "env.HOME=/seven",
        "env.PATH=/bin",
    ] {
        let (name, value) = line.split_once('=').unwrap();
        assert_eq!(report[name], value, "{name}: {report:?}");
    }
    assert!(!report.contains_key("env.A") && report["nofile"] != init["nofile"], "{report:?}");
    // That of the container stays: the filter is in its configuration, and not in the file.
    for name in
        init.keys().filter(|n| n.starts_with("ns.") || ["root", "mounts", "cgroup", "Seccomp"].contains(&n.as_str()))
    {
        assert_eq!(report[name], init[name], "{name}");
    }
    // The least that a process may have; it is no variation of the container's.
    let (code, out, err) = run(json!({"args": ["/bin/sh", "-c", REPORT], "cwd": "/", "user": {"uid": 0, "gid": 0}}));
    assert_eq!((code, err.as_str()), (0, ""));
    let report = lines(&out);
    for (name, value) in
        [("uid", "0"), ("groups", "0"), ("umask", "0022"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "0")]
    {
        assert_eq!(report[name], value, "{name}");
    }
    for (process, words) in [
        (json!([]), "--process: it is not an object"),
        (json!({"args": ["true"]}), "process.cwd"),
        (json!({"cwd": "/", "user": {"uid": 0, "gid": 0}}), "process.args"),
        (json!({"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}), "process.args"),
        (json!({"args": ["true"], "cwd": "x"}), "process.cwd"),
        (json!({"args": ["true"], "cwd": "/", "user": {"uid": -1, "gid": 0}}), "process.user"),
        (json!({"args": ["true"], "cwd": "/", "oomScoreAdj": 2000}), "process.oomScoreAdj"),
        (json!({"args": ["/bin/true"], "cwd": "/", "env": ["=x"]}), "process.env[0]"),
    ] {
        let (code, _, err) = run(process);
        assert!(code == 255 && err.contains(words), "{words}: {err}");
    }
    fs::write(bed.dir.join("process.json"), "{").unwrap();
    fails(&bed, &["-p", "process.json"], &[], "--process: ");
    fails(&bed, &["--process=missing.json"], &[], "--process: read the process: read(\"missing.json\"): ENOENT");
    fails(&bed, &[], &[], "process args cannot be empty");
}

/// A filter is loaded at last, with and without no_new_privs, and it holds for the exec'd process.
#[test]
fn the_containers_filter() {
    let mut bed = sleeping("exec-seccomp");
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    let sethostname = ["hostname", "changed"];
    bed.detached(&[]);
    // The control: without a filter it may.
    prints(&bed, &[], &sethostname, "");
    prints(&bed, &[], &["hostname"], "changed");
    bed.delete();
    bed.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    bed.detached(&[]);
    for flag in ["--no-new-privs=true", "--no-new-privs=false"] {
        let (code, _, err) = bed.exec(&[flag], &sethostname);
        assert!(code == 1 && err.contains("Operation not supported"), "{flag}: {code} {err}");
        let (code, _, err) = bed.exec(&[flag, "-u", "1000"], &["true"]);
        assert_eq!((code, err.as_str()), (0, ""), "{flag}");
    }
}

/// CVE-2026-30892: numbers are taken as numbers, all of them, or refused.
#[test]
fn users_by_number_only() {
    let mut bed = sleeping("exec-user");
    fs::create_dir_all(bed.dir.join("rootfs/etc")).unwrap();
    fs::write(bed.dir.join("rootfs/etc/passwd"), "name:x:0:0::/:\n1:x:0:0::/:\n").unwrap();
    bed.config["process"]["user"] = json!({"uid": 5, "gid": 6});
    bed.detached(&[]);
    for (user, want) in
        [("1", "1 6"), ("1:2", "1 2"), ("0:0", "0 0"), ("0", "0 6"), ("4294967294:4294967294", "4294967294 4294967294")]
    {
        prints(&bed, &["-u", user], &["sh", "-c", "echo $(id -u) $(id -g)"], want);
    }
    for user in
        ["", "1:", ":1", "name", "-1", "4294967296", "1:4294967296", "1:2:3", "+1", " 1", "1 ", "0x1", "1:name", "1:-1"]
    {
        fails(&bed, &[&format!("--user={user}")], &["true"], "is not UID[:GID]");
    }
    for user in ["4294967295", "1:4294967295"] {
        fails(&bed, &["-u", user], &["true"], "4294967295 is no id");
    }
}

#[test]
fn exit_statuses_and_words() {
    let bed = sleeping("exec-status");
    let rootfs = bed.dir.join("rootfs");
    for (name, mode, text) in
        [("no-line", 0o755, "echo"), ("not-executable", 0o644, ""), ("bad", 0o755, "#!/no/such\n")]
    {
        fs::write(rootfs.join(name), text).unwrap();
        fs::set_permissions(rootfs.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    bed.detached(&[]);
    for (script, want) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 138),
    ] {
        let _ = fs::remove_file(bed.dir.join("exec.pid"));
        let (code, _, err) = bed.exec(&["--pid-file", "exec.pid"], &["sh", "-c", script]);
        assert_eq!((code, err.as_str()), (want, ""), "{script}");
        let pid = fs::read_to_string(bed.dir.join("exec.pid")).unwrap();
        assert_eq!(pid, pid.parse::<u32>().unwrap().to_string(), "digits, and no newline");
    }
    for detach in [&[][..], &["--detach"]] {
        for (command, words) in [
            (&["missing"][..], "exec: \"missing\": executable file not found in $PATH"),
            (&["/missing"], "exec: \"/missing\": stat /missing: no such file or directory"),
            (&["/not-executable"], "exec: \"/not-executable\": permission denied"),
            (&["/bin"], "exec: \"/bin\": is a directory"),
            (&["/no-line"], "exec /no-line: exec format error"),
            (&["/bad"], "exec /bad: no such file or directory"),
            (&[""], "exec: \"\": executable file not found in $PATH"),
        ] {
            fails(&bed, detach, command, words);
        }
        fails(
            &bed,
            &[detach, &["--cwd=/missing"]].concat(),
            &["true"],
            "process.cwd: enter the working directory /missing",
        );
        fails(&bed, &[detach, &["--cwd=relative"]].concat(), &["true"], "process.cwd: must be an absolute path");
        fails(&bed, &[detach, &["--env=A"]].concat(), &["true"], "process.env[2]: \"A\" has no '='");
        fails(&bed, &[detach, &["--apparmor=x"]].concat(), &["true"], "process.apparmorProfile: not supported yet");
        fails(&bed, &[detach, &["--process-label=x"]].concat(), &["true"], "process.selinuxLabel: not supported yet");
        fails(
            &bed,
            &[detach, &["--cap=CAP_KILL", "--pidfd-socket=missing"]].concat(),
            &["sleep", "1000"],
            "--pidfd-socket: ",
        );
    }
    // Podman takes the log for one object of JSON; the last word to standard error is the same.
    let out = bed.tare(&["--log", "log", "--log-format", "json", "exec", &bed.id(), "missing"]);
    let log: Value = serde_json::from_str(&fs::read_to_string(bed.dir.join("log")).unwrap()).unwrap();
    assert!(log["level"] == "error" && log["msg"].as_str().unwrap().contains("executable file not found"), "{log}");
    assert_eq!(out.status.code(), Some(255));
    // None of them is left in the container.
    assert_eq!(fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.procs")).unwrap().lines().count(), 1);
    prints(&bed, &[], &["true"], "");
}

/// `tare exec` with pipes for its stdio.
fn piped(bed: &Bed, options: &[&str], command: &[&str]) -> std::process::Child {
    let mut tare = bed.command(&[&["exec"], options, &[&bed.id()], command].concat());
    tare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn ten_megabytes_there_and_back() {
    let bed = sleeping("exec-stdio");
    bed.detached(&[]);
    let mut child = piped(&bed, &[], &["sh", "-c", "cat; echo to stderr >&2"]);
    let data: Vec<u8> = (0..10 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut input = child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.stdout == data, "{} bytes came back", out.stdout.len());
    assert_eq!((out.status.code(), out.stderr.as_slice()), (Some(0), &b"to stderr\n"[..]));
    // A reader that goes away ends a writer, as in a shell.
    let mut child = piped(&bed, &[], &["yes"]);
    child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn signals_are_passed_on() {
    let signals = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("TSTP", Signal::TSTP),
        ("WINCH", Signal::WINCH),
    ];
    let bed = sleeping("exec-signals");
    bed.detached(&[]);
    let traps: String = signals.iter().map(|(name, _)| format!("trap 'echo {name}' {name}; ")).collect();
    let script = format!("{traps}trap 'exit 42' PWR; echo ready; for i in $(busybox seq 30); do read -t 1 x; done");
    let mut child = piped(&bed, &[], &["sh", "-c", &script]);
    let mut out = child.stdout.take().unwrap();
    let _input = child.stdin.take(); // its end would be that of the loop
    let mut line = || {
        let (mut line, mut byte) = (String::new(), [0]);
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0].into());
        }
        line
    };
    assert_eq!(line(), "ready");
    for (name, signal) in signals {
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(line(), name);
    }
    kill_process(Pid::from_child(&child), Signal::POWER).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
    assert_eq!(bed.status(), "running");
}

/// What a caller has ignored or blocked, its CPUs and its session are not the process's.
#[test]
fn nothing_of_the_callers_own() {
    let mut bed = sleeping("exec-caller");
    bed.detached(&[]);
    let ignore = ["env", "--ignore-signal", "--block-signal=TERM", "--block-signal=CHLD", "OF_THE_CALLER=1"];
    bed.through = ignore.map(str::to_owned).into();
    prints(
        &bed,
        &[],
        &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000",
    );
    prints(
        &bed,
        &[],
        &["sh", "-c", "env | grep CALLER; busybox cut -d' ' -f5,6,7 /proc/$$/stat | grep -c \"^$$ $$ 0$\""],
        "1",
    );
    bed.through = ["sh", "-c", "umask 077; ulimit -Sn 77; exec \"$@\"", "sh"].map(str::to_owned).into();
    prints(&bed, &[], &["sh", "-c", "umask; ulimit -n"], "0022\n1024");
    let cpus = "Cpus_allowed_list:\t0";
    bed.through = ["taskset", "--cpu-list", "0"].map(str::to_owned).into();
    let (_, out, _) = bed.exec(&[], &["grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_ne!(out.trim_end(), cpus, "this test needs two CPUs");
}

#[test]
fn descriptors_that_are_preserved_and_no_others() {
    let mut bed = sleeping("exec-fds");
    for (name, text) in [("fa", "A"), ("fb", "B"), ("fc", "C")] {
        fs::write(bed.dir.join(name), text).unwrap();
    }
    bed.detached(&[]);
    let mut table = |caller: &str, flags: &[&str], want: &str| {
        bed.through = ["sh", "-c", &format!("{caller}; exec \"$@\""), "sh"].map(str::to_owned).into();
        let (code, _, err) = bed.exec(&[&["-d", "--pid-file=exec.pid"], flags].concat(), &["sleep", "1000"]);
        assert_eq!((code, err.as_str()), (0, ""), "{caller} {flags:?}");
        // Seen from the host, so that no descriptor is the observer's.
        let pid = fs::read_to_string(bed.dir.join("exec.pid")).unwrap();
        let proc = std::path::Path::new("/proc").join(&pid);
        let fds = fs::read_dir(proc.join("fd")).unwrap().flatten();
        let mut fds: Vec<_> = fds.map(|fd| fd.file_name().into_string().unwrap().parse::<u32>().unwrap()).collect();
        fds.sort();
        // What this test was given by its own caller, it gives to the shell.
        let link = |of: &str, fd: &u32| fs::read_link(format!("/proc/{of}/fd/{fd}")).ok();
        fds.retain(|fd| *fd < 3 || link("self", fd) != link(&pid, fd));
        let mut got: Vec<_> = fds.iter().map(u32::to_string).collect();
        got.extend(fds.iter().filter(|fd| **fd > 2).map(|fd| {
            fs::read_link(proc.join(format!("fd/{fd}"))).unwrap().file_name().unwrap().to_string_lossy().into_owned()
        }));
        let environ = fs::read_to_string(proc.join("environ")).unwrap();
        got.extend(environ.split('\0').filter(|e| e.starts_with("LISTEN_")).map(str::to_owned));
        assert_eq!(got.join(" "), want, "{caller} {flags:?}");
    };
    table("exec 3<fa 4<fb 7</ 9</", &[], "0 1 2");
    table("exec 3<fa 4<fb 5<fc", &["--preserve-fds=2"], "0 1 2 3 4 fa fb");
    table("exec 4<fb 5<fc", &["--preserve-fds", "2"], "0 1 2 4 fb");
    table("exec 3<fa 4<fb; export LISTEN_FDS=1 LISTEN_PID=$$", &[], "0 1 2 3 fa LISTEN_FDS=1 LISTEN_PID=1");
    let both = "0 1 2 3 4 fa fb LISTEN_FDS=1 LISTEN_PID=1";
    table("exec 3<fa 4<fb 5<fc; export LISTEN_FDS=1 LISTEN_PID=$$", &["--preserve-fds=1"], both);
    table("exec 3<fa; export LISTEN_FDS=1 LISTEN_PID=1", &[], "0 1 2");
    // Whatever the runtime opens for itself is gone, even where everything is preserved.
    table("exec 3<fa", &["--preserve-fds=4294967295"], "0 1 2 3 fa");
}

/// In the foreground nobody waits for more than the process itself; what it leaves belongs to the container.
#[test]
fn what_it_leaves_behind_is_the_containers() {
    let bed = sleeping("exec-orphans");
    bed.detached(&[]);
    prints(&bed, &[], &["sh", "-c", "sleep 1000 > /dev/null 2>&1 & true"], "");
    let procs = || fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.procs")).unwrap().lines().count();
    assert_eq!(procs(), 2);
    prints(&bed, &[], &["sh", "-c", "cat /proc/[0-9]*/comm | grep -c sleep"], "2");
    // The command of an exec is gone with init, whose pid namespace it is in.
    let (code, _, err) = bed.exec(&["-d"], &["sleep", "1000"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(procs(), 3);
    bed::running::forced(&bed, "orphans");
}

/// Options come first: what looks like one after the id is the command's.
#[test]
fn arguments_of_the_command() {
    let bed = sleeping("exec-args");
    bed.detached(&[]);
    prints(
        &bed,
        &[],
        &["echo", "-n", "--detach", "-e", "A=1", "-user", "--", "--help", ""],
        "--detach -e A=1 -user -- --help",
    );
    prints(&bed, &["-e=A=1", "--env", "B=2"], &["sh", "-c", "echo $A$B \"$@\"", "sh", "-d"], "12 -d");
    let mut other = Command::new(bed::tare());
    let out = other.arg("--root").arg(bed.dir.join("state")).args(["exec", "no-such-id", "true"]).output().unwrap();
    assert_eq!(out.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&out.stderr).contains("container does not exist"), "{out:?}");
}
