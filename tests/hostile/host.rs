//! What of the host's could be within reach: devices, cgroups, mounts.

use std::fs;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use serde_json::json;

use crate::bed::{self, Bed};
use crate::harness::{Arena, WAYS, host_mounts, take_the_hosts_mounts};

/// A character device that the host can open and no default rule allows.
fn forbidden_device() -> (u32, u32) {
    let default = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    let usable = |path: &Path| {
        let stat = rustix::fs::stat(path).ok()?;
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opens = || rustix::fs::open(path, flags, Mode::empty()).is_ok();
        (char && number.0 != 136 && number.0 != 4 && !default.contains(&number) && opens()).then_some(number)
    };
    let found = fs::read_dir("/dev").unwrap().flatten().find_map(|entry| usable(&entry.path()));
    found.expect("this test needs a device that the host can open, as /dev/fuse or /dev/loop-control")
}

/// GHSA-g54h-m393-cpwq: no rule at all is no permission at all.
#[test]
fn an_empty_list_of_devices_allows_none() {
    let mut arena = Arena::new("devices");
    let (major, minor) = forbidden_device();
    for set in ["bounding", "effective", "permitted"] {
        arena.bed.config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
    }
    arena.script(&format!("mknod /dev/x c {major} {minor}; true < /dev/x && echo opened"));
    let resources = [json!({"devices": []}), json!({}), json!(null), json!({"devices": null})];
    for resources in resources {
        arena.bed.config["linux"]["resources"] = resources.clone();
        arena.everywhere(|outcome| {
            assert_eq!(outcome.ran(), "", "{resources}: {outcome}");
            assert!(outcome.stderr.contains("/dev/x: Operation not permitted"), "{resources}: {outcome}");
        });
    }
    // The control: allowed, it can be opened.
    let rule = json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rm"});
    arena.bed.config["linux"]["resources"] = json!({"devices": [rule]});
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "opened"));
}

/// CVE-2023-25809, as far as it goes without user namespaces: without a cgroup namespace the host's cgroups are in
/// sight, and read-only where config.json says so (as `spec` and every engine do).
#[test]
fn the_cgroups_without_a_cgroup_namespace() {
    let mut arena = Arena::new("cgroupfs");
    let namespaces = arena.bed.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "cgroup");
    let id = arena.bed.id();
    arena.script(&format!(
        "cd /sys/fs/cgroup/{id} && mkdir x 2>&1; echo 0 2>&1 > /sys/fs/cgroup/{id}/cgroup.procs; ls -d x; rmdir x"
    ));
    let cgroup = |arena: &mut Arena, options| {
        arena.without_mounts(&["/sys/fs/cgroup"]);
        arena.mount(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options,
        }));
    };
    cgroup(&mut arena, json!(["nosuid", "noexec", "nodev", "relatime", "ro"]));
    arena.everywhere(|outcome| {
        let lines: Vec<_> = outcome.ran().lines().collect();
        assert_eq!(lines.len(), 2, "{outcome}");
        assert!(lines.iter().all(|l| l.ends_with(": Read-only file system")), "{outcome}");
    });
    // The control: the same place, not read-only. Its mount's flags are not the host's own.
    cgroup(&mut arena, json!(["nosuid", "noexec", "nodev", "relatime"]));
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "x"));
}

/// Who may write to its own cgroup cannot make it one that stays.
#[test]
fn cgroups_made_inside_go_with_the_container() {
    let mut arena = Arena::new("cgroups");
    arena.without_mounts(&["/sys/fs/cgroup"]);
    arena.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}));
    let deep = "/d".repeat(30);
    let table = [
        // Cgroups in each other, with a process in the last.
        format!("mkdir -p a{deep}; sleep 1000 & echo $! > a{deep}/cgroup.procs; wc -l < a{deep}/cgroup.procs"),
        // One that is frozen, with somebody in it.
        "mkdir f; sleep 1000 & echo $! > f/cgroup.procs; echo 1 > f/cgroup.freeze; wc -l < f/cgroup.procs".into(),
        // One of threads, which has no cgroup.kill.
        "mkdir t; echo threaded > t/cgroup.type; sleep 1000 & echo $! > t/cgroup.threads; wc -l < t/cgroup.threads"
            .into(),
        // Names like the kernel's own, as far as it allows them.
        "mkdir x.procs ./-rf 'a b' '*'; sleep 1000 & echo $! > '*/cgroup.procs'; wc -l < '*/cgroup.procs'".into(),
    ];
    for script in table {
        arena.script(&format!("cd /sys/fs/cgroup; {script}"));
        // `live` looks for what is left.
        arena.everywhere(|outcome| assert_eq!(outcome.ran(), "1", "{outcome}"));
    }
}

/// A caller in a mount namespace of its own, which another CPU has made: Linux 6.18 may refuse to bind the antechamber then,
/// and each container left a mount more on the host. (That it is made nevertheless, if the caller may use both CPUs, is
/// what `harness` relies on.)
#[test]
fn an_antechamber_that_cannot_be_bound() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(4).collect();
    let only = |cpu: &usize| {
        let mut one = CpuSet::new();
        one.set(*cpu);
        sched_setaffinity(None, &one).unwrap();
    };
    for (namespaces, runtimes) in cpus.iter().flat_map(|a| cpus.iter().map(move |b| (a, b))) {
        only(namespaces);
        take_the_hosts_mounts();
        only(runtimes);
        let mut bed = Bed::new(&format!("hostile-young-{namespaces}-{runtimes}"));
        bed.shell("echo ran");
        let before = host_mounts();
        for _ in 0..3 {
            let out = bed.tare(&["run", &bed.id()]);
            assert_eq!(out.stdout, b"ran\n", "{out:?}");
        }
        let after = host_mounts();
        let new: Vec<_> = after.lines().filter(|l| !before.contains(l)).collect();
        assert!(new.len() <= 1 && new.iter().all(|l| l.contains("/antechamber/mnt ")), "{new:?}");
    }
}

/// runc 1.5.3: a container without a mount namespace of its own leaves the host's mounts, and their propagation, alone.
/// (All mounts are shared here, see `harness`; `live` compares them.)
#[test]
fn no_mount_namespace() {
    let mut arena = Arena::new("no-mounts");
    arena.bed.config["linux"] = json!({"namespaces": [{"type": "pid"}]});
    arena.bed.config["mounts"] = json!([]);
    arena.bed.config.as_object_mut().unwrap().remove("hostname");
    arena.script("ls -d /dev/null");
    let mounts = host_mounts();
    assert!(mounts.lines().next().unwrap().contains(" shared:"), "{mounts}");
    for (way, start) in WAYS {
        assert_eq!(arena.live("clone", way, start).ran(), "/dev/null");
    }
    // The image's links lead no further than with one.
    arena.bed.config["process"]["cwd"] = json!("/work/dir");
    for target in [arena.canary().join("dir"), "../../canary/dir".into(), "/../../canary/new".into()] {
        arena.empty_rootfs();
        for place in ["dev", "work"] {
            std::os::unix::fs::symlink(&target, arena.rootfs().join(place)).unwrap();
        }
        for (way, start) in WAYS {
            assert_eq!(arena.live("clone", way, start).ran(), "/dev/null");
        }
    }
    // What would change them is refused.
    for (field, value) in [
        ("/mounts", json!([{"destination": "/x", "type": "tmpfs", "source": "tmpfs"}])),
        ("/root/readonly", json!(true)),
        ("/linux/maskedPaths", json!(["/bin"])),
        ("/linux/readonlyPaths", json!(["/bin"])),
        ("/linux/rootfsPropagation", json!("slave")),
    ] {
        let config = arena.bed.config.clone();
        let (parent, key) = field.rsplit_once('/').unwrap();
        arena.bed.config.pointer_mut(parent).unwrap()[key] = value;
        for (way, start) in WAYS {
            arena.live("clone", way, start).refused_with("needs a new mount namespace");
        }
        arena.bed.config = config;
    }
    assert_eq!(host_mounts(), mounts);
    // The control: what runc did there is seen.
    use rustix::mount::MountPropagationFlags;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).unwrap();
    assert_ne!(host_mounts(), mounts);
}

/// `--no-pivot` takes the host's proc and sysfs away from the container, and from nobody else; and the old root is out of
/// reach all the same.
#[test]
fn no_pivot() {
    let mut arena = Arena::new("no-pivot");
    fs::create_dir(arena.bed.dir.join("volume")).unwrap();
    for (name, target) in [("link", arena.canary().join("dir")), ("up", "../../canary".into())] {
        std::os::unix::fs::symlink(target, arena.rootfs().join(name)).unwrap();
    }
    arena.bind("volume", "/link").bind("volume", "/up/sub");
    for paths in ["maskedPaths", "readonlyPaths"] {
        arena.bed.config["linux"][paths] = json!([]);
    }
    arena.script("cd /; cd ..; ls -d bin canary; ls -d /proc/1/root/bin; grep -c ' - proc ' /proc/self/mountinfo");
    let run = arena.live("clone", "run", |arena, tree| {
        arena.creates("run", &["--detach", "--no-pivot", "--pid-file", "pid", tree])
    });
    assert_eq!(run.ran(), "bin\ncanary\n/proc/1/root/bin\n1");
}

/// What is mounted in a container, with whatever propagation, stays there, but for a volume that is shared on purpose.
#[test]
fn mounts_do_not_come_out() {
    let mut arena = Arena::new("propagation");
    for set in ["bounding", "effective", "permitted"] {
        arena.bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    let volume = arena.bed.dir.join("volume");
    fs::create_dir_all(volume.join("in")).unwrap();
    fs::create_dir_all(arena.rootfs().join("mnt")).unwrap();
    arena.script("mount -t tmpfs x /mnt && mount -t tmpfs x /data/in && mount -t tmpfs x /bin/../mnt && echo mounted");
    for propagation in ["", "slave", "rslave", "private", "rprivate", "unbindable"] {
        for option in ["rbind", "private", "rprivate", "slave", "rslave"] {
            arena.without_mounts(&["/data"]);
            arena
                .mount(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", option]}));
            arena.bed.config["linux"]["rootfsPropagation"] = json!(propagation);
            arena.everywhere(|outcome| assert_eq!(outcome.ran(), "mounted"));
        }
    }
    // The control: asked for, it comes out, and is seen.
    arena.without_mounts(&["/data"]);
    arena.mount(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rshared"]}));
    arena.bed.config["linux"]["rootfsPropagation"] = json!("rshared");
    let mounts = host_mounts();
    let out = arena.bed.tare(&["run", "--mount-namespace=clone", "--detach", "--pid-file", "pid", &arena.bed.id()]);
    assert!(out.status.success(), "{out:?}");
    let begin = std::time::Instant::now();
    while host_mounts() == mounts {
        assert!(begin.elapsed().as_secs() < 10, "a mount in a shared volume does not come out");
    }
    assert!(host_mounts().contains("volume/in"), "{}", host_mounts());
    assert!(arena.bed.tare(&["delete", "--force", &arena.bed.id()]).status.success());
    rustix::mount::unmount(volume.join("in"), rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// CVE-2024-3154: who lets users choose annotations is told which ones reach the runtime.
#[test]
fn unsafe_annotations_are_announced() {
    let out = std::process::Command::new(bed::tare()).arg("features").output().unwrap();
    let features: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let list = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    for name in ["org.systemd.property.", "org.criu.config", "bundle"] {
        assert!(list.contains(&json!(name)), "{name}: {list:?}");
    }
}
