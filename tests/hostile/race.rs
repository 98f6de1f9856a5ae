//! Somebody else writes to the same volume, or to the rootfs itself, while the container starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

use crate::bed::trees;
use crate::canary::SECRET;
use crate::harness::{Arena, WAYS, Way};

/// Exchanges two names by renameat2(2), as fast as it goes, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapper {
    fn start(pairs: Vec<(PathBuf, PathBuf)>) -> Swapper {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let swap = move || {
            let mut swaps = 0;
            while !seen.load(Ordering::Relaxed) {
                for (a, b) in &pairs {
                    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
                    swaps += 1;
                }
            }
            swaps
        };
        Swapper { stop, thread: Some(std::thread::spawn(swap)) }
    }

    /// The number of exchanges.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A directory (or a file) at `at`, and next to it a link that leads out by each way; to be exchanged.
fn rivals(at: &Path, to: &Path, file: bool) -> Vec<(PathBuf, PathBuf)> {
    if file {
        fs::write(at, "").unwrap()
    } else {
        fs::create_dir_all(at).unwrap()
    }
    let link = PathBuf::from(format!("{}.link", at.display()));
    symlink(to, &link).unwrap();
    vec![(at.to_owned(), link)]
}

/// Whether somebody naive, who tries again and again, sees to it that something is lost.
pub fn lost(pairs: &[(PathBuf, PathBuf)], mut naive: impl FnMut() -> bool) -> bool {
    let swapper = Swapper::start(pairs.to_vec());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if (0..1000).any(|_| naive()) {
            return swapper.stop() > 0;
        }
    }
    false
}

/// The control: who looks first and writes then loses this race, by the same driver, and the canary tells.
#[test]
fn who_looks_first_loses_the_race() {
    let mut arena = Arena::new("race-naive");
    let at = arena.rootfs().join("target");
    let pairs = rivals(&at, &arena.canary().join("dir"), false);
    arena.arm();
    let lost = lost(&pairs, || {
        if fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()) {
            let _ = fs::write(at.join("made"), "naive");
        }
        !arena.canary_is_untouched()
    });
    assert!(lost, "the race is never lost: the driver drives nothing");
}

/// CVE-2021-30465, CVE-2019-18837, CVE-2024-45310: the targets of 24 mounts in a shared volume are exchanged for links.
fn shared_volume(starts: usize) {
    let mut arena = Arena::new(&format!("race-volume-{starts}"));
    let volume = arena.bed.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(arena.bed.dir.join("file"), "bound").unwrap();
    arena.bind(&volume, "/data");
    let canary = arena.canary();
    let up = PathBuf::from(format!("{}{}", "../".repeat(20), canary.join("dir").display()));
    let mut pairs = Vec::new();
    for i in 0..24 {
        let at = volume.join(format!("m{i}"));
        let out = [canary.join("dir"), up.clone(), canary.join("missing"), "/".into()];
        pairs.extend(rivals(&at, &out[i % 4], false));
        let target = format!("/data/m{i}/made/target{i}");
        match i % 3 {
            0 => arena.mount(json!({"destination": target, "type": "tmpfs", "source": "tmpfs"})),
            1 => arena.bind("file", &target),
            _ => arena.bind("bind-dir", &target),
        };
    }
    fs::create_dir(arena.bed.dir.join("bind-dir")).unwrap();
    arena.script(&format!("find / -path /proc -prune -o -path /sys -prune -o -name {SECRET} -print"));
    arena.arm();
    let (mut ran, mut refused, mut swaps) = (0, 0, 0);
    for i in 0..starts {
        let (way, start) = WAYS[i % WAYS.len()];
        // What is missing is made anew each time.
        for (a, b) in &pairs {
            let real = if a.is_symlink() { b } else { a };
            let _ = fs::remove_dir_all(real.join("made"));
        }
        let _ = fs::remove_dir_all(arena.rootfs().join("made"));
        let _ = fs::remove_dir_all(arena.rootfs().join(canary.strip_prefix("/").unwrap()));
        let swapper = Swapper::start(pairs.clone());
        let outcome = arena.live(trees()[i / WAYS.len() % trees().len()], way, start);
        swaps += swapper.stop();
        outcome.is_clear();
        if outcome.refused.is_some() {
            refused += 1;
        } else {
            assert_eq!(outcome.ran(), "", "the canary is in sight");
            ran += 1;
        }
    }
    println!("{starts} starts: {ran} ran, {refused} refused, {swaps} exchanges");
    assert!(swaps > starts as u64 * 10, "{swaps} exchanges in {starts} starts are no race");
    assert!(ran > 0, "not one of {starts} ran");
}

#[test]
fn mount_targets_in_a_shared_volume() {
    shared_volume(100);
}

#[test]
#[ignore = "takes a minute; integration/test runs it"]
fn mount_targets_in_a_shared_volume_1000_times() {
    shared_volume(1000);
}

/// Starts while the pairs are exchanged; returns what ran. All else was refused clearly.
pub fn starts(arena: &mut Arena, ways: &[(&str, Way)], count: usize, pairs: &[(PathBuf, PathBuf)]) -> Vec<String> {
    arena.arm();
    let swapper = Swapper::start(pairs.to_vec());
    let mut ran = Vec::new();
    for i in 0..count {
        let (way, start) = ways[i % ways.len()];
        let outcome = arena.live(trees()[i / ways.len() % trees().len()], way, start);
        outcome.is_clear();
        if outcome.refused.is_none() {
            ran.push(outcome.ran().to_owned());
        }
    }
    let swaps = swapper.stop();
    println!("{}: {count} starts, {} ran, {swaps} exchanges", arena.bed.id(), ran.len());
    assert!(swaps > count as u64 * 10, "{swaps} exchanges in {count} starts are no race");
    ran
}

/// CVE-2026-41579, CVE-2026-47766 and their like: everything that the image has in a place where the runtime goes.
#[test]
fn places_in_the_rootfs() {
    let mut arena = Arena::new("race-places");
    arena.without_mounts(&["/dev"]).bind("volume", "/data").bind("file", "/one");
    arena.mount(json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    arena.bed.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/secret"]);
    arena.bed.config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/fixed"]);
    arena.bed.config["process"]["cwd"] = json!("/work");
    fs::create_dir(arena.bed.dir.join("volume")).unwrap();
    fs::write(arena.bed.dir.join("file"), "bound").unwrap();
    arena.script(&format!("echo $HOME; find / -path /proc -prune -o -path /sys -prune -o -name {SECRET} -print"));
    let canary = arena.canary();
    let rootfs = arena.rootfs();
    fs::create_dir_all(rootfs.join("etc")).unwrap();
    let mut pairs = rivals(&rootfs.join("etc/passwd"), &canary.join("file"), true);
    for place in ["dev", "data", "copied", "work", "secret", "fixed"] {
        pairs.extend(rivals(&rootfs.join(place), &canary.join("dir"), false));
    }
    pairs.extend(rivals(&rootfs.join("one"), &canary.join("file"), true));
    let ran = starts(&mut arena, &WAYS, 60, &pairs);
    assert!(!ran.is_empty(), "not one ran");
    assert!(ran.iter().all(|out| out == "/"), "{ran:?}");
}

/// CVE-2019-19921, CVE-2025-54867: a link in the place of proc or sysfs is refused, also one that is there for a moment.
#[test]
fn proc_and_sysfs_are_not_led_elsewhere() {
    for (place, inside) in [("proc", "self"), ("sys", "kernel")] {
        let mut arena = Arena::new(&format!("race-{place}"));
        let at = arena.rootfs().join(place);
        fs::create_dir(arena.rootfs().join("other")).unwrap();
        let pairs = rivals(&at, Path::new("/other"), false);
        // The names are exchanged afterwards as well, so what counts is where the mount was made.
        arena.script(&format!("if test -e /other/{inside}; then echo led; fi"));
        let ran = starts(&mut arena, &WAYS, 100, &pairs);
        assert!(!ran.is_empty(), "not one ran");
        assert!(ran.iter().all(String::is_empty), "{ran:?}");
    }
}

/// CVE-2025-31133, CVE-2025-62161: what masks is the host's /dev/null, whatever the image's is at the moment.
#[test]
fn masks_do_not_trust_the_images_dev_null() {
    let mut arena = Arena::new("race-null");
    arena.without_mounts(&["/dev"]);
    let rootfs = arena.rootfs();
    fs::create_dir(rootfs.join("dev")).unwrap();
    fs::write(rootfs.join("secret"), "the secret").unwrap();
    fs::write(rootfs.join("spy"), "the image's").unwrap();
    let null = rootfs.join("dev/null");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(CWD, &null, kind, mode, rustix::fs::makedev(1, 3)).unwrap();
    let mut pairs = Vec::new();
    for (name, target) in [("spy.link", PathBuf::from("/spy")), ("out.link", arena.canary().join("file"))] {
        symlink(target, rootfs.join("dev").join(name)).unwrap();
        pairs.push((null.clone(), rootfs.join("dev").join(name)));
    }
    arena.script("cat /secret; echo written > /secret; cat /secret /spy");
    // The control: without the mask it is read and written.
    arena.bed.config["linux"]["maskedPaths"] = json!([]);
    let ran = starts(&mut arena, &WAYS, 40, &pairs);
    assert!(ran.iter().any(|out| out.ends_with("written\nthe image's")), "{ran:?}");
    arena.bed.config["linux"]["maskedPaths"] = json!(["/secret"]);
    let ran = starts(&mut arena, &WAYS, 60, &pairs);
    assert!(!ran.is_empty(), "not one ran");
    assert!(ran.iter().all(|out| out == "the image's"), "{ran:?}");
}

/// The bundle's owner is trusted, but gets one of the two, and not a mixture.
#[test]
fn a_rootfs_and_a_source_that_are_exchanged() {
    let mut arena = Arena::new("race-rootfs");
    let rootfs = arena.rootfs();
    let decoy = arena.bed.dir.join("decoy");
    assert!(std::process::Command::new("cp").arg("-a").args([&rootfs, &decoy]).status().unwrap().success());
    for (dir, name) in [(&rootfs, "one"), (&decoy, "other")] {
        fs::write(dir.join("name"), name).unwrap();
        fs::write(dir.join("bin/name"), name).unwrap();
    }
    let mut pairs = vec![(rootfs, decoy)];
    for name in ["a", "b"] {
        fs::create_dir(arena.bed.dir.join(name)).unwrap();
        fs::write(arena.bed.dir.join(name).join("x"), name).unwrap();
        symlink(name, arena.bed.dir.join(format!("link-{name}"))).unwrap();
    }
    pairs.push((arena.bed.dir.join("link-a"), arena.bed.dir.join("link-b")));
    arena.bind("link-a", "/data");
    arena.script("cat /name /bin/name; echo; cat /data/x");
    let ran = starts(&mut arena, &WAYS, 60, &pairs);
    let all = ["oneone\na", "oneone\nb", "otherother\na", "otherother\nb"];
    assert!(ran.iter().all(|out| all.contains(&out.as_str())), "{ran:?}");
    assert!(ran.iter().any(|out| out.starts_with("one")) && ran.iter().any(|out| out.starts_with("other")), "{ran:?}");
}

/// What is copied into a tmpfs is copied while somebody writes to it; and HOME is read from the same image.
#[test]
fn files_that_become_links_and_fifos_while_they_are_read() {
    let mut arena = Arena::new("race-copy");
    let rootfs = arena.rootfs();
    let mut pairs = Vec::new();
    for dir in ["run", "etc"] {
        fs::create_dir(rootfs.join(dir)).unwrap();
    }
    for (i, at) in ["run/a", "run/b", "run/c", "etc/passwd"].into_iter().enumerate() {
        pairs.extend(rivals(&rootfs.join(at), &arena.canary().join("file"), true));
        let fifo = rootfs.join(format!("{at}.fifo"));
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        pairs.push((rootfs.join(at), fifo));
        fs::write(rootfs.join(format!("run/ordinary{i}")), "image's\n").unwrap();
    }
    fs::create_dir(rootfs.join("run/d")).unwrap();
    fs::write(rootfs.join("run/d/in"), "image's\n").unwrap();
    symlink(arena.canary().join("dir"), rootfs.join("run/d.link")).unwrap();
    pairs.push((rootfs.join("run/d"), rootfs.join("run/d.link")));
    arena.mount(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    arena.script("echo $HOME; find /run -type f -exec cat {} +");
    let ran = starts(&mut arena, &WAYS, 60, &pairs);
    assert!(!ran.is_empty(), "not one ran");
    let ours = |out: &String| out.strip_prefix("/\n").is_some_and(|rest| rest.lines().all(|l| l == "image's"));
    assert!(ran.iter().all(ours), "{ran:?}");
}
