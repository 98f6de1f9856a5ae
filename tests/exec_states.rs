//! `tare exec` in each state and at each moment of the container: paused, frozen in between, dying, deleted, with an init in a
//! cgroup of its own, without namespaces.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bed::running::{Done, forced, spawn, wait_for};
use bed::{Bed, cgroup_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// What `exec` says of a container that has ended.
const STOPPED: &str = "cannot exec in a stopped container";
const PAUSED: &str = "cannot exec in a paused container (use --ignore-paused to override)";

fn sleeping(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed
}

fn ok(bed: &Bed, args: &[&str]) {
    let out = bed.tare(args);
    assert!(out.status.success(), "{args:?}: {out:?}");
}

#[track_caller]
fn prints(bed: &Bed, options: &[&str], command: &[&str], want: &str) {
    let (code, out, err) = bed.exec(options, command);
    assert_eq!((code, out.trim_end(), err.as_str()), (0, want, ""), "{options:?} {command:?}");
}

#[track_caller]
fn fails(bed: &Bed, options: &[&str], command: &[&str], words: &str) {
    let _ = fs::remove_file(bed.dir.join("exec.pid"));
    let (code, out, err) = bed.exec(&[&["--pid-file=exec.pid"], options].concat(), command);
    assert_eq!((code, out.as_str()), (255, ""), "{options:?} {command:?}: {err}");
    assert!(err.contains(words), "{options:?} {command:?}: not {words:?} but {err}");
    assert!(!bed.dir.join("exec.pid").exists(), "{options:?} {command:?}: a pid file, and no process");
}

/// The processes of the container's own cgroup.
fn procs(bed: &Bed) -> usize {
    fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.procs")).unwrap().lines().count()
}

fn within(seconds: u64, what: &str, done: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn stopped(bed: &Bed) {
    within(10, "it does not stop", || bed.status() == "stopped");
}

#[test]
fn the_states_it_works_in() {
    let bed = sleeping("exec-states");
    let id = bed.id();
    fails(&bed, &[], &["true"], "container does not exist");
    fails(&bed, &["--ignore-paused"], &["true"], "container does not exist");
    ok(&bed, &["create", &id]);
    // Before `start`, too: the namespaces are there, and init waits in them.
    prints(&bed, &[], &["sh", "-c", "hostname; cat /proc/1/comm"], "tare\ntare");
    assert_eq!(bed.status(), "created");
    ok(&bed, &["pause", &id]);
    fails(&bed, &["-d"], &["true"], PAUSED);
    ok(&bed, &["resume", &id]);
    ok(&bed, &["start", &id]);
    prints(&bed, &[], &["cat", "/proc/1/comm"], "sleep");
    assert_eq!(bed.status(), "running");
    ok(&bed, &["kill", &id, "KILL"]);
    stopped(&bed);
    for options in [&[][..], &["-d"], &["--ignore-paused"]] {
        fails(&bed, options, &["true"], STOPPED);
        fails(&bed, options, &["missing"], STOPPED);
    }
    forced(&bed, "states");
    fails(&bed, &[], &["true"], "container does not exist");
}

#[test]
fn a_paused_container() {
    let bed = sleeping("exec-paused");
    let id = bed.id();
    bed.detached(&[]);
    ok(&bed, &["pause", &id]);
    for options in [&[][..], &["-d"]] {
        let begin = Instant::now();
        fails(&bed, options, &["true"], PAUSED);
        assert!(begin.elapsed() < Duration::from_secs(5), "it waited");
    }
    assert_eq!((bed.status().as_str(), procs(&bed)), ("paused", 1));
    // It waits as long as it takes: longer than any patience of the runtime's.
    let mut waits = spawn(&bed, "waits", &["exec", "--ignore-paused", &id, "echo", "resumed"]);
    let mut detached =
        spawn(&bed, "detached", &["exec", "-d", "--ignore-paused", "--pid-file=late.pid", &id, "sleep", "1000"]);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(12) {
        assert!(
            !waits.is_over() && !detached.is_over(),
            "after {:?}: {:?} {:?}",
            begin.elapsed(),
            waits.end(),
            detached.end()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!bed.dir.join("late.pid").exists(), "a pid file, and nothing runs yet");
    // Signals end the wait, and with it what was made.
    for (signal, name) in
        [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::HUP, "SIGHUP"), (Signal::QUIT, "SIGQUIT")]
    {
        let before = procs(&bed);
        let waits = spawn(&bed, "ended", &["exec", "--ignore-paused", "--pid-file=exec.pid", &id, "true"]);
        within(10, "no process was made", || procs(&bed) > before);
        kill_process(Pid::from_child(&waits.child), signal).unwrap();
        let Done { code, err, .. } = waits.end();
        assert!(code == Some(255) && err.contains(&format!("interrupted by {name}")), "{name}: {code:?} {err}");
        assert!(!err.contains("created"), "no container is created here: {err}");
        assert_eq!(procs(&bed), before, "{name}");
        assert!(!bed.dir.join("exec.pid").exists());
    }
    ok(&bed, &["resume", &id]);
    let done = waits.end();
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (Some(0), "resumed\n", ""));
    let done = detached.end();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(bed.dir.join("late.pid").exists());
    // Deleted while somebody waits.
    ok(&bed, &["pause", &id]);
    let before = procs(&bed);
    let waits = spawn(&bed, "deleted", &["exec", "--ignore-paused", &id, "true"]);
    within(10, "no process was made", || procs(&bed) > before);
    forced(&bed, "paused");
    let done = waits.end();
    assert!(done.code == Some(255) && done.err.contains(STOPPED), "{done:?}");
}

/// Paused at any moment of an exec, and not resumed until it has ended: it never hangs.
#[test]
fn frozen_at_any_moment() {
    let bed = sleeping("exec-frozen");
    let id = bed.id();
    bed.detached(&[]);
    let freeze = |value: &str| fs::write(cgroup_of(&id).join("cgroup.freeze"), value).unwrap();
    let (mut refused, mut ran) = (0, 0);
    let began = Instant::now();
    assert!(spawn(&bed, "exec", &["exec", "-d", &id, "true"]).end().ok());
    let usual = began.elapsed();
    let mut delay = usual / 2;
    for round in 0..100 {
        let exec = spawn(&bed, "exec", &["exec", "-d", "--pid-file=exec.pid", &id, "true"]);
        std::thread::sleep(delay);
        freeze("1");
        let done = exec.end();
        let round = format!("round {round}");
        assert_eq!(done.ok(), bed.dir.join("exec.pid").exists(), "{round}: {done:?}");
        if done.ok() {
            fs::remove_file(bed.dir.join("exec.pid")).unwrap();
            ran += 1;
            // On the edge of being too late the moment before execve is met most often.
            delay = delay.saturating_sub(usual / 40);
        } else {
            assert!(done.code == Some(255) && done.err.contains(PAUSED), "{round}: {done:?}");
            refused += 1;
            delay += usual / 40;
        }
        freeze("0");
        within(10, &format!("{round}: a process is left"), || procs(&bed) == 1);
    }
    println!("{refused} refused, {ran} ran");
    assert!(refused > 10 && ran > 10, "{refused} were refused, {ran} ran");
}

#[test]
fn frozen_and_thawed_all_the_time() {
    let bed = sleeping("exec-thawed");
    let id = bed.id();
    bed.detached(&[]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for value in ["1", "0"] {
                    fs::write(cgroup_of(&id).join("cgroup.freeze"), value).unwrap();
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
        });
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..40 {
                let done = spawn(&bed, "waits", &["exec", "--ignore-paused", &id, "echo", "x"]).end();
                assert_eq!((done.code, done.out.as_str()), (Some(0), "x\n"), "{round}: {done:?}");
                let done = spawn(&bed, "exec", &["exec", &id, "echo", "x"]).end();
                let refused = done.code == Some(255) && done.err.contains(PAUSED);
                assert!(refused || (done.code, done.out.as_str()) == (Some(0), "x\n"), "{round}: {done:?}");
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(e) = rounds {
            std::panic::resume_unwind(e);
        }
    });
    assert_eq!(procs(&bed), 1);
}

/// The container ends, a little later each time. With and without a pid namespace, whose end takes the exec'd process along.
#[test]
fn while_the_container_dies() {
    for without in ["none", "pid"] {
        let mut bed = sleeping(&format!("exec-dies-{without}"));
        bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != without);
        let id = bed.id();
        let (mut words, mut ran) = (0, 0);
        for round in 0..40 {
            bed.detached(&[]);
            let exec = spawn(&bed, "exec", &["exec", "--pid-file=exec.pid", &id, "sh", "-c", "echo ran"]);
            std::thread::sleep(Duration::from_micros(300) * round);
            ok(&bed, &["kill", &id, "KILL"]);
            let done = exec.end();
            let round = format!("{without}, round {round}");
            match done.code {
                // It ran: to its end or to that of the container.
                Some(0) => {
                    assert_eq!(done.out, "ran\n", "{round}");
                    ran += 1;
                }
                Some(137) => assert!(done.err.is_empty() && bed.dir.join("exec.pid").exists(), "{round}: {done:?}"),
                Some(255) => {
                    assert!(done.err.contains(STOPPED), "{round}: {done:?}");
                    assert!(!bed.dir.join("exec.pid").exists(), "{round}: a pid file");
                    words += 1;
                }
                _ => panic!("{round}: {done:?}"),
            }
            let _ = fs::remove_file(bed.dir.join("exec.pid"));
            stopped(&bed);
            forced(&bed, &round);
        }
        println!("{words} were refused, {ran} ran");
    }
}

#[test]
fn forced_delete_during_exec() {
    let bed = sleeping("exec-delete");
    let id = bed.id();
    let (mut words, mut killed) = (0, 0);
    for round in 0..40 {
        bed.detached(&[]);
        let cgroup = cgroup_of(&id).join("cgroup.procs");
        let mut exec = spawn(&bed, "exec", &["exec", "--pid-file=exec.pid", &id, "sleep", "1000"]);
        let two = || fs::read_to_string(&cgroup).map_or(true, |procs| procs.lines().count() > 1);
        if round % 2 == 0 {
            wait_for(&mut exec, &two, round * 12);
        } else {
            wait_for(&mut exec, &|| true, round * 40);
        }
        forced(&bed, &format!("round {round}"));
        let done = exec.end();
        match done.code {
            Some(137) => killed += 1,
            Some(255) if done.err.contains(STOPPED) || done.err.contains("container does not exist") => words += 1,
            _ => panic!("round {round}: {done:?}"),
        }
        assert_eq!(bed.dir.join("exec.pid").exists(), done.code == Some(137), "round {round}: {done:?}");
        let _ = fs::remove_file(bed.dir.join("exec.pid"));
    }
    println!("{words} refused, {killed} killed");
}

/// `--cgroup` is below the container's, and nowhere else: a name that begins as the container's is no child (runc 1.5.2).
#[test]
fn cgroups_below_the_containers() {
    let bed = sleeping("exec-cgroup");
    bed.detached(&[]);
    let own = cgroup_of(&bed.id());
    let sibling = PathBuf::from(format!("{}-suffix", own.display()));
    for dir in [own.join("a"), own.join("a/b"), sibling.clone()] {
        fs::create_dir(dir).unwrap();
    }
    // Named from the root of the container's cgroup namespace.
    let show = ["grep", "^0::", "/proc/self/cgroup"];
    for (path, want) in
        [("a", "/a"), ("/a", "/a"), ("a/b", "/a/b"), ("/a//b/", "/a/b"), ("/", "/"), ("pids,cpu:a", "/a")]
    {
        prints(&bed, &["--cgroup", path], &show, &format!("0::{want}"));
    }
    let name = sibling.file_name().unwrap().to_str().unwrap();
    for path in [
        format!("../{name}"),
        format!("a/../../{name}"),
        "..".into(),
        "a/..".into(),
        "/../..".into(),
        format!("/a:../{name}"),
    ] {
        fails(&bed, &["--cgroup", &path], &show, "is not below the container's cgroup");
    }
    for path in ["-suffix", "/missing", "a/missing"] {
        fails(&bed, &[&format!("--cgroup={path}")], &show, "--cgroup: the container has no cgroup");
    }
    fails(&bed, &["--cgroup=cgroup.procs"], &show, "cgroup.procs): open the container's cgroup: ");
    fails(&bed, &["--cgroup=a", "--cgroup=a/b"], &show, "--cgroup: cgroup v2 has one path only");
    fails(&bed, &["--cgroup=a"], &["missing"], "executable file not found");
    for dir in [own.join("a/b"), own.join("a"), sibling] {
        fs::remove_dir(dir).unwrap(); // nobody is left in it
    }
}

/// A container that manages cgroups of its own: its init is in one, and what has controllers enabled takes no process (EBUSY).
#[test]
fn an_init_in_a_cgroup_of_its_own() {
    let mut bed = sleeping("exec-own-cgroup");
    let root = cgroup_of("");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    let wanted = ["pids", "hugetlb"].into_iter().find(|c| controllers.split_whitespace().any(|have| have == *c));
    let controller = wanted.expect("this test needs the controller pids or hugetlb on cgroup v2");
    bed.config["linux"]["resources"] = match controller {
        "pids" => json!({"pids": {"limit": 1000}}),
        _ => json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}]}),
    };
    let pid = bed.detached(&[]);
    let own = cgroup_of(&bed.id());
    let show = ["grep", "^0::", "/proc/self/cgroup"];
    fs::create_dir(own.join("init")).unwrap();
    fs::write(own.join("init/cgroup.procs"), pid.to_string()).unwrap();
    // As long as it can be, it is in the container's cgroup, as with runc.
    prints(&bed, &[], &show, "0::/");
    fs::write(own.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    prints(&bed, &[], &show, "0::/init");
    let (code, _, err) = bed.exec(&["-d"], &["sleep", "1000"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(own.join("init/cgroup.procs")).unwrap().lines().count(), 2);
    fails(&bed, &["--cgroup=/"], &show, "EBUSY");
    prints(&bed, &["--cgroup=/init"], &show, "0::/init");
    // A pause reaches it there, and the end as well.
    ok(&bed, &["pause", &bed.id()]);
    fails(&bed, &[], &["true"], PAUSED);
    let waits = spawn(&bed, "waits", &["exec", "--ignore-paused", &bed.id(), "echo", "resumed"]);
    within(10, "no process was made", || {
        fs::read_to_string(own.join("init/cgroup.procs")).unwrap().lines().count() == 3
    });
    ok(&bed, &["resume", &bed.id()]);
    assert_eq!(waits.end().out, "resumed\n");
    forced(&bed, "own cgroup");
}

/// Whatever namespaces the container has and has not, an exec'd process is in the same ones, at the same root.
#[test]
fn namespaces_and_roots() {
    let mut bed = sleeping("exec-namespaces");
    let every = bed.config["linux"]["namespaces"].clone();
    let mounts = bed.config["mounts"].clone();
    let names = ["pid", "network", "ipc", "uts", "cgroup", "mount"];
    let mut sets: Vec<Vec<&str>> =
        names.iter().map(|without| names.iter().filter(|n| n != &without).copied().collect()).collect();
    sets.extend([vec![], vec!["mount"], vec!["pid"], vec!["pid", "mount"], names.to_vec()]);
    bed.config.as_object_mut().unwrap().remove("hostname");
    bed.config["root"]["readonly"] = json!(false);
    fs::write(bed.dir.join("rootfs/mark"), "the root").unwrap();
    fs::create_dir(bed.dir.join("rootfs/proc")).unwrap();
    for set in sets {
        bed.config["linux"]["namespaces"] = every.clone();
        bed.config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| set.contains(&n["type"].as_str().unwrap()));
        let own_mounts = set.contains(&"mount");
        bed.config["mounts"] = if own_mounts { mounts.clone() } else { json!([]) };
        for key in ["maskedPaths", "readonlyPaths"] {
            bed.config["linux"][key] = json!([]);
        }
        for flags in [&[][..], &["--no-pivot"]] {
            let label = format!("{set:?} {flags:?}");
            let init = bed.detached(flags).to_string();
            let (code, _, err) = bed.exec(&["-d", "--pid-file=exec.pid"], &["sleep", "1000"]);
            assert_eq!((code, err.as_str()), (0, ""), "{label}");
            let pid = fs::read_to_string(bed.dir.join("exec.pid")).unwrap();
            for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
                assert_eq!(of(&pid), of(&init), "{label}: {name}");
                let kind = match name {
                    "net" => "network",
                    "mnt" => "mount",
                    name => name,
                };
                assert_eq!(of(&pid) == of("self"), !set.contains(&kind), "{label}: {name}");
            }
            let root = |pid: &str| {
                let stat = rustix::fs::stat(format!("/proc/{pid}/root/.")).unwrap();
                (stat.st_dev, stat.st_ino)
            };
            assert_eq!(root(&pid), root(&init), "{label}");
            prints(&bed, &[], &["cat", "/mark", "/../../mark"], "the rootthe root");
            prints(&bed, &["--cwd=/bin"], &["sh", "-c", "pwd; cd ../..; pwd; cat mark"], "/bin\n/\nthe root");
            if !own_mounts {
                fails(&bed, &["--cwd=/proc"], &["missing"], "executable file not found");
            }
            forced(&bed, &label);
            let _ = fs::remove_file(bed.dir.join("exec.pid"));
        }
    }
}

#[test]
fn fifty_at_once() {
    let bed = sleeping("exec-fifty");
    let id = bed.id();
    bed.detached(&[]);
    let numbers: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let execs: Vec<_> = numbers
        .iter()
        .map(|n| spawn(&bed, &format!("at-once-{n}"), &["exec", &id, "sh", "-c", &format!("echo {n}; exit {n}")]))
        .collect();
    for (n, exec) in execs.into_iter().enumerate() {
        let done = exec.end();
        assert_eq!((done.code, done.out, done.err.as_str()), (Some(n as i32), format!("{n}\n"), ""));
    }
    assert_eq!((procs(&bed), bed.status().as_str()), (1, "running"));
    let detached: Vec<_> = numbers
        .iter()
        .map(|n| {
            spawn(&bed, &format!("at-once-{n}"), &["exec", "-d", &format!("--pid-file={n}.pid"), &id, "sleep", "1000"])
        })
        .collect();
    for done in detached.into_iter().map(|d| d.end()) {
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    }
    let pids: std::collections::BTreeSet<_> =
        numbers.iter().map(|n| fs::read_to_string(bed.dir.join(format!("{n}.pid"))).unwrap()).collect();
    assert_eq!((pids.len(), procs(&bed)), (50, 51));
    forced(&bed, "fifty");
}
