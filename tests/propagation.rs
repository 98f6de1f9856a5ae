//! Propagation of mounts, in both directions: what the host mounts after the start and the container sees, what the
//! container mounts and the host sees. On a mount namespace that stands for the host's.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use bed::{Bed, mounted, mounts, trees};
use serde_json::json;

/// Where something was mounted afterwards: `in` by the host, `out` by the container, `sub` below a mount that was there.
fn seen(bed: &Bed, tree: &str, host: &str, container: &str) -> String {
    let pid = bed.detached(&[&format!("--mount-namespace={tree}")]);
    bed.on_host(&format!("for d in {host} {host}/sub; do mount -t tmpfs by-host $d/outer; done"));
    // By the container's own program, in its mount namespace and its root.
    let enter = format!("nsenter --target {pid} --mount --root /bin/busybox");
    bed.on_host(&format!(
        "for d in {container} {container}/sub; do {enter} mount -t tmpfs by-container $d/inner; done"
    ));
    let inside = bed.on_host(&format!("cat /proc/{pid}/mountinfo"));
    let outside = bed.host_mounts();
    let root = container.trim_end_matches('/');
    let there = |text: &str, at: String| mounts(text).iter().any(|m| m.at == at);
    let on_host = |at: &str| format!("{}/{host}/{at}", bed.dir.display());
    let found = [
        ("in", there(&inside, format!("{root}/outer"))),
        ("out", there(&outside, on_host("inner"))),
        ("sub-in", there(&inside, format!("{root}/sub/outer"))),
        ("sub-out", there(&outside, on_host("sub/inner"))),
    ];
    bed.delete();
    bed.on_host(&format!("for d in {host}/sub {host}; do umount $d/inner 2>/dev/null || true; umount $d/outer; done"));
    found.iter().filter(|(_, seen)| *seen).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

/// A directory of the bed's own host that is a mount, with one below it; all shared, or all private.
fn source(bed: &Bed, name: &str, kind: &str) {
    bed.on_host(&format!(
        "mkdir {name}; mount -t tmpfs {name} {name}; mkdir {name}/outer {name}/inner {name}/sub
         mount -t tmpfs sub {name}/sub; mkdir {name}/sub/outer {name}/sub/inner
         mount --make-{kind} {name}; mount --make-{kind} {name}/sub"
    ));
}

#[test]
fn of_bind_mounts() {
    // The source on the host, linux.rootfsPropagation, the words of the mount; where mounts are seen.
    let table: &[(&str, &str, &[&str], &str)] = &[
        // A slave of the host, unless something else is said.
        ("shared", "", &[], "in sub-in"),
        ("shared", "", &["slave"], "in sub-in"),
        ("shared", "", &["rslave"], "in sub-in"),
        ("shared", "", &["private"], "sub-in"),
        ("shared", "", &["rprivate"], ""),
        ("shared", "", &["unbindable"], "sub-in"),
        ("shared", "", &["runbindable"], ""),
        // Shared, but among those in the container: nothing gets out unless the rootfs is shared.
        ("shared", "", &["shared"], "in sub-in"),
        ("shared", "", &["rshared"], "in sub-in"),
        ("shared", "rslave", &["rshared"], "in sub-in"),
        ("shared", "rslave", &[], "in sub-in"),
        ("shared", "rshared", &[], "in out sub-in sub-out"),
        ("shared", "shared", &["rshared"], "in out sub-in sub-out"),
        ("shared", "rshared", &["shared"], "in out sub-in sub-out"),
        ("shared", "rshared", &["rslave"], "in sub-in"),
        ("shared", "rshared", &["slave"], "in sub-in sub-out"),
        ("shared", "rshared", &["rprivate"], ""),
        ("shared", "rprivate", &[], ""),
        ("shared", "private", &[], ""),
        ("shared", "rprivate", &["rslave"], ""),
        // The last word wins.
        ("shared", "", &["rslave", "rprivate"], ""),
        // A private source has no peers, whatever is asked for.
        ("private", "rshared", &[], ""),
        ("private", "rshared", &["rshared"], ""),
        ("private", "", &["rslave"], ""),
    ];
    let mut bed = Bed::new("propagation");
    bed.own_host();
    for kind in ["shared", "private"] {
        source(&bed, kind, kind);
    }
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed.mount("/data", "bind", "", &[]);
    let usual = bed.config.clone();
    let mut wrong = Vec::new();
    for (kind, root, words, want) in table {
        bed.config = usual.clone();
        if !root.is_empty() {
            bed.config["linux"]["rootfsPropagation"] = json!(root);
        }
        let mount = bed.config["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        mount["source"] = json!(kind);
        mount["options"] = json!([&["rbind"], *words].concat());
        for tree in trees() {
            let found = seen(&bed, tree, kind, "/data");
            if found != *want {
                wrong.push(format!("{tree}: {kind} source, rootfs {root:?}, {words:?}: {found:?} and not {want:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn of_the_rootfs() {
    // linux.rootfsPropagation; where mounts are seen; the tags of the root's mount.
    let table: &[(&str, &str, &[&str])] = &[
        ("", "in sub-in", &["master"]),
        ("slave", "in sub-in", &["master"]),
        ("rslave", "in sub-in", &["master"]),
        ("private", "", &[]),
        ("rprivate", "", &[]),
        ("unbindable", "", &["unbindable"]),
        // pivot_root(2) refuses a shared root, so it becomes a shared one that is a slave of the host.
        ("shared", "in sub-in sub-out", &["shared", "master"]),
        ("rshared", "in sub-in sub-out", &["shared", "master"]),
    ];
    let mut bed = Bed::new("propagation-root");
    bed.own_host();
    source(&bed, "image", "shared");
    bed.on_host("cp -a rootfs/bin image/");
    bed.config["root"]["path"] = json!("image");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let mut wrong = Vec::new();
    for (word, want, tags) in table {
        if !word.is_empty() {
            bed.config["linux"]["rootfsPropagation"] = json!(word);
        }
        for tree in trees() {
            let found = seen(&bed, tree, "image", "/");
            let pid = bed.detached(&[&format!("--mount-namespace={tree}")]);
            let root = mounted(&bed.on_host(&format!("cat /proc/{pid}/mountinfo")), "/");
            let kinds: Vec<_> = root.tags.iter().map(|t| t.split(':').next().unwrap_or_default()).collect();
            if (found.as_str(), kinds.as_slice()) != (*want, *tags) {
                wrong.push(format!("{tree}: {word:?}: {found:?} {kinds:?}"));
            }
            bed.delete();
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_the_container_mounts_goes_with_it() {
    let mut bed = Bed::new("propagation-end");
    bed.own_host();
    source(&bed, "shared", "shared");
    bed.mount("/data", "bind", "shared", &["rbind", "rslave"]);
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    bed.shell("mount -t tmpfs x /data/inner && mount -t tmpfs x /data/sub/inner && grep -c inner /proc/self/mountinfo");
    // Bed::run compares the host's mounts before and after.
    bed::all(bed.run(), 0, "2");
}

/// Linux 6.18 numbers namespaces by CPU, and the antechamber of a host that is not the first mount namespace can only be
/// kept where its number is the greater one.
#[test]
fn an_antechamber_on_any_cpu() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    for host in 0..cpus {
        for caller in 0..cpus {
            let mut bed = Bed::new(&format!("antechamber-{host}-{caller}"));
            bed.own_host_by(&["taskset", "--cpu-list", &host.to_string()]);
            bed.through = ["taskset", "--cpu-list", &caller.to_string()].map(str::to_owned).into();
            bed.shell("grep Cpus_allowed_list /proc/self/status");
            // Not Bed::host_mounts, which leaves these out.
            let host_mounts = || mounts(&bed.on_host("cat /proc/self/mountinfo")).len();
            let before = host_mounts();
            let out = bed.tare(&["run", "--mount-namespace=antechamber", &bed.id()]);
            assert!(out.status.success(), "{host} {caller}: {out:?}");
            // Not more than the antechamber and the private mount that it may need.
            let more = host_mounts() - before;
            assert!((1..=2).contains(&more), "{more} mounts are left");
        }
    }
}

#[test]
fn of_new_file_systems() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["private"], &[]),
        (&["rslave"], &[]), // of nobody
        (&["shared"], &["shared"]),
        (&["rshared", "unbindable"], &["unbindable"]),
        (&["unbindable", "private"], &[]),
    ];
    let mut bed = Bed::new("propagation-new");
    for (i, (words, _)) in table.iter().enumerate() {
        bed.mount(&format!("/m/{i}"), "tmpfs", "tmpfs", words);
    }
    bed.shell("cat /proc/self/mountinfo");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        for (i, (words, want)) in table.iter().enumerate() {
            let tags = mounted(&stdout, &format!("/m/{i}")).tags;
            let kinds: Vec<_> = tags.iter().map(|t| t.split(':').next().unwrap_or_default()).collect();
            assert_eq!(kinds, *want, "{words:?}");
        }
    }
}
