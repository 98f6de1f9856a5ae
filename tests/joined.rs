//! Namespaces that are new, joined by path or the host's, in all combinations: without a user namespace, with one that is joined
//! as well, and with a new one.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use bed::{Bed, Holder, KINDS, SHOW, left_behind, namespace};
use serde_json::{Value, json};

/// Ids of nobody on the host.
const IDS: [u32; 3] = [0, 200_000, 65_536];
/// Those of another user namespace.
const OTHER_IDS: [u32; 3] = [0, 300_000, 65_536];
const OPTIONS: [&str; 8] = ["--pid", "--net", "--ipc", "--uts", "--cgroup", "--time", "--boottime=1000", "--fork"];

/// Processes whose namespaces are joined, by whose those are.
struct Holders([(&'static str, Holder); 3]);

impl Holders {
    fn new() -> Holders {
        let owned = |ids| Holder::new(&[&["--user"], OPTIONS.as_slice()].concat(), Some(ids));
        Holders([("host", Holder::new(&OPTIONS, None)), ("user", owned(IDS)), ("other", owned(OTHER_IDS))])
    }

    fn file(&self, owner: &str, kind: &str) -> PathBuf {
        // It is always the same user namespace that is joined.
        let owner = if kind == "user" { "user" } else { owner };
        self.0.iter().find(|(name, _)| *name == owner).unwrap().1.file(kind)
    }
}

/// The user namespace that a namespace belongs to, as its file would tell it (ioctl_ns(2)).
#[allow(unsafe_code)]
fn owner(file: &str) -> String {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let file = fs::File::open(file).unwrap();
    // SAFETY: it takes no argument, and returns a new descriptor or -1.
    let user = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_USERNS as _) };
    assert!(user >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: nobody else has it.
    let user = unsafe { OwnedFd::from_raw_fd(user) };
    namespace(format!("/proc/self/fd/{}", user.as_raw_fd()))
}

/// How the container comes to its namespace of each kind, in the order of [`KINDS`]: `new`, `join` or `-`; and whose those are
/// that it joins.
fn run_for_real(bed: &mut Bed, holders: &Holders, hows: [&str; KINDS.len()], owned: &str, config: &Value, exec: bool) {
    let how = |kind: &str| hows[KINDS.iter().position(|(k, _)| *k == kind).unwrap()];
    let kinds = |wanted: &str| KINDS.iter().map(|(k, _)| *k).filter(|k| how(k) == wanted).collect::<Vec<_>>();
    let joined: Vec<_> = kinds("join").iter().map(|kind| (*kind, holders.file(owned, kind))).collect();
    let new: Vec<&str> = kinds("new").into_iter().filter(|kind| *kind != "user").collect();
    bed.config = config.clone();
    bed.namespaces(&new, &joined);
    match how("user") {
        "new" => _ = bed.user_namespace(&[IDS], &[IDS]),
        "join" => _ = bed.own_rootfs(IDS[1], IDS[1]),
        _ => _ = bed.own_rootfs(0, 0),
    }
    if how("time") == "new" {
        bed.config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 500}, "monotonic": {"secs": 7, "nanosecs": 9}});
    }
    // Only root of the user namespace that one belongs to may mount its files and change its name.
    let allowed = |kind: &str| {
        how(kind) == "new" || how(kind) == "join" && (how("user") == "-" || owned == "user" && how("user") == "join")
    };
    let cgroup = allowed("cgroup") || how("cgroup") == "-"; // the host's would be bound
    let mounts = bed.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| (m["type"] != "mqueue" || allowed("ipc")) && (m["type"] != "cgroup" || cgroup));
    if !allowed("uts") {
        bed.config.as_object_mut().unwrap().remove("hostname");
    }
    let mount = how("mount") == "new";
    if !mount {
        bed.config["mounts"] = json!([]);
        bed.config["root"]["readonly"] = json!(false);
        for paths in ["maskedPaths", "readonlyPaths"] {
            bed.config["linux"].as_object_mut().unwrap().remove(paths);
        }
    }
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let ours = |file: &str| namespace(format!("/proc/self/ns/{file}"));
    for tree in if mount { bed.trees() } else { vec!["none"] } {
        let row = format!("{tree}, {hows:?} {owned}");
        let option = format!("--mount-namespace={tree}");
        let options = [option.as_str()];
        let pid = bed.detached(&options[..usize::from(mount)]);
        let file = |name: &str| format!("/proc/{pid}/ns/{name}");
        let user = namespace(file("user"));
        for (kind, name) in KINDS {
            let seen = namespace(file(name));
            match how(kind) {
                "join" => assert_eq!(seen, namespace(holders.file(owned, kind)), "{row}: {kind}"),
                "new" => {
                    let taken = holders.0.iter().any(|(_, holder)| seen == namespace(holder.file(kind)));
                    assert!(seen != ours(name) && !taken, "{row}: {kind} is not new");
                    // Its own user namespace's, so that its root may do there what it has to; the clocks are not to be set.
                    let want = if matches!(kind, "user" | "time") { ours("user") } else { user.clone() };
                    assert_eq!(owner(&file(name)), want, "{row}: whose is {kind}");
                }
                _ => assert_eq!(seen, ours(name), "{row}: {kind}"),
            }
        }
        let offsets = fs::read_to_string(format!("/proc/{pid}/timens_offsets")).unwrap();
        let offsets: Vec<_> = offsets.split_whitespace().collect();
        let want = match how("time") {
            "new" => ["monotonic", "7", "9", "boottime", "500", "0"],
            "join" => ["monotonic", "0", "0", "boottime", "1000", "0"],
            _ => ["monotonic", "0", "0", "boottime", "0", "0"],
        };
        assert_eq!(offsets, want, "{row}");
        // What is executed there is in the same ones.
        if exec {
            let (code, out, err) = bed.exec(&[], if mount { &["sh", "-c", SHOW] } else { &["true"] });
            let all: String = KINDS.iter().map(|(_, name)| namespace(file(name)) + "\n").collect();
            assert_eq!((code, out), (0, if mount { all } else { String::new() }), "{row}: {err}");
        }
        bed.delete();
        bed.nothing_left();
    }
}

/// The rows that the unit test of src/plan/namespaces.rs has, too.
#[test]
fn every_row_of_the_table() {
    let holders = Holders::new();
    let mut bed = Bed::new("joined-table");
    let config = bed.config.clone();
    let before = left_behind();
    let rows = include_str!("data/namespaces.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for row in rows.skip(1) {
        let cells: Vec<&str> = row.split_whitespace().map(|cell| cell.split(':').next().unwrap()).collect();
        let (owned, hows) = cells.split_last().unwrap();
        run_for_real(&mut bed, &holders, hows.try_into().unwrap(), owned, &config, true);
        count += 1;
    }
    assert!(count >= 40, "{count} rows");
    assert_eq!(left_behind(), before);
}

/// Every subset of the other kinds is joined, the rest is new.
fn every_subset(user: &'static str, owned: &str) {
    let holders = Holders::new();
    let mut bed = Bed::new(&format!("joined-subsets-{user}"));
    let config = bed.config.clone();
    for chosen in 0..1 << 6 {
        let mut hows = [user, "new", "", "", "", "", "", ""];
        for (i, how) in hows[2..].iter_mut().enumerate() {
            *how = if chosen & 1 << i != 0 { "join" } else { "new" };
        }
        run_for_real(&mut bed, &holders, hows, owned, &config, false);
    }
}

#[test]
fn subsets_without_a_user_namespace() {
    every_subset("-", "host");
}

#[test]
fn subsets_with_a_joined_user_namespace() {
    every_subset("join", "user");
}

#[test]
fn subsets_with_a_new_user_namespace() {
    every_subset("new", "host");
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
