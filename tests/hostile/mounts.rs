//! Where mounts may go, by whatever name.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Arena, WAYS};

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881: whoever writes labels and sysctls
/// relies on what is in /proc. Refused with runc's words.
#[test]
fn nothing_covers_proc_but_proc() {
    let inside = "cannot be mounted because it is inside /proc";
    let table = [
        ("/proc", "cannot be mounted because it is not of type proc"),
        ("/x/../proc/.", "cannot be mounted because it is not of type proc"),
        ("/proc/self/attr", inside),
        ("//proc/./sys/", inside),
        ("/proc/1", inside),
        ("/proc/net/dev", inside), // another process's: runc has it in its list, and refuses it
        ("/proc/../proc/sys/net", inside),
        ("/innocent", inside),
        ("/innocent/net", inside),
    ];
    for (i, (target, words)) in table.into_iter().enumerate() {
        let mut arena = Arena::new(&format!("over-proc-{i}"));
        fs::create_dir_all(arena.bed.dir.join("fake/attr")).unwrap();
        fs::create_dir_all(arena.bed.dir.join("fake/net")).unwrap();
        symlink("proc/sys", arena.rootfs().join("innocent")).unwrap();
        let config = arena.bed.config.clone();
        arena.bind("fake", target).everywhere(|outcome| outcome.refused_with(words));
        arena.bed.config = config;
        arena.mount(json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
        arena.everywhere(|outcome| outcome.refused_with(words));
    }
    // The control: the same mounts next to /proc.
    let mut arena = Arena::new("over-proc-control");
    fs::create_dir_all(arena.bed.dir.join("fake/attr")).unwrap();
    arena.bind("fake", "/process").script("ls /process").everywhere(|outcome| assert_eq!(outcome.ran(), "attr"));
}

/// What lxcfs covers, and runc allows; and a procfs of somebody's.
#[test]
fn what_may_cover_proc() {
    let files = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    let files: Vec<_> = files.into_iter().filter(|f| fs::exists(format!("/proc/{f}")).unwrap()).collect();
    assert!(files.len() > 5, "{files:?}");
    let mut arena = Arena::new("lxcfs");
    fs::write(arena.bed.dir.join("file"), "lxcfs").unwrap();
    arena.bed.config["linux"]["maskedPaths"] = json!([]);
    for file in &files {
        arena.bind("file", &format!("/proc/{file}"));
    }
    arena.script(&format!("for f in {}; do cat /proc/$f; done", files.join(" ")));
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "lxcfs".repeat(files.len())));

    let mut arena = Arena::new("bound-proc");
    arena.bind("/proc", "/proc").script("cat /proc/sys/kernel/ostype");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "Linux"));
}

/// A target, by any name, is where it would be if "/" were the rootfs.
#[test]
fn targets_by_any_name() {
    let mut arena = Arena::new("names");
    symlink("/../../made/by/link", arena.rootfs().join("dangling")).unwrap();
    symlink("dangling", arena.rootfs().join("to-dangling")).unwrap();
    let (long, deep) = ("n".repeat(255), format!("/deep{}", "/d".repeat(2000)));
    let table = [
        ("/../../x", "x"),
        ("/a/../../../b", "b"),
        ("/c/.", "c"),
        ("//d///e//", "d/e"),
        ("/f/./g/..", "f"),
        ("relative", "relative"),
        ("../escaping", "escaping"),
        ("/dätä–目录/🦀", "dätä–目录/🦀"),
        ("/a\nline\tand \u{1b}[31m", "a\nline\tand \u{1b}[31m"),
        ("/-rf/*", "-rf/*"),
        (&format!("/{long}"), &long),
        (&deep, &deep[1..]),
        ("/to-dangling/sub", "made/by/link/sub"),
        // A "..", too, is of the words and not of the links, as with runc.
        ("/dangling/../beside", "beside"),
    ];
    fs::create_dir(arena.bed.dir.join("volume")).unwrap();
    fs::write(arena.bed.dir.join("volume/mark"), "mark").unwrap();
    for (target, place) in table {
        let config = arena.bed.config.clone();
        arena.bind("volume", target);
        arena.bed.config["process"]["args"] =
            json!(["sh", "-c", "cat \"$1/mark\"; echo; echo END; exec sleep 1000", "sh", format!("/{place}")]);
        arena.everywhere(|outcome| assert_eq!(outcome.ran(), "mark", "{target:?}"));
        assert!(arena.rootfs().join(place).is_dir(), "{target:?}");
        arena.bed.config = config;
    }
}

/// Names that lead nowhere are refused in one line, and make nothing on the way that is not in the rootfs.
#[test]
fn targets_that_lead_nowhere() {
    let mut arena = Arena::new("nowhere");
    let rootfs = arena.rootfs();
    fs::write(rootfs.join("file"), "").unwrap();
    for (name, to) in [("a", "b"), ("b", "a"), ("self", "self/self"), ("file-link", "file")] {
        symlink(to, rootfs.join(name)).unwrap();
    }
    let names = ["n".repeat(256), "n".repeat(4096), "p/".repeat(2048), "p/".repeat(40_000)];
    let root = "a mount cannot cover the root of the container";
    let table = [
        ("/", root),
        ("/..", root),
        ("/x/..", root),
        ("/file/x", "ENOTDIR"),
        ("/file", "ENOTDIR"),
        ("/file-link/x\nhint: y", "ENOTDIR"),
        ("/a/x", "ELOOP"),
        ("/self/x", "ELOOP"),
        (&names[0], "ENAMETOOLONG"),
        (&names[1], "ENAMETOOLONG"),
        (&names[2], "ENAMETOOLONG"),
        (&names[3], "ENAMETOOLONG"),
    ];
    fs::create_dir(arena.bed.dir.join("volume")).unwrap();
    for (target, words) in table {
        for typ in ["bind", "tmpfs"] {
            let config = arena.bed.config.clone();
            arena.mount(json!({"destination": target, "type": typ, "source": "volume"}));
            arena.everywhere(|outcome| outcome.refused_with(words));
            arena.bed.config = config;
        }
    }
    let config = arena.bed.config.clone();
    arena.bind("volume", "/data\0/x").everywhere(|outcome| {
        assert!(outcome.refused.as_ref().is_some_and(|r| r.contains("NUL")), "{outcome}");
    });
    arena.bed.config = config;
    // The control: a name that leads somewhere.
    arena.bind("volume", "/data/x").everywhere(|outcome| assert_eq!(outcome.ran(), ""));
}

/// CVE-2021-43784: 65,537 bytes are not 1. All that is as long is refused in whole or used in whole.
#[test]
fn values_of_65537_bytes() {
    let mut arena = Arena::new("long");
    let long = format!("/{}", "x/".repeat(32_768));
    assert_eq!(long.len(), 65_537);
    let word = "x".repeat(65_537);
    let too_long = "ENAMETOOLONG";
    let refused = [
        ("/mounts/0/destination", &long, "mounts[0]", too_long),
        ("/mounts/1/destination", &long, "mounts[1]", too_long),
        ("/mounts/1/options/0", &word, "mounts[1].options", "unknown option"),
        ("/root/path", &long, "root.path", too_long),
        ("/hostname", &word, "hostname", "is longer than"),
        ("/process/cwd", &long, "process.cwd", too_long),
        ("/process/args/0", &long, "process.args", "file name too long"),
        ("/linux/maskedPaths/0", &long, "linux.maskedPaths[0]", too_long),
        ("/linux/readonlyPaths/0", &long, "linux.readonlyPaths[0]", too_long),
        ("/linux/cgroupsPath", &long, "cgroup (", too_long),
        ("/linux/devices/0/path", &long, "linux.devices[0]", too_long),
        ("/linux/sysctl/net.x", &word, "linux.sysctl", too_long),
    ];
    arena.bed.config["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 5}]);
    arena.bed.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    arena.bed.config["linux"]["cgroupsPath"] = json!(format!("/{}", arena.bed.id()));
    arena.script("echo ran").everywhere(|outcome| assert_eq!(outcome.ran(), "ran"));
    for (at, value, field, words) in refused {
        let config = arena.bed.config.clone();
        if at == "/linux/sysctl/net.x" {
            arena.bed.config["linux"]["sysctl"] = json!({format!("net.{value}"): "1"});
        } else {
            *arena.bed.config.pointer_mut(at).unwrap() = json!(value);
        }
        arena.everywhere(|outcome| {
            outcome.refused_with(&format!("tare: {field}"));
            outcome.refused_with(words);
        });
        arena.bed.config = config;
    }
    // Where it may be as long, all of it comes through.
    arena.bed.config["process"]["env"] = json!(["PATH=/bin", format!("LONG={word}")]);
    arena.bed.config["process"]["args"] =
        json!(["sh", "-c", "echo ${#1} ${#LONG}; echo END; exec sleep 1000", "sh", word]);
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "65537 65537"));
}

/// What is mounted in the image's directory is not the image's, and may be what will be masked.
#[test]
fn copy_up_takes_the_images_files_only() {
    let mut arena = Arena::new("copy-up");
    fs::create_dir_all(arena.rootfs().join("run/images")).unwrap();
    fs::write(arena.rootfs().join("run/images/x"), "the image's").unwrap();
    fs::create_dir(arena.bed.dir.join("volume")).unwrap();
    fs::write(arena.bed.dir.join("volume/mark"), "mark").unwrap();
    arena.bind("volume", "/run/volume").bind("volume/mark", "/run/file");
    arena.script("find /run -type f -size +0; cat /run/volume/mark");
    // The control: without the tmpfs all of it is there.
    arena.everywhere(|outcome| {
        let mut found: Vec<_> = outcome.ran().lines().collect();
        found.sort();
        assert_eq!(found, ["/run/file", "/run/images/x", "/run/volume/mark", "mark"], "{outcome}");
    });
    arena.mount(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "/run/images/x"));
}

/// Thousands of directories in each other must not be the end of who copies them.
#[test]
fn copy_up_of_a_deep_tree() {
    let mut arena = Arena::new("copy-deep");
    let mut at = arena.rootfs().join("run");
    fs::create_dir(&at).unwrap();
    for _ in 0..1500 {
        at.push("d");
        fs::create_dir(&at).unwrap();
    }
    arena.mount(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    arena.script("ls /run");
    arena.everywhere(|outcome| match &outcome.refused {
        Some(said) => assert!(said.starts_with("tare: mounts[7] (/run): copy what the image has there: "), "{said}"),
        None => assert_eq!(outcome.ran(), "d"),
    });
}

/// Options that only mount(2) can take go to the same place: the target is a descriptor by then, too.
#[test]
fn an_overlay_with_long_options_behind_a_link() {
    let mut arena = Arena::new("overlay");
    let dir = arena.bed.dir.clone();
    let lower: Vec<_> = (0..8).map(|i| dir.join(format!("{}{i}", "lower".repeat(8)))).collect();
    for lower in &lower {
        fs::create_dir(lower).unwrap();
    }
    fs::write(lower[0].join("mark"), "mark").unwrap();
    for (name, target) in [("out", arena.canary().join("dir")), ("up", "/../../canary".into())] {
        symlink(target, arena.rootfs().join(name)).unwrap();
    }
    let lowerdir: Vec<_> = lower.iter().map(|l| l.display().to_string()).collect();
    let options = json!([format!("lowerdir={}", lowerdir.join(":"))]);
    for target in ["/out", "/up", "/up/sub"] {
        let config = arena.bed.config.clone();
        arena.mount(json!({"destination": target, "type": "overlay", "source": "overlay", "options": options}));
        arena.script(&format!("cat {target}/mark"));
        // The antechamber has none of the host's paths.
        for (way, start) in WAYS {
            assert_eq!(arena.live("clone", way, start).ran(), "mark", "{target}");
        }
        arena.bed.config = config;
    }
}

/// A mount on a link itself, and a link that is copied: neither is followed out of the rootfs.
#[test]
fn mounts_on_links_and_copies_of_links() {
    let mut arena = Arena::new("nofollow");
    let out = arena.canary().join("dir");
    let dir = arena.bed.dir.clone();
    fs::create_dir(dir.join("volume")).unwrap();
    fs::write(dir.join("volume/mark"), "mark").unwrap();
    symlink(&out, arena.rootfs().join("link")).unwrap();
    symlink("/../../canary", arena.rootfs().join("up")).unwrap();
    symlink(out.join("link"), dir.join("source-link")).unwrap();
    let mut mount = |source: &str, target: &str, options: &[&str]| {
        arena.mount(json!({"destination": target, "type": "bind", "source": source, "options": options}));
    };
    mount("volume/mark", "/link", &["bind", "dest-nofollow"]);
    mount("volume", "/up/nofollow", &["bind", "dest-nofollow"]);
    mount("source-link", "/up/copied", &["bind", "copy-symlink"]);
    mount("source-link", "/itself", &["bind", "src-nofollow", "dest-nofollow"]);
    arena.script("cat /canary/nofollow/mark; echo; readlink /canary/copied; cat /canary/copied");
    let want = format!("mark\n{}", out.join("link").display());
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), want));
}
