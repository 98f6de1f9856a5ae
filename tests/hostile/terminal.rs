//! A process with a terminal, in an image that has prepared `/dev` for that: CVE-2025-52565 (the entry of the pty is
//! exchanged before it is bound to /dev/console) and CVE-2026-88264 (/dev/console is a link).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

use crate::bed::trees;
use crate::canary::SECRET;
use crate::harness::{Arena, Way};
use crate::matrix::{self, KINDS, Kind};
use crate::race;

/// As `harness::WAYS`, with a terminal.
const WAYS: [(&str, Way); 2] = [
    ("run", |arena, tree| with_terminal(arena, "run", &["--detach", tree])),
    ("create", |arena, tree| {
        with_terminal(arena, "create", &[tree])?;
        arena.command("start", &[])
    }),
];

/// Takes the terminal, and puts what comes out of it where the container's output is looked for.
fn with_terminal(arena: &Arena, name: &str, options: &[&str]) -> Result<(), String> {
    let socket = arena.bed.dir.join("console");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let options = [options, &["--pid-file", "pid", "--console-socket", "console"]].concat();
    arena.creates(name, &options)?;
    let (stream, _) = listener.accept().unwrap();
    let mut master = File::from(crate::bed::one_fd(&stream));
    let mut said = OpenOptions::new().append(true).open(arena.bed.dir.join(format!("{name}.out"))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            buffer.iter().take(n).filter(|b| **b != b'\r').for_each(|b| said.write_all(&[*b]).unwrap());
        }
    });
    Ok(())
}

/// A bundle with a terminal, which uses the image's /dev. The script tells whether the terminal is what it should be, and
/// whether the canary is in sight.
fn arena(name: &str) -> Arena {
    let mut arena = Arena::new(&format!("terminal-{name}"));
    arena.without_mounts(&["/dev"]);
    arena.bed.config["process"]["terminal"] = json!(true);
    arena.script(&format!(
        "test $(stat -L -c %d /proc/$$/fd/0) = $(stat -L -c %d /dev/pts/) || echo not of its own devpts
         stat -L -c '%F %t' /proc/$$/fd/0
         find / -path /proc -prune -o -path /sys -prune -o -name {SECRET} -print"
    ));
    arena
}

const RAN: &str = "character special file 88"; // 136, Linux's first major of pseudo terminals

/// Links of every kind and other files in each place that a terminal needs.
fn replaced(tree: &str) {
    for place in ["dev", "dev/console", "dev/ptmx", "dev/pts"] {
        for (way, start) in WAYS {
            let mut arena = arena(&format!("{}-{way}-{tree}", place.replace('/', "-")));
            for kind in KINDS {
                arena.empty_rootfs();
                matrix::plant(&arena, place, !["dev", "dev/pts"].contains(&place), kind);
                arena.arm();
                let outcome = arena.live(tree, way, start);
                let leads_nowhere = matches!(kind, Kind::MagicLink | Kind::Loop | Kind::RootLink);
                let no_directory = leads_nowhere || matches!(kind, Kind::File | Kind::Fifo | Kind::HardLink);
                let refused = match place {
                    "dev/console" => (leads_nowhere || kind == Kind::Directory).then_some("process.terminal: "),
                    "dev/ptmx" => (kind == Kind::Directory).then_some("default links (/dev/ptmx)"),
                    // The image's own directories, by way of its root.
                    "dev" if kind == Kind::RootLink => None,
                    _ => no_directory.then_some("mounts["),
                };
                match refused {
                    Some(words) => outcome.refused_with(&format!("tare: {words}")),
                    None => assert_eq!(outcome.ran(), RAN, "{place}, {kind:?}: {outcome}"),
                }
            }
        }
    }
}

#[test]
fn replaced_places_in_the_antechamber() {
    replaced("antechamber");
}

#[test]
fn replaced_places_in_a_copy_of_the_hosts_mounts() {
    replaced("clone");
}

/// Where the kernel has it (integration/uml).
#[test]
fn replaced_places_in_a_namespace_of_the_rootfs() {
    if trees().contains(&"open-tree") {
        replaced("open-tree");
    }
}

fn node(at: &Path, major: u32, minor: u32) {
    mknodat(CWD, at, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)).unwrap();
}

/// Devices that are no terminals, and one that is none of the container's.
#[test]
fn other_devices() {
    let mut arena = arena("devices");
    let dev = arena.rootfs().join("dev");
    for (i, (name, major, minor)) in
        [("console", 1, 3), ("console", 5, 1), ("console", 4, 1), ("ptmx", 1, 3), ("ptmx", 5, 2)]
            .into_iter()
            .enumerate()
    {
        let _ = fs::remove_dir_all(&dev);
        fs::create_dir(&dev).unwrap();
        node(&dev.join(name), major, minor);
        let (way, start) = WAYS[i % WAYS.len()];
        for tree in trees() {
            let outcome = arena.live(tree, way, start);
            // What is bound covers it, and the link takes its place.
            assert_eq!(outcome.ran(), RAN, "{name} {major}:{minor}: {outcome}");
        }
    }
    // Without a devpts of its own there is only what the image has: a multiplexer of nothing, and what is none.
    arena.without_mounts(&["/dev/pts"]);
    for (major, minor) in [(1, 3), (1, 5), (5, 0), (5, 2)] {
        let _ = fs::remove_dir_all(&dev);
        fs::create_dir_all(dev.join("pts")).unwrap();
        node(&dev.join("pts/ptmx"), major, minor);
        symlink(arena.canary().join("file"), dev.join("pts/0")).unwrap();
        for (way, start) in WAYS {
            arena.live("clone", way, start).refused_with("tare: process.terminal: ");
        }
    }
    // A file in its place is neither opened for writing to any effect, nor one that blocks.
    let _ = fs::remove_dir_all(dev.join("pts"));
    fs::create_dir(dev.join("pts")).unwrap();
    mknodat(CWD, dev.join("pts/ptmx"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    for (way, start) in WAYS {
        arena.live("clone", way, start).refused_with("tare: process.terminal: ");
    }
}

/// Somebody else exchanges everything that a terminal needs, meanwhile: in a volume that is the container's /dev, where
/// the name of the pty leads out as well.
#[test]
fn places_that_are_exchanged() {
    let mut arena = arena("race");
    let volume = arena.bed.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    let canary = arena.canary();
    // Before the others, so that those are mounted in it.
    let bind = json!({"destination": "/dev", "type": "bind", "source": volume, "options": ["rbind"]});
    arena.bed.config["mounts"].as_array_mut().unwrap().insert(0, bind);
    // A second devpts, to which ptmx is led for a moment, and a directory that is none.
    arena.mount(json!({"destination": "/other", "type": "devpts", "source": "devpts", "options": ["newinstance"]}));
    fs::create_dir(volume.join("fake")).unwrap();
    for i in 0..2 {
        symlink(canary.join("file"), volume.join(format!("fake/{i}"))).unwrap();
    }
    symlink("/proc/sysrq-trigger", volume.join("fake/2")).unwrap();
    fs::create_dir(volume.join("pts")).unwrap();
    let mut pairs: Vec<(PathBuf, PathBuf)> = vec![(volume.join("pts"), volume.join("fake"))];
    fs::write(volume.join("console"), "").unwrap();
    symlink("pts/ptmx", volume.join("ptmx")).unwrap();
    for (name, to) in [
        ("console", canary.join("file")),
        ("console", canary.join("missing")),
        ("console", "/proc/sysrq-trigger".into()),
        ("ptmx", "/other/ptmx".into()),
        ("ptmx", canary.join("file")),
    ] {
        let rival = volume.join(format!("{name}.{}", pairs.len()));
        symlink(to, &rival).unwrap();
        pairs.push((volume.join(name), rival));
    }
    // The names are exchanged afterwards as well, so the terminal is known by what it is.
    arena.script(&format!(
        "stat -L -c '%F %t' /proc/$$/fd/0
         find / -path /proc -prune -o -path /sys -prune -o -name {SECRET} -print 2>/dev/null"
    ));
    let ran = race::starts(&mut arena, &WAYS, 100, &pairs);
    assert!(!ran.is_empty(), "not one ran");
    assert!(ran.iter().all(|out| out == RAN), "{ran:?}");
}

/// The control: who opens the pty by its name, as it is bound to /dev/console, loses this race, and the canary tells.
#[test]
fn who_goes_by_the_name_of_the_pty_loses_the_race() {
    let mut arena = arena("naive");
    let pts = arena.rootfs().join("pts");
    fs::create_dir(&pts).unwrap();
    fs::write(pts.join("0"), "").unwrap();
    symlink(arena.canary().join("file"), pts.join("0.link")).unwrap();
    arena.arm();
    let lost = race::lost(&[(pts.join("0"), pts.join("0.link"))], || {
        if fs::symlink_metadata(pts.join("0")).is_ok_and(|m| m.is_file()) {
            let _ = OpenOptions::new().append(true).open(pts.join("0")).unwrap().write_all(b"printed");
        }
        !arena.canary_is_untouched()
    });
    assert!(lost, "the race is never lost: the driver drives nothing");
}
