//! Hooks: each kind at its time and in its namespaces, with what it is given, and what is left when one fails, hangs or
//! misbehaves.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use bed::{Bed, cgroup_of, trees};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// In the order of a life.
const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// Those that a `create` runs.
const CREATE: [&str; 3] = ["prestart", "createRuntime", "createContainer"];
/// Whatever is waited for comes within this time.
const LIMIT: Duration = Duration::from_secs(15);

/// A bundle whose directory `shared` is `/shared` in the container as well.
fn bed(name: &str) -> Bed {
    let mut bed = Bed::new(&format!("hooks-{name}"));
    let shared = bed.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    bed.mount("/shared", "bind", &shared, &["rbind", "rw"]);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed
}

/// A shell's hook; `$shared` is the directory that all kinds see.
fn script(bed: &Bed, kind: &str, script: &str) -> Value {
    let shared = if kind == "startContainer" { PathBuf::from("/shared") } else { bed.dir.join("shared") };
    json!({"path": "/bin/sh", "args": ["sh", "-c", format!("shared={}; {script}", shared.display())]})
}

fn add(bed: &mut Bed, kind: &str, hook: Value) {
    let hooks = &mut bed.config["hooks"][kind];
    if hooks.is_null() {
        *hooks = json!([]);
    }
    hooks.as_array_mut().unwrap().push(hook);
}

fn add_script(bed: &mut Bed, kind: &str, text: &str) {
    let hook = script(bed, kind, text);
    add(bed, kind, hook);
}

/// What hooks have written.
fn shared(bed: &Bed, name: &str) -> String {
    fs::read_to_string(bed.dir.join("shared").join(name)).unwrap_or_default()
}

/// Forgets what they have written.
fn forget(bed: &Bed) {
    for entry in fs::read_dir(bed.dir.join("shared")).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
}

#[track_caller]
fn good(bed: &Bed, args: &[&str]) {
    let out = bed.tare(&[args, &[&bed.id()]].concat());
    assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[track_caller]
fn nothing_is_left(bed: &Bed, why: &str) {
    assert!(!bed.dir.join("state").join(bed.id()).exists(), "{why}: the state is left");
    assert!(!cgroup_of(&bed.id()).exists(), "{why}: the cgroup is left");
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end, which comes.
#[track_caller]
fn end(child: &mut Child, what: &str) -> Option<i32> {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait().unwrap().code()
}

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| !s.contains(") Z "))
}

fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn each_at_its_time_in_its_namespaces_with_the_state() {
    let mut bed = bed("kinds");
    bed.config["annotations"] = json!({"org.example": "with \"quotes\"\n"});
    let text = r#"; s=$(cat); for ns in mnt net pid; do set -- "$@" $(readlink /proc/self/ns/$ns); done
        printf '%s\n' "{\"kind\": \"$name\", \"mnt\": \"$1\", \"net\": \"$2\", \"pid\": \"$3\", \"cwd\": \"$(pwd)\", \"state\": $s}" >>$shared/log"#;
    for kind in KINDS {
        for i in 0..2 {
            add_script(&mut bed, kind, &format!("name={kind}{i}{text}"));
        }
    }
    let told = |bed: &Bed| -> Vec<Value> {
        let told = shared(bed, "log")
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}")))
            .collect();
        forget(bed);
        told
    };
    let names =
        |kinds: &[&str]| -> Vec<String> { kinds.iter().flat_map(|k| [format!("{k}0"), format!("{k}1")]).collect() };
    good(&bed, &["create", "--pid-file", "pid"]);
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let inside = ["mnt", "net", "pid"].map(|ns| namespace(&pid, ns));
    let outside = ["mnt", "net", "pid"].map(|ns| namespace("self", ns));
    let mut all = told(&bed);
    let kinds = |all: &[Value]| -> Vec<String> { all.iter().map(|h| h["kind"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(kinds(&all), names(&KINDS[..3]));
    good(&bed, &["start"]);
    let started = told(&bed);
    assert_eq!(kinds(&started), names(&KINDS[3..5]));
    all.extend(started);
    good(&bed, &["delete", "--force"]);
    let stopped = told(&bed);
    assert_eq!(kinds(&stopped), names(&KINDS[5..]));
    all.extend(stopped);
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (i, hook) in all.iter().enumerate() {
        let kind = KINDS[i / 2];
        let in_container = ["createContainer", "startContainer"].contains(&kind);
        let expected = if in_container { &inside } else { &outside };
        assert_eq!(["mnt", "net", "pid"].map(|ns| hook[ns].as_str().unwrap().to_owned()), *expected, "{kind}");
        let state = &hook["state"];
        let pid = match kind {
            _ if in_container => 1,
            "poststop" => 0,
            _ => pid.parse().unwrap(),
        };
        let expected = json!({
            "ociVersion": bed.config["ociVersion"], "id": bed.id(), "status": statuses[i / 2], "pid": pid,
            "bundle": bed.dir, "annotations": bed.config["annotations"],
        });
        assert_eq!(*state, expected, "{kind}");
        let cwd = if kind == "startContainer" { Path::new("/") } else { &bed.dir };
        assert_eq!(hook["cwd"], json!(cwd), "{kind}");
    }
    // All of them by `run` as well.
    bed.config["process"]["args"] = json!(["true"]);
    good(&bed, &["run"]);
    assert_eq!(kinds(&told(&bed)), names(&KINDS));
    nothing_is_left(&bed, "run");
}

/// CVE-2025-23266 as well: nothing of the image in what runs on the host.
#[test]
fn arguments_and_environment() {
    let mut bed = bed("environment");
    // What the image would like to give them.
    bed.config["process"]["env"] = json!(["LD_PRELOAD=/evil.so", "PATH=/evil:/bin", "FROM_IMAGE=1"]);
    bed.config["process"]["cwd"] = json!("/dev");
    fs::create_dir_all(bed.dir.join("rootfs/usr/bin")).unwrap();
    let evil = bed.dir.join("rootfs/usr/bin/env");
    fs::write(&evil, "#!/bin/sh\necho the image\n").unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    bed.config["annotations"] = json!({"run.oci.hooks.stdout": bed.dir.join("said")});
    for kind in KINDS.into_iter().filter(|k| *k != "startContainer") {
        add(&mut bed, kind, json!({"path": "/usr/bin/env"}));
        add(&mut bed, kind, json!({"path": "/usr/bin/env", "env": ["A=1", "B=2=3"]}));
        add(&mut bed, kind, json!({"path": "/usr/bin/env", "env": [], "args": ["env"]}));
        // It does what its first argument says.
        add(&mut bed, kind, json!({"path": "/bin/busybox", "args": ["echo", "$0", "", "two words"]}));
        add(&mut bed, kind, json!({"path": "/bin/busybox", "args": ["pwd"]}));
    }
    let run = |command: &str, args: &[&str]| {
        let id = bed.id();
        let mut command = bed.command(&[&[command], args, &[&id]].concat());
        command.env_clear().env("OF_THE_RUNTIME", "yes").env("PATH", "/usr/bin:/bin");
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
        let said = fs::read_to_string(bed.dir.join("said")).unwrap();
        fs::remove_file(bed.dir.join("said")).unwrap();
        said
    };
    let one = |said: &str, times: usize| {
        let runtime = said.find("A=1").unwrap();
        let (mut of_runtime, rest): (Vec<_>, _) = (said[..runtime].lines().collect(), &said[runtime..]);
        of_runtime.sort_unstable();
        assert_eq!(of_runtime, ["OF_THE_RUNTIME=yes", "PATH=/usr/bin:/bin"]);
        let expected = format!("A=1\nB=2=3\n$0  two words\n{}\n", bed.dir.display());
        assert!(rest.starts_with(&expected), "{times}: {rest}");
        rest[expected.len()..].to_owned()
    };
    let mut said = run("create", &[]);
    for i in 0..3 {
        said = one(&said, i);
    }
    assert_eq!(said, "");
    assert_eq!(one(&run("start", &[]), 4), "");
    assert_eq!(one(&run("delete", &["--force"]), 5), "");
}

#[test]
fn start_container_is_of_the_container() {
    let mut bed = bed("inside");
    bed.config["process"]["cwd"] = json!("/dev");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    add_script(
        &mut bed,
        "startContainer",
        "{ readlink /bin/sh; pwd; id -u; echo $MINE$OF_THE_RUNTIME; } >$shared/said",
    );
    // A program of the image has the image's environment, and nothing of the host's.
    bed.config["process"]["env"] = json!(["PATH=/bin", "MINE=mine"]);
    let mut hook = script(&bed, "startContainer", "echo $MINE$OTHER >>$shared/said");
    hook["env"] = json!(["OTHER=other"]);
    add(&mut bed, "startContainer", hook);
    bed.shell("test -s /shared/said && echo hook first");
    let out = bed.command(&["run", &bed.id()]).env("OF_THE_RUNTIME", "yes").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hook first\n", "{out:?}");
    assert_eq!(shared(&bed, "said"), "busybox\n/dev\n1000\nmine\nother\n");
}

#[test]
fn mounts_that_hooks_make_are_the_containers() {
    let mut bed = bed("mounts");
    let rootfs = bed.dir.join("rootfs");
    for dir in ["made", "entered", "file"] {
        fs::create_dir(rootfs.join(dir)).unwrap();
    }
    let rootfs = rootfs.display();
    let (root, dir) = (format!("root={rootfs}"), bed.dir.display().to_string());
    // The container's mounts are there, and its root is the host's still.
    let look = "test -d $root/proc/sys && test -e $root/dev/null && test -d $root/shared";
    add_script(&mut bed, "createContainer", &format!(
        "{root}; {look} && test -e {dir}/config.json && mount -t tmpfs made $root/made && echo by the hook >$root/made/file &&
         mount --bind $shared $root/file && mount -o remount,bind,ro $root/file"
    ));
    // As NVIDIA's older hook does it.
    add_script(
        &mut bed,
        "prestart",
        &format!(
            "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); root=/proc/$pid/root{rootfs}; {look} &&
         nsenter --target $pid --mount mount -t tmpfs entered {rootfs}/entered && echo by another >$root/entered/file"
        ),
    );
    fs::write(bed.dir.join("shared/x"), "shared\n").unwrap();
    bed.shell("cat /made/file /entered/file /file/x; touch /file/y || echo read-only");
    for no_pivot in [&["run"][..], &["run", "--no-pivot"], &["run", "--mount-namespace=clone"]] {
        let before = bed.host_mounts();
        let out = bed.tare(&[no_pivot, &[&bed.id()]].concat());
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(said, "by the hook\nby another\nshared\nread-only\n", "{no_pivot:?}: {out:?}");
        assert_eq!(bed.host_mounts(), before);
        // Nor are there files of theirs below.
        assert_eq!(bed.on_host("ls rootfs/made rootfs/entered rootfs/file | grep -v ':$' | xargs"), "\n");
    }
}

#[test]
fn a_network_is_made_by_hooks() {
    let mut bed = bed("network");
    std::os::unix::fs::symlink("busybox", bed.dir.join("rootfs/bin/ip")).unwrap();
    let enter = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter --net=/proc/$pid/ns/net";
    // As CNI's plugins and Docker do it.
    add_script(&mut bed, "createRuntime", &format!("{enter} busybox ip addr add 10.9.8.7/32 dev lo"));
    add_script(&mut bed, "prestart", &format!("{enter} sh -c 'echo 99 >/proc/sys/net/ipv4/ip_default_ttl'"));
    bed.shell("ip addr show lo | grep -o 10.9.8.7; cat /proc/sys/net/ipv4/ip_default_ttl");
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let out = bed.tare(&["run", &bed.id()]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "10.9.8.7\n99\n", "{out:?}");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), before);
}

#[test]
fn a_failing_one_ends_it() {
    let mut bed = bed("failing");
    let ways = [
        ("echo some; echo words >&2; exit 3", "error running hook: exit status 3: some | words"),
        ("kill -KILL $$", "error running hook: signal 9"),
    ];
    for kind in &KINDS[..5] {
        for (text, words) in ways {
            bed.config["hooks"] = json!({});
            add_script(&mut bed, kind, text);
            add_script(&mut bed, kind, "echo must not >>$shared/second");
            add_script(&mut bed, "poststop", "cat >>$shared/poststop");
            let words = format!("hooks.{kind}[0] (/bin/sh): {words}");
            let failed = |out: Output, what: &str| {
                assert_eq!(out.status.code(), Some(1), "{what} {kind}: {out:?}");
                assert_eq!(stderr(&out), format!("tare: {words}\n"), "{what} {kind}");
            };
            failed(bed.tare(&["run", &bed.id()]), "run");
            nothing_is_left(&bed, kind);
            let poststop = |what: &str| {
                let state: Value = serde_json::from_str(&shared(&bed, "poststop"))
                    .unwrap_or_else(|e| panic!("{what} {kind}: poststop: {e}"));
                assert_eq!(state["status"], "stopped");
                forget(&bed);
            };
            assert_eq!(shared(&bed, "second"), "");
            poststop("run");
            let created = bed.tare(&["create", &bed.id()]);
            if CREATE.contains(kind) {
                failed(created, "create");
                nothing_is_left(&bed, kind);
            } else {
                assert!(created.status.success(), "{created:?}");
                failed(bed.tare(&["start", &bed.id()]), "start");
                until("the container is not stopped", || bed.status() == "stopped");
                assert_eq!(shared(&bed, "poststop"), "");
                good(&bed, &["delete"]);
                nothing_is_left(&bed, kind);
            }
            assert_eq!(shared(&bed, "second"), "");
            poststop("create");
        }
    }
}

#[test]
fn one_that_cannot_be_executed() {
    let mut bed = bed("not-executable");
    fs::write(bed.dir.join("text"), "text").unwrap();
    let (text, dir) = (bed.dir.join("text"), bed.dir.clone());
    for (path, why) in [
        (Path::new("/no/such/hook"), "no such file or directory"),
        (&text, "permission denied"),
        (&dir, "permission denied"),
    ] {
        for kind in CREATE {
            bed.config["hooks"] = json!({kind: [{"path": path}]});
            let out = bed.tare(&["create", &bed.id()]);
            let said = stderr(&out);
            assert!(said.contains(&format!("hooks.{kind}[0] ({})", path.display())), "{said}");
            assert!(said.contains("error running hook") && said.contains(why), "{said}");
            nothing_is_left(&bed, kind);
        }
    }
}

#[test]
fn poststop_hinders_nobody() {
    let mut bed = bed("poststop");
    add_script(&mut bed, "poststop", "echo one >>$shared/log; exit 3");
    add(&mut bed, "poststop", json!({"path": "/no/such"}));
    add_script(&mut bed, "poststop", "echo three >>$shared/log");
    bed.detached(&[]);
    let out = bed.tare(&["--log", "log", "delete", "--force", &bed.id()]);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    assert_eq!(shared(&bed, "log"), "one\nthree\n");
    nothing_is_left(&bed, "delete");
    let log = fs::read_to_string(bed.dir.join("log")).unwrap();
    for words in ["hooks.poststop[0] (/bin/sh): error running hook: exit status 3", "hooks.poststop[1] (/no/such)"] {
        assert!(log.contains(words) && log.contains("warning"), "{log}");
    }
    // The bundle may be gone by then.
    bed.detached(&[]);
    let other = bed.dir.with_extension("moved");
    let state = bed.dir.join("state");
    fs::rename(&state, &other).unwrap();
    let bundle = std::mem::take(&mut bed.config);
    let out = std::process::Command::new(bed::tare())
        .args(["--root", other.to_str().unwrap(), "delete", "--force", &bed.id()])
        .current_dir("/")
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    fs::rename(&other, &state).unwrap();
    bed.config = bundle;
    assert_eq!(shared(&bed, "log"), "one\nthree\none\nthree\n");
}

#[test]
fn one_that_takes_too_long_is_killed() {
    let mut bed = bed("timeout");
    for kind in &KINDS[..5] {
        for text in ["exec sleep 1000", "exec yes"] {
            bed.config["hooks"] = json!({});
            let mut hook = script(&bed, kind, &format!("cat /proc/self/stat >$shared/pid; {text}"));
            hook["timeout"] = json!(1);
            add(&mut bed, kind, hook);
            let begin = Instant::now();
            let mut child = bed.command(&["run", &bed.id()]);
            let child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = child.spawn().unwrap();
            assert_eq!(end(&mut child, kind), Some(1), "{kind}: {text}");
            let out = child.wait_with_output().unwrap();
            let words =
                format!("hooks.{kind}[0] (/bin/sh): error running hook: hook ran past specified timeout of 1 s");
            assert!(stderr(&out).contains(&words), "{out:?}");
            assert!(begin.elapsed() > Duration::from_millis(900) && begin.elapsed() < LIMIT);
            nothing_is_left(&bed, kind);
            let stat = shared(&bed, "pid");
            // Of `cat`, whose parent is the hook; pids of the container's namespace say nothing here, but end with it.
            let hook = stat.split(' ').nth(3).unwrap();
            assert!(*kind == "startContainer" || *kind == "createContainer" || !alive(hook), "{kind}: {hook} lives on");
        }
    }
    // One with time enough is let be.
    bed.config["hooks"] = json!({});
    for kind in KINDS {
        let mut hook = script(&bed, kind, "echo done >>$shared/done");
        hook["timeout"] = json!(60);
        add(&mut bed, kind, hook);
    }
    bed.config["process"]["args"] = json!(["true"]);
    good(&bed, &["run"]);
    assert_eq!(shared(&bed, "done").lines().count(), KINDS.len());
}

#[test]
fn the_runtime_ends_while_one_hangs() {
    let mut bed = bed("hanging");
    // For its pid to be seen here.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    for kind in &KINDS[..5] {
        for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
            for command in ["create", "run"] {
                if command == "create" && !CREATE.contains(kind) {
                    continue;
                }
                let what = format!("{command} {kind} {signal:?}");
                forget(&bed);
                bed.config["hooks"] = json!({});
                add_script(&mut bed, kind, "cat >/dev/null; echo $$ >$shared/pid; exec sleep 1000");
                add_script(&mut bed, "poststop", "cat >>$shared/poststop");
                let mut runtime = bed.command(&[command, &bed.id()]);
                let runtime = runtime.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut runtime = runtime.spawn().unwrap();
                until(&what, || shared(&bed, "pid").ends_with('\n'));
                let hook = shared(&bed, "pid");
                kill_process(Pid::from_child(&runtime), signal).unwrap();
                assert_eq!(end(&mut runtime, &what), if signal == Signal::KILL { None } else { Some(1) }, "{what}");
                if signal == Signal::KILL {
                    let pids = fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.procs")).unwrap();
                    if CREATE.contains(kind) {
                        // What is half made ends with its maker.
                        until(&format!("{what}: the child lives on"), || !pids.lines().any(alive));
                    }
                    assert!(bed.tare(&["delete", "--force", &bed.id()]).status.success());
                    for pid in pids.lines() {
                        assert!(!alive(pid), "{what}: {pid} lives on");
                    }
                    if ["prestart", "createRuntime", "poststart"].contains(kind) {
                        // On the host, nobody but the runtime knows of it.
                        kill_process(Pid::from_raw(hook.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
                    }
                }
                until(&format!("{what}: the hook lives on"), || !alive(&hook));
                nothing_is_left(&bed, &what);
                assert!(shared(&bed, "poststop").contains("stopped"), "{what}: no poststop");
            }
        }
    }
}

#[test]
fn odd_ones_do_no_harm() {
    let mut bed = bed("odd");
    bed.config["process"]["args"] = json!(["true"]);
    // More than a pipe holds.
    bed.config["annotations"] = json!({"large": "x".repeat(200_000)});
    let odd = [
        "exec <&- >&- 2>&-",
        "exec true",
        "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2",
        "test $(wc -c) -gt 200000",
        // It has a child that lives on, with its stdio.
        "sleep 60 & :",
        "trap '' HUP; timeout 60 yes & :",
    ];
    for text in odd {
        bed.config["hooks"] = json!({});
        for kind in KINDS {
            add_script(&mut bed, kind, text);
        }
        let mut run = bed.command(&["run", &bed.id()]);
        let mut run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        let status = end(&mut run, text);
        assert_eq!(status, Some(0), "{text}");
        // Who waits for the child that lives on waits for a minute.
        assert!(begin.elapsed() < Duration::from_secs(30), "{text}: {:?}", begin.elapsed());
        nothing_is_left(&bed, text);
    }
}

#[test]
fn signals_and_descriptors_are_as_new() {
    let mut bed = bed("clean");
    // The caller has left things open, and ignores signals.
    bed.through =
        ["sh", "-c", "trap '' PIPE TERM USR1; exec 3<. 7<. 9>&1; exec \"$@\"", "sh"].map(str::to_owned).into();
    let text = "grep -E '^Sig(Blk|Ign)' /proc/self/status >>$shared/signals; for fd in /proc/self/fd/*; do \
 test -e $fd && set -- $@ ${fd##*/}; done; echo $@ >>$shared/fds";
    for kind in KINDS {
        add_script(&mut bed, kind, &format!("echo {kind} >>$shared/signals; echo {kind} >>$shared/fds; {text}"));
    }
    bed.config["process"]["args"] = json!(["true"]);
    let out = bed.tare(&["run", "--preserve-fds=1", &bed.id()]);
    assert!(out.status.success(), "{out:?}");
    let zero = "0000000000000000";
    let signals: String = KINDS.map(|k| format!("{k}\nSigBlk:\t{zero}\nSigIgn:\t{zero}\n")).concat();
    assert_eq!(shared(&bed, "signals"), signals);
    assert_eq!(shared(&bed, "fds"), KINDS.map(|k| format!("{k}\n0 1 2\n")).concat());
}

#[test]
fn their_output_goes_to_files() {
    let mut bed = bed("output");
    bed.config["process"]["args"] = json!(["true"]);
    let (out, err) = (bed.dir.join("hooks.out"), bed.dir.join("hooks.err"));
    bed.config["annotations"] = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    for kind in KINDS {
        add_script(&mut bed, kind, &format!("echo {kind} out; echo {kind} err >&2"));
    }
    for _ in 0..2 {
        good(&bed, &["run"]);
    }
    let both = |what: &str| [KINDS, KINDS].concat().iter().map(|k| format!("{k} {what}\n")).collect::<String>();
    assert_eq!(fs::read_to_string(&out).unwrap(), both("out"));
    assert_eq!(fs::read_to_string(&err).unwrap(), both("err"));
    // One of them alone; the other is in the message.
    bed.config["annotations"] = json!({"run.oci.hooks.stdout": out});
    add_script(&mut bed, "createRuntime", "echo to the file; echo to the message >&2; exit 1");
    let failed = bed.tare(&["run", &bed.id()]);
    assert!(
        stderr(&failed)
            .ends_with("hooks.createRuntime[1] (/bin/sh): error running hook: exit status 1: to the message\n")
    );
    assert!(fs::read_to_string(&out).unwrap().contains("\nto the file\n"));
    bed.config["annotations"] = json!({"run.oci.hooks.stdout": "/no/such/file"});
    let failed = bed.tare(&["run", &bed.id()]);
    assert!(failed.status.code() == Some(1) && stderr(&failed).contains("/no/such/file"), "{failed:?}");
    nothing_is_left(&bed, "output");
}

#[test]
fn with_each_kind_of_mount_namespace() {
    let mut bed = bed("trees");
    bed.config["process"]["args"] = json!(["true"]);
    // Hooks that do not look inside leave all ways open.
    for kind in &KINDS[3..] {
        add_script(&mut bed, kind, "echo >>$shared/ran");
    }
    for (code, _, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
    }
    assert_eq!(shared(&bed, "ran"), "\n\n\n".repeat(trees().len()));
    forget(&bed);
    for kind in CREATE {
        bed.config["hooks"] = json!({});
        add_script(&mut bed, kind, "echo >>$shared/ran");
        let out = bed.tare(&["run", "--mount-namespace=antechamber", &bed.id()]);
        assert!(stderr(&out).contains("needs a copy of the host's mount namespace"), "{out:?}");
        nothing_is_left(&bed, kind);
        for option in ["--mount-namespace=clone", "--no-pivot"] {
            good(&bed, &["run", option]);
            assert_eq!(shared(&bed, "ran"), "\n", "{option}");
            forget(&bed);
        }
    }
    // Without one, startContainer is in the rootfs all the same.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "mount");
    bed.config["mounts"] = json!([]);
    for field in ["maskedPaths", "readonlyPaths"] {
        bed.config["linux"][field] = json!([]);
    }
    bed.config["root"]["readonly"] = json!(false);
    bed.config["hooks"] = json!({});
    for kind in KINDS {
        add_script(&mut bed, kind, "echo >>$shared/ran");
    }
    fs::create_dir_all(bed.dir.join("rootfs/shared")).unwrap();
    good(&bed, &["run"]);
    assert_eq!(shared(&bed, "ran"), "\n".repeat(5));
    assert_eq!(fs::read_to_string(bed.dir.join("rootfs/shared/ran")).unwrap(), "\n");
}
