//! Containers in the pid namespace of another one, as a pod's that share their processes, and in the host's: the end of init is
//! not that of the others there, and who is listed, signalled or killed must be the container's own.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bed::{Bed, Holder, cgroup_of, left_behind, namespace};
use serde_json::{Value, json};

/// Ids of nobody on the host.
const IDS: [u32; 3] = [0, 200_000, 65_536];

/// Whose the pid namespace is, and whether both containers join a user namespace.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shared {
    Host,
    Others,
    OthersInUserNamespace,
}

const ALL: [Shared; 3] = [Shared::Host, Shared::Others, Shared::OthersInUserNamespace];

/// What can be told to end does so.
const SCRIPT: &str = "sleep 1000 & sleep 1001 & exec sleep 1002";

/// A container with a pid namespace, for others to share it or the host's.
struct Pod {
    shared: Shared,
    user: Option<Holder>,
    bed: Bed,
    init: i32,
}

impl Pod {
    fn new(name: &str, shared: Shared) -> Pod {
        let user = (shared == Shared::OthersInUserNamespace).then(|| Holder::new(&["--user"], Some(IDS)));
        let (bed, init) = started(&format!("shared-{name}-{shared:?}"), user.as_ref(), Some("pid"), None);
        Pod { shared, user, bed, init }
    }

    /// One more container, and its init on the host.
    fn other(&self, name: &str) -> (Bed, i32) {
        let path = format!("/proc/{}/ns/pid", self.init).into();
        let joined = (self.shared != Shared::Host).then_some(("pid", path));
        started(&format!("shared-{name}-{:?}-other", self.shared), self.user.as_ref(), None, joined)
    }

    /// It has not been touched: its processes live, it is running, and commands run in it.
    fn is_well(&self, its: &[i32], what: &str) {
        assert!(its.iter().all(|pid| lives(*pid)), "{what}: the other container's processes");
        assert_eq!(self.bed.status(), "running", "{what}");
        assert_eq!(listed(&self.bed), its, "{what}");
        assert_eq!(self.bed.exec(&[], &["echo", "well"]), (0, "well\n".into(), String::new()), "{what}");
    }
}

/// A container with an init and two processes more.
fn started(name: &str, user: Option<&Holder>, new: Option<&str>, joined: Option<(&str, PathBuf)>) -> (Bed, i32) {
    let mut bed = Bed::new(name);
    let new: Vec<&str> = ["mount", "network", "ipc", "uts", "cgroup"].into_iter().chain(new).collect();
    let joined: Vec<_> = user.map(|holder| ("user", holder.file("user"))).into_iter().chain(joined).collect();
    let id = if user.is_some() { IDS[1] } else { 0 };
    bed.namespaces(&new, &joined).own_rootfs(id, id).shell(SCRIPT);
    let init = bed.detached(&[]) as i32;
    let sleeps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with("sleep"));
    until("all have started", || listed(&bed).iter().filter(|pid| sleeps(pid)).count() == 3);
    (bed, init)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process that has not ended; a zombie has.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

fn ok(bed: &Bed, args: &[&str]) -> String {
    let out = bed.tare(args);
    assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn fails(bed: &Bed, args: &[&str], words: &str) {
    let out = bed.tare(args);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && err.contains(words), "{args:?}: not {words:?} but {out:?}");
}

/// The pids on the host, by `ps`.
fn listed(bed: &Bed) -> Vec<i32> {
    serde_json::from_str(&ok(bed, &["ps", "--format", "json", &bed.id()])).unwrap()
}

#[test]
fn ps_exec_and_update() {
    for shared in ALL {
        let pod = Pod::new("use", shared);
        let (bed, init) = pod.other("use");
        let (first, second) = (listed(&pod.bed), listed(&bed));
        assert!(first.contains(&pod.init) && second.contains(&init), "{first:?} {second:?}");
        assert!(!first.iter().any(|pid| second.contains(pid)), "{first:?} {second:?}");
        let (id, ns) = (bed.id(), |pid: i32| namespace(format!("/proc/{pid}/ns/pid")));
        assert_eq!(ns(init) == ns(pod.init), shared != Shared::Host);
        let table = ok(&bed, &["ps", &id, "-eo", "pid,args"]);
        let mut lines: Vec<_> = table.lines().skip(1).map(|line| line.trim().split_once(' ').unwrap()).collect();
        lines.sort_by_key(|(_, args)| *args);
        assert_eq!(
            lines.iter().map(|(_, args)| args.trim()).collect::<Vec<_>>(),
            ["sleep 1000", "sleep 1001", "sleep 1002"]
        );
        assert_eq!(lines[2].0, init.to_string());
        // A command is in the second one's cgroup and mounts, sees the processes of both, and no init but that of the first.
        let script = "cat /proc/1/cmdline | tr '\\0' ' '; echo; cat /proc/self/cgroup | grep ^0; readlink /proc/self/ns/pid; \
                      cat /proc/[0-9]*/cmdline 2>&- | tr '\\0' '\\n' | grep -c '^100[012]$'; echo $$";
        let (code, out, err) = bed.exec(&[], &["sh", "-c", script]);
        assert_eq!((code, err.as_str()), (0, ""), "{shared:?}");
        let seen: Vec<&str> = out.lines().collect();
        assert_eq!((seen[1], seen[2]), ("0::/", ns(init).as_str()), "{shared:?}: {out}");
        assert_ne!(seen[4], "1", "{shared:?}: {out}");
        if shared != Shared::Host {
            assert_eq!((seen[0], seen[3]), ("sleep 1002 ", "6"), "{shared:?}: {out}");
        }
        // One that runs on is the container's, and none of the other's.
        let detached = bed.tare(&["exec", "--detach", "--pid-file", "exec", &id, "sleep", "1003"]);
        assert!(detached.status.success(), "{detached:?}");
        let executed: i32 = fs::read_to_string(bed.dir.join("exec")).unwrap().parse().unwrap();
        assert_eq!(listed(&bed).len(), 4);
        assert!(listed(&bed).contains(&executed) && !listed(&pod.bed).contains(&executed));
        // Limits are of one of them.
        fs::write(bed.dir.join("limits"), json!({"unified": {"cgroup.max.depth": "7"}}).to_string()).unwrap();
        ok(&bed, &["update", "--resources", "limits", &id]);
        let depth = |bed: &Bed| fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.max.depth")).unwrap();
        assert_eq!((depth(&bed).trim(), depth(&pod.bed).trim()), ("7", "max"));
        // Frozen is one of them.
        ok(&bed, &["pause", &id]);
        assert_eq!((bed.status().as_str(), pod.bed.status().as_str()), ("paused", "running"));
        ok(&bed, &["resume", &id]);
        bed.delete();
        until("the command has ended with the container", || !lives(executed));
        pod.is_well(&first, &format!("{shared:?}"));
        bed.nothing_left();
    }
}

/// Whatever ends the container ends all its processes and none of the other's.
#[test]
fn the_end_of_one_of_them() {
    let kill = |words: &[&str]| ["kill"].iter().chain(words).map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let ends: [(&str, Vec<String>); 7] = [
        ("kill", kill(&["ID", "KILL"])),
        ("kill-all", kill(&["--all", "ID", "KILL"])),
        ("kill-all-term", kill(&["--all", "ID", "TERM"])),
        ("frozen", kill(&["ID", "9"])),
        ("frozen-all", kill(&["-a", "ID", "9"])),
        ("delete", ["delete", "--force", "ID"].map(str::to_owned).into()),
        ("delete-frozen", ["delete", "--force", "ID"].map(str::to_owned).into()),
    ];
    for shared in ALL {
        let pod = Pod::new("end", shared);
        let (first, before) = (listed(&pod.bed), left_behind());
        for (name, command) in &ends {
            let (bed, _) = pod.other(name);
            let what = format!("{shared:?}, {name}");
            let second = listed(&bed);
            let id = bed.id();
            if name.contains("frozen") {
                ok(&bed, &["pause", &id]);
            }
            let words: Vec<&str> = command.iter().map(|word| if word == "ID" { id.as_str() } else { word }).collect();
            ok(&bed, &words);
            until(&what, || !second.iter().any(|pid| lives(*pid)));
            if command[0] == "kill" {
                until(&what, || bed.status() == "stopped");
                ok(&bed, &["delete", &id]);
            }
            pod.is_well(&first, &what);
            fails(&bed, &["state", &id], "does not exist");
            bed.nothing_left();
            assert_eq!(left_behind(), before, "{what}");
        }
    }
}

/// Its init has died, while others of its processes live.
#[test]
fn after_init() {
    for shared in ALL {
        let pod = Pod::new("init", shared);
        let first = listed(&pod.bed);
        for end in [&["delete"][..], &["delete", "--force"], &["kill", "--all"], &["kill"]] {
            let (bed, init) = pod.other(&end.join(""));
            let what = format!("{shared:?}, {end:?}");
            let rest: Vec<i32> = listed(&bed).into_iter().filter(|pid| *pid != init).collect();
            let id = bed.id();
            // No other signal goes further than to init.
            ok(&bed, &["kill", &id, "TERM"]);
            until(&what, || !lives(init));
            assert_eq!(bed.status(), "stopped", "{what}");
            assert!(rest.len() == 2 && rest.iter().all(|pid| lives(*pid)), "{what}: it was init alone");
            let state: Value = serde_json::from_str(&ok(&bed, &["state", &id])).unwrap();
            assert_eq!(state["pid"], 0, "{what}");
            let list: Value = serde_json::from_str(&ok(&bed, &["list", "--format", "json"])).unwrap();
            assert_eq!((&list[0]["status"], &list[0]["pid"]), (&json!("stopped"), &json!(0)), "{what}");
            for (args, words) in [
                (&["exec", &id, "true"][..], "cannot exec in a stopped container"),
                (&["ps", &id], "container not running"),
                (&["pause", &id], "container not running"),
                (&["resume", &id], "container not paused"),
                (&["update", "--pids-limit", "5", &id], "container not running"),
                (&["events", "--stats", &id], "container not running"),
                (&["start", &id], "cannot start a container that has stopped"),
                (&["kill", &id, "TERM"], "container not running"),
                (&["kill", &id, "0"], "container not running"),
            ] {
                fails(&bed, args, words);
            }
            assert!(rest.iter().all(|pid| lives(*pid)), "{what}: nobody has ended them");
            match end[0] {
                "delete" => _ = ok(&bed, &[end, &[&id]].concat()),
                _ => {
                    ok(&bed, &[end, &[&id, "KILL"]].concat());
                    until(&what, || !rest.iter().any(|pid| lives(*pid)));
                    assert_eq!(bed.status(), "stopped", "{what}");
                    // Once more is no error: engines do.
                    ok(&bed, &[end, &[&id, "KILL"]].concat());
                    ok(&bed, &["delete", &id]);
                }
            }
            until(&what, || !rest.iter().any(|pid| lives(*pid)));
            pod.is_well(&first, &what);
            bed.nothing_left();
        }
    }
}

/// With the one whose pid namespace it is the other one ends as well.
#[test]
fn the_end_of_the_one_that_is_joined() {
    for shared in [Shared::Others, Shared::OthersInUserNamespace] {
        let pod = Pod::new("joined", shared);
        let (bed, _) = pod.other("joined");
        let second = listed(&bed);
        ok(&pod.bed, &["kill", &pod.bed.id(), "KILL"]);
        until("all have ended", || !second.iter().any(|pid| lives(*pid)));
        assert_eq!(bed.status(), "stopped");
        let id = bed.id();
        // Nobody can get into such a namespace any more.
        fails(&bed, &["exec", &id, "true"], "cannot exec in a stopped container");
        ok(&bed, &["kill", "--all", &id, "KILL"]);
        ok(&bed, &["delete", &id]);
        until("its init has ended, too", || pod.bed.status() == "stopped");
        ok(&pod.bed, &["delete", &pod.bed.id()]);
        bed.nothing_left();
        pod.bed.nothing_left();
    }
}

/// In the foreground: with init the command ends, and the container with all its processes.
#[test]
fn run_ends_with_init() {
    for shared in [Shared::Others, Shared::OthersInUserNamespace] {
        let pod = Pod::new("run", shared);
        let first = listed(&pod.bed);
        let (mut bed, _) = pod.other("run");
        bed.delete();
        bed.shell("sleep 1000 & echo $!; sleep 1001 & exit 7");
        for (code, out, err) in bed.run() {
            assert_eq!((code, out.lines().count()), (7, 1), "{err}");
            bed.nothing_left();
        }
        pod.is_well(&first, "run");
    }
}
