//! Namespaces that are joined by path: without a user namespace, with one that is joined as well, and with a new one.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::path::PathBuf;

use bed::{Bed, Holder, KINDS, SHOW, namespace};
use serde_json::json;

/// Ids of nobody on the host.
const IDS: [u32; 3] = [0, 200_000, 65_536];
const OTHERS: [&str; 6] = ["pid", "network", "ipc", "uts", "cgroup", "time"];
const OPTIONS: [&str; 8] = ["--pid", "--net", "--ipc", "--uts", "--cgroup", "--time", "--boottime=1000", "--fork"];

/// Where the user namespace is from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum User {
    None,
    Joined,
    New,
}

/// Every subset of the other kinds is joined, the rest is new, with each way to make the mount namespace.
fn every_subset(user: User) {
    let owner: &[&str] = if user == User::Joined { &["--user"] } else { &[] };
    let holder = Holder::new(&[owner, &OPTIONS].concat(), (user == User::Joined).then_some(IDS));
    let mut bed = Bed::new(&format!("joined-{user:?}"));
    let config = bed.config.clone();
    for chosen in 0..1 << OTHERS.len() {
        let is = |i: &usize| chosen & 1 << i != 0;
        let mut kinds: Vec<&str> = (0..OTHERS.len()).filter(is).map(|i| OTHERS[i]).collect();
        let new: Vec<&str> = (0..OTHERS.len()).filter(|i| !is(i)).map(|i| OTHERS[i]).chain(["mount"]).collect();
        kinds.extend((user == User::Joined).then_some("user"));
        let joined: Vec<(&str, PathBuf)> = kinds.iter().map(|kind| (*kind, holder.file(kind))).collect();
        bed.config = config.clone();
        bed.namespaces(&new, &joined);
        match user {
            User::None => _ = bed.own_rootfs(0, 0),
            User::Joined => _ = bed.own_rootfs(IDS[1], IDS[1]),
            User::New => _ = bed.user_namespace(&[IDS], &[IDS]),
        }
        if user == User::New && kinds.contains(&"ipc") {
            // The kernel lets only who owns the ipc namespace mount its queues.
            bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "mqueue");
        }
        if user == User::New && kinds.contains(&"cgroup") {
            bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup");
        }
        // The name of the one that is joined would be changed, too; here it may be, elsewhere it may not.
        if user == User::New && kinds.contains(&"uts") {
            bed.config.as_object_mut().unwrap().remove("hostname");
        }
        bed.shell(SHOW);
        for (tree, out) in bed.trees().iter().zip(bed.prints()) {
            let seen: Vec<&str> = out.lines().collect();
            for (i, (kind, file)) in KINDS.iter().enumerate() {
                let what = format!("{tree}, {user:?}, joined {kinds:?}: {kind}");
                if kinds.contains(kind) {
                    assert_eq!(seen[i], namespace(holder.file(kind)), "{what}");
                } else {
                    let fresh = seen[i] != namespace(format!("/proc/self/ns/{file}"));
                    assert_eq!(fresh, *kind != "user" || user == User::New, "{what}");
                    let held = seen[i] == namespace(holder.file(kind));
                    assert!(!held || *kind == "user", "{what}");
                }
            }
        }
        bed.nothing_left();
    }
}

#[test]
fn without_a_user_namespace() {
    every_subset(User::None);
}

#[test]
fn with_a_joined_user_namespace() {
    every_subset(User::Joined);
}

#[test]
fn with_a_new_user_namespace() {
    every_subset(User::New);
}

#[test]
fn what_is_none_is_refused_by_its_path() {
    let mut bed = Bed::new("joined-wrong");
    bed.shell("true");
    fs::write(bed.dir.join("file"), "").unwrap();
    let own = |name: &str| PathBuf::from(format!("/proc/self/ns/{name}"));
    for (path, words) in [
        (own("uts"), ["another kind", "NEWUTS"]),
        (bed.dir.join("file"), ["it is no namespace", "file"]),
        (bed.dir.clone(), ["it is no namespace", ""]),
        (bed.dir.join("missing"), ["ENOENT", "missing"]),
    ] {
        bed.namespaces(&["mount", "pid", "ipc", "uts"], &[("network", path.clone())]);
        bed.refused(&[&["linux.namespaces[4].path ("], words.as_slice()].concat());
        // The same where a gate would join it.
        bed.user_namespace(&[IDS], &[IDS]);
        bed.refused(&[&["linux.namespaces[4].path ("], words.as_slice()].concat());
        for list in ["uidMappings", "gidMappings"] {
            bed.config["linux"].as_object_mut().unwrap().remove(list);
        }
        bed.own_rootfs(0, 0);
    }
}

#[test]
fn the_hosts_own_is_not_changed() {
    let mut bed = Bed::new("joined-host");
    bed.shell("true");
    let own = |name: &str| PathBuf::from(format!("/proc/self/ns/{name}"));
    let host = |file: &str| fs::read_to_string(format!("/proc/sys/{file}")).unwrap();
    let before = (host("kernel/hostname"), host("kernel/domainname"), host("kernel/shmmni"));
    for (field, kind, file, key, value) in [
        ("hostname", "uts", "uts", "", json!("changed")),
        ("domainname", "uts", "uts", "", json!("changed")),
        ("linux.sysctl", "uts", "uts", "kernel.domainname", json!("changed")),
        ("linux.sysctl", "ipc", "ipc", "kernel.shmmni", json!("5")),
        ("linux.sysctl", "network", "net", "net.ipv4.ip_forward", json!("1")),
    ] {
        bed.config.as_object_mut().unwrap().remove("hostname");
        bed.config.as_object_mut().unwrap().remove("domainname");
        bed.config["linux"]["sysctl"] = json!({});
        bed.namespaces(&["mount"], &[(kind, own(file))]);
        bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "mqueue");
        // Nothing is asked for, so there is nothing to be refused.
        bed.prints();
        match key {
            "" => bed.config[field] = value,
            key => bed.config["linux"]["sysctl"][key] = value,
        }
        let words = format!("not allowed in the host's {kind} namespace");
        bed.refused(&[field, key, &words, "linux.namespaces[1].path"]);
    }
    assert_eq!((host("kernel/hostname"), host("kernel/domainname"), host("kernel/shmmni")), before);
}
