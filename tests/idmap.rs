//! Idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP): who owns what inside, and who owns on the host what is made inside.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use bed::{Bed, Holder};
use serde_json::{Value, json};

/// Ids of nobody on the host.
const IDS: [u32; 3] = [0, 200_000, 65_536];
/// Whose the files are.
const OWNER: [u32; 2] = [1000, 2000];
/// Who they belong to where the owner is not mapped (/proc/sys/kernel/overflowuid).
const NOBODY: [u32; 2] = [65_534, 65_534];

/// Three file systems in each other, on a host of the bed's own. Which file system /tmp has we do not know; tmpfs can be
/// idmapped since Linux 6.3.
fn with_data(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.own_host();
    bed.on_host(&format!(
        "mkdir data rootfs/data; mount -t tmpfs data data; mkdir data/sub; mount -t tmpfs sub data/sub; \
         mkdir data/sub/deep; mount -t tmpfs deep data/sub/deep; touch data/file data/sub/file data/sub/deep/file; \
         chown -R {}:{} data; chmod 777 data data/sub data/sub/deep",
        OWNER[0], OWNER[1]
    ));
    bed
}

/// Mounts it; `own` are the mount's own mappings of users and groups: in the file system, on the host, count.
fn mount_data(bed: &mut Bed, kind: &str, option: &str, own: Option<[[u32; 3]; 2]>) {
    let options: Vec<&str> = [kind, option].into_iter().filter(|o| !o.is_empty()).collect();
    let source = bed.dir.join("data");
    bed.mount("/data", "bind", source, &options);
    if let Some(maps) = own {
        set_own(last(bed), maps);
    }
}

fn set_own(mount: &mut Value, maps: [[u32; 3]; 2]) {
    for (field, [inside, outside, count]) in ["uidMappings", "gidMappings"].iter().zip(maps) {
        mount[field] = json!([{"containerID": inside, "hostID": outside, "size": count}]);
    }
}

fn last(bed: &mut Bed) -> &mut Value {
    bed.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()
}

/// Where the container's user namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum User {
    No,
    New,
    Joined,
    /// With its mappings in config.json, as engines send them.
    JoinedMapped,
}

fn set_user(bed: &mut Bed, user: User, holder: &Holder) {
    match user {
        User::No => _ = bed.own_rootfs(0, 0),
        User::New => _ = bed.user_namespace(&[IDS], &[IDS]),
        User::Joined | User::JoinedMapped => {
            let new = ["mount", "pid", "network", "ipc", "uts", "cgroup"];
            bed.namespaces(&new, &[("user", holder.file("user"))]).own_rootfs(IDS[1], IDS[1]);
            if user == User::JoinedMapped {
                bed.mappings(&[IDS], &[IDS]);
            }
        }
    }
}

fn pair(ids: [u32; 2]) -> String {
    format!("{}:{}", ids[0], ids[1])
}

#[test]
fn owners_inside_and_on_the_host() {
    use User::{Joined, JoinedMapped, New, No};
    let holder = Holder::new(&["--user"], Some(IDS));
    // What leads to ids on the host, to ids of the user namespace, and all of it as it is.
    let plain = Some([[1000, 7, 1], [2000, 8, 1]]);
    let pod = Some([[1000, IDS[1] + 7, 1], [2000, IDS[1] + 8, 1]]);
    let whole = Some([IDS, IDS]);
    let root = Some([IDS[1], IDS[1]]);
    // The user namespace, the mount's own mappings and its option; whose the files are inside, and whose on the host is what
    // is made inside, by who they belong to or else by root.
    let table = [
        (No, None, "", OWNER, Some(OWNER)),
        (No, plain, "", [7, 8], Some(OWNER)),
        (No, plain, "idmap", [7, 8], Some(OWNER)),
        (No, plain, "ridmap", [7, 8], Some(OWNER)),
        (No, None, "idmap=uids=1000-7-1;gids=2000-8-1", [7, 8], Some(OWNER)),
        (No, None, "ridmap=gids=2000-8-1;uids=1000-7-1", [7, 8], Some(OWNER)),
        (No, None, "idmap=uids=0-100000-10#1000-7-1;gids=0-0-8#2000-8-1", [7, 8], Some(OWNER)),
        (No, None, "idmap=uids=1000-7-1;gids=0-100-10", [7, NOBODY[1]], None),
        (No, None, "idmap=uids=0-100-10;gids=0-100-10", NOBODY, None),
        (New, None, "", NOBODY, root),
        (New, pod, "", [7, 8], Some(OWNER)),
        (New, pod, "idmap", [7, 8], Some(OWNER)),
        (New, pod, "ridmap", [7, 8], Some(OWNER)),
        (New, whole, "", OWNER, Some(OWNER)),
        (New, None, "idmap", OWNER, Some(OWNER)),
        (New, None, "ridmap", OWNER, Some(OWNER)),
        (New, None, "idmap=uids=1000-200007-1;gids=2000-200008-1", [7, 8], Some(OWNER)),
        (New, None, "ridmap=uids=0-200000-1001;gids=0-200000-2001", OWNER, Some(OWNER)),
        // Relative to the container's user namespace.
        (New, None, "idmap=uids=@1000-7-1;gids=@2000-8-1", [7, 8], Some(OWNER)),
        (New, None, "ridmap=uids=@0-1-1#@1000-7-1;gids=2000-200008-1", [7, 8], Some(OWNER)),
        // To ids of the host that are none in there.
        (New, plain, "", NOBODY, None),
        (Joined, None, "", NOBODY, root),
        (Joined, pod, "", [7, 8], Some(OWNER)),
        (Joined, pod, "ridmap", [7, 8], Some(OWNER)),
        (Joined, whole, "idmap", OWNER, Some(OWNER)),
        (Joined, None, "idmap=uids=1000-200007-1;gids=2000-200008-1", [7, 8], Some(OWNER)),
        (JoinedMapped, None, "", NOBODY, root),
        (JoinedMapped, None, "idmap", OWNER, Some(OWNER)),
        (JoinedMapped, None, "ridmap", OWNER, Some(OWNER)),
        (JoinedMapped, None, "idmap=uids=@1000-7-1;gids=@2000-8-1", [7, 8], Some(OWNER)),
        (JoinedMapped, pod, "", [7, 8], Some(OWNER)),
    ];
    let mut bed = with_data("idmap-owners");
    let config = bed.config.clone();
    for (user, own, option, inside, made) in table {
        for kind in ["bind", "rbind"] {
            let row = format!("{user:?}, {own:?}, {kind} {option}");
            bed.config = config.clone();
            set_user(&mut bed, user, &holder);
            mount_data(&mut bed, kind, option, own);
            let who = if inside.contains(&NOBODY[0]) { [0, 0] } else { inside };
            bed.config["process"]["user"] = json!({"uid": who[0], "gid": who[1]});
            bed.shell(
                "cd /data; for file in file sub/file sub/deep/file; do stat -c %u:%g $file 2>&- || echo none; done; \
                 echo > made-$(cat /proc/sys/kernel/random/uuid) && echo made",
            );
            let below = match (kind, user) {
                ("bind", _) => "none".into(),
                _ if option.starts_with("ridmap") => pair(inside),
                (_, No) => pair(OWNER),
                _ => pair(NOBODY),
            };
            let done = if made.is_some() { "made\n" } else { "" };
            let want = format!("{}\n{below}\n{below}\n{done}", pair(inside));
            for (tree, (code, out, err)) in bed.trees().iter().zip(bed.run()) {
                assert_eq!((out.as_str(), code == 0), (want.as_str(), made.is_some()), "{row}, {tree}: {err}");
                assert_eq!(err.contains("Value too large"), made.is_none(), "{row}, {tree}: {err}");
            }
            let owners = bed.on_host("find data -name 'made-*' -exec stat -c %u:%g {} + -exec rm {} +");
            let owners: Vec<&str> = owners.lines().collect();
            let want: Vec<String> = made.iter().flat_map(|o| vec![pair(*o); bed.trees().len()]).collect();
            assert_eq!(owners, want, "{row}");
        }
    }
    bed.nothing_left();
}

#[test]
fn one_file_and_what_exec_sees() {
    let holder = Holder::new(&["--user"], Some(IDS));
    for user in [User::No, User::New, User::Joined] {
        let mut bed = with_data(&format!("idmap-life-{user:?}"));
        set_user(&mut bed, user, &holder);
        let base = if user == User::No { 0 } else { IDS[1] };
        let source = bed.dir.join("data/sub/file");
        bed.mount("/one", "bind", source, &["bind"]);
        let maps = [[OWNER[0], base + 7, 1], [OWNER[1], base + 8, 1]];
        set_own(last(&mut bed), maps);
        // A relative source counts from the bundle.
        bed.mount("/data", "bind", "data", &["rbind", "ro", "ridmap"]);
        set_own(last(&mut bed), maps);
        bed.config["process"]["args"] = json!(["sleep", "1000"]);
        for tree in bed.trees() {
            let before = bed.host_mounts();
            bed.detached(&[&format!("--mount-namespace={tree}")]);
            let script = "stat -c %u:%g /one /data/file /data/sub/deep/file; echo > /one && echo > /data/x";
            let (code, out, err) = bed.exec(&["--user", "7:8"], &["sh", "-c", script]);
            assert_eq!((code, out.as_str()), (1, "7:8\n7:8\n7:8\n"), "{user:?}, {tree}: {err}");
            assert!(err.contains("/data/x: Read-only file system"), "{user:?}, {tree}: {err}");
            bed.delete();
            assert_eq!(bed.host_mounts(), before, "{user:?}, {tree}");
        }
        // On the host nothing has changed.
        assert_eq!(bed.on_host("stat -c %u:%g:%s data/sub/file"), format!("{}:1\n", pair(OWNER)));
        bed.nothing_left();
    }
}

#[test]
fn new_file_systems() {
    let mut bed = Bed::new("idmap-new");
    let config = bed.config.clone();
    // The ids in the options are those in the file system.
    let options = ["mode=755", "uid=1000", "gid=2000"];
    for (user, own, option, inside) in [
        (false, None, "idmap=uids=1000-7-1;gids=2000-8-1", [7, 8]),
        (false, Some([[1000, 7, 1], [2000, 8, 1]]), "", [7, 8]),
        (false, None, "idmap=uids=0-7-1;gids=2000-8-1", [NOBODY[0], 8]),
        (true, None, "idmap", OWNER),
        (true, None, "ridmap=uids=@1000-7-1;gids=@2000-8-1", [7, 8]),
        (true, Some([IDS, IDS]), "idmap", OWNER),
    ] {
        bed.config = config.clone();
        bed.own_rootfs(0, 0);
        if user {
            bed.user_namespace(&[IDS], &[IDS]);
        }
        let words: Vec<&str> = options.iter().copied().chain([option]).filter(|o| !o.is_empty()).collect();
        bed.mount("/scratch", "tmpfs", "tmpfs", &words);
        if let Some(maps) = own {
            set_own(last(&mut bed), maps);
        }
        let mapped = inside[0] != NOBODY[0];
        bed.config["process"]["user"] = json!({"uid": inside[0], "gid": inside[1]});
        bed.shell("stat -c '%u:%g %a' /scratch; echo > /scratch/x; stat -c %u:%g /scratch/x");
        for (code, out, err) in bed.run() {
            let made = if mapped { format!("{}\n", pair(inside)) } else { String::new() };
            assert_eq!((code == 0, out), (mapped, format!("{} 755\n{made}", pair(inside))), "{option}: {err}");
        }
        bed.nothing_left();
    }
}

#[test]
fn what_cannot_be_idmapped_says_so() {
    let mut bed = with_data("idmap-cannot");
    bed.shell("true");
    bed.on_host("mkdir up data/lower data/upper data/work; ln -s file data/link; mount -t proc proc up");
    let config = bed.config.clone();
    let dir = bed.dir.clone();
    let field = format!("mounts[{}] (/there): ", config["mounts"].as_array().unwrap().len());
    let at = |name: &str| dir.join(name).display().to_string();
    let layers = ["lower", "upper", "work"].map(|layer| format!("{layer}dir={}", at(&format!("data/{layer}"))));
    let (proc, link, data) = (at("up"), at("data/link"), at("data"));
    let kernel = ["EINVAL", "knows no idmapped mounts"];
    let tare = ["this mount cannot be idmapped", ""];
    let table: [(&str, &str, &[&str], [&str; 2]); 12] = [
        ("proc", "proc", &[], tare),
        ("sysfs", "sysfs", &[], tare),
        ("devpts", "devpts", &[], tare),
        ("mqueue", "mqueue", &[], tare),
        ("cgroup", "cgroup", &[], tare),
        ("", "", &["remount"], tare),
        ("bind", &proc, &["bind"], kernel),
        ("bind", &proc, &["rbind"], kernel),
        ("bind", "/sys", &["bind"], kernel),
        ("bind", "/dev/pts", &["bind"], kernel),
        ("overlay", "overlay", &layers.each_ref().map(String::as_str), kernel),
        ("bind", &link, &["bind", "copy-symlink"], ["a symbolic link cannot be idmapped", ""]),
    ];
    for (typ, source, options, words) in table {
        for idmap in ["", "idmap", "ridmap", "idmap=uids=0-7-1;gids=0-8-1"] {
            bed.config = config.clone();
            // /proc may only be mounted on /proc, which would be its words then.
            bed.mount("/there", typ, source, &[options, &[idmap]].concat());
            if !idmap.contains('=') {
                set_own(last(&mut bed), [[0, 7, 1], [0, 8, 1]]);
            }
            last(&mut bed)["options"].as_array_mut().unwrap().retain(|o| o != "");
            bed.refused(&[&[field.as_str()], words.as_slice()].concat());
        }
    }
    // A file system that can be, with one below it that cannot: alone it is mapped, with all below it is refused.
    bed.config = config.clone();
    bed.on_host("mount -t proc proc data/sub/deep");
    bed.mount("/there", "bind", &data, &["rbind", "idmap=uids=1000-7-1;gids=2000-8-1"]);
    bed.shell("stat -c %u:%g /there/file; [ -e /there/sub/deep/self ]");
    assert_eq!(bed.prints(), vec!["7:8\n"; bed.trees().len()]);
    last(&mut bed)["options"] = json!(["rbind", "ridmap=uids=1000-7-1;gids=2000-8-1"]);
    bed.refused(&[&field, "AT_RECURSIVE", kernel[0], kernel[1]]);
}

/// A runtime in a container to which a folder was given as an idmapped mount: such a mount cannot be mapped once more.
#[test]
fn what_is_idmapped_already() {
    let mut outer = with_data("idmap-outer");
    outer.on_host("mkdir mapped");
    let (data, mapped) = (outer.dir.join("data"), outer.dir.join("mapped"));
    // The host, and that mount.
    outer.config["root"] = json!({"path": "/"});
    outer.config["mounts"] = json!([]);
    outer.config["linux"] = json!({});
    outer.config["process"]["args"] = json!(["sleep", "1000"]);
    outer.config.as_object_mut().unwrap().remove("hostname");
    outer.namespaces(&["mount"], &[]);
    outer.mount(mapped.to_str().unwrap(), "bind", &data, &["bind", "idmap=uids=1000-7-1;gids=2000-8-1"]);
    let pid = outer.detached(&[]);

    let mut bed = Bed::new("idmap-twice");
    let enter = ["nsenter", "--mount", &format!("--target={pid}"), &format!("--wdns={}", bed.dir.display())];
    bed.through = enter.map(str::to_owned).into();
    bed.mount("/there", "bind", &mapped, &["bind"]);
    bed.shell("stat -c %u:%g /there/file");
    let field = format!("mounts[{}] (/there): ", bed.config["mounts"].as_array().unwrap().len() - 1);
    let run = |bed: &Bed| {
        let out = bed.tare(&["run", &bed.id()]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    assert_eq!(run(&bed), (Some(0), "7:8\n".into(), String::new()));
    set_own(last(&mut bed), [[7, 5, 1], [8, 6, 1]]);
    let (code, out, err) = run(&bed);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!([&field, "EPERM", "idmapped already"].iter().all(|w| err.contains(*w)), "{err}");
    bed.nothing_left();
}

#[test]
fn wrong_mappings_are_refused_before_anything_is_touched() {
    let holder = Holder::new(&["--user"], Some(IDS));
    let mut bed = with_data("idmap-wrong");
    bed.shell("true");
    let config = bed.config.clone();
    let map = |inside: u32, outside: u32, count: u32| json!({"containerID": inside, "hostID": outside, "size": count});
    let good = json!([map(0, 0, 10)]);
    let both = "needs mappings of users and of groups";
    let beyond = "is empty, or beyond the last id";
    let none = "there are no mappings";
    use User::{Joined, New, No};
    let own = |uids: &Value, gids: &Value| Some((uids.clone(), gids.clone()));
    let table = [
        (No, None, "idmap", none),
        (No, None, "ridmap", none),
        (Joined, None, "idmap", none),
        (No, None, "idmap=", "is no mapping"),
        (No, None, "idmap=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0-1", "is no mapping"),
        (No, None, "idmap=uids=0-1-2-3;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0-1-x;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0--1-2;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0-1-2##3-4-5;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0-4294967296-1;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=pids=0-1-2;gids=0-1-2", "is no mapping"),
        (No, None, "ridmap=uids=@0-1-2;gids=0-1-2", "is no mapping"),
        (New, None, "ridmap=uids=@0-65536-1;gids=0-1-2", "is no mapping"),
        (No, None, "idmap=uids=0-1-2", both),
        (No, None, "ridmap=gids=0-1-2", both),
        (No, None, "idmap=uids=0-1-0;gids=0-1-2", beyond),
        (No, None, "idmap=uids=0-1-2;gids=0-4294967295-2", beyond),
        (New, None, "idmap=uids=@0-1-4294967295;gids=0-1-2", beyond),
        (No, own(&good, &json!([])), "", both),
        (No, own(&json!([]), &good), "idmap", both),
        (New, own(&good, &json!(null)), "ridmap", both),
        (No, own(&good, &json!([map(0, 0, 10), map(20, 20, 0)])), "", beyond),
        (No, own(&json!([map(0, u32::MAX, 2)]), &good), "", beyond),
        (No, own(&json!([map(u32::MAX, 0, 2)]), &good), "ridmap", beyond),
        (No, own(&good, &json!([map(0, 0, 10), map(9, 20, 1)])), "", "overlap"),
        (New, own(&json!([map(0, 0, 10), map(20, 9, 1)]), &good), "ridmap", "overlap"),
        (No, None, "idmap=uids=0-1-2#1-10-1;gids=0-1-2", "overlap"),
        (No, own(&(0..341).map(|n| map(n, n, 1)).collect(), &good), "", "at most 340"),
    ];
    for (user, own, option, words) in table {
        bed.config = config.clone();
        set_user(&mut bed, user, &holder);
        mount_data(&mut bed, "rbind", option, None);
        if let Some((uids, gids)) = own {
            last(&mut bed)["uidMappings"] = uids;
            last(&mut bed)["gidMappings"] = gids;
        }
        let field = format!("mounts[{}] (/data): ", bed.config["mounts"].as_array().unwrap().len() - 1);
        let mapped = bed.config["mounts"].as_array().unwrap().last().unwrap().to_string();
        for (code, out, err) in bed.run() {
            assert!(code == 1 && out.is_empty(), "{mapped}: {code} {out}{err}");
            assert!(
                err.starts_with(&format!("tare: {field}")) && err.contains(words),
                "not {words:?}: {mapped}: {err}"
            );
        }
        bed.nothing_left();
        // By the plan alone, which touches nothing; whether ranges overlap the kernel knows.
        let plan = bed.tare(&["plan", &bed.id()]);
        let by_kernel = ["overlap", "at most 340"].contains(&words);
        assert_eq!(plan.status.success(), by_kernel, "{mapped}: {plan:?}");
    }
}
