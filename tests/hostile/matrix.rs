//! Every place in a rootfs that a runtime goes to, replaced by everything that an image can put there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode};
use serde_json::json;

use crate::bed::trees;
use crate::canary::{self, HOME, SECRET};
use crate::harness::{Arena, WAYS};

/// Where the runtime goes; whether a file is expected there.
const PLACES: [(&str, bool); 19] = [
    ("proc", false),
    ("sys", false),
    ("dev", false),
    ("dev/null", true),
    ("dev/console", true),
    ("dev/ptmx", true),
    ("dev/fd", true),
    ("dev/own", true),
    ("dev/pts", false),
    ("dev/shm", false),
    ("dev/mqueue", false),
    ("etc/passwd", true),
    ("etc/group", true),
    ("data", false),   // a bind mount of a directory
    ("one", true),     // a bind mount of a file
    ("copied", false), // a tmpfs with tmpcopyup
    ("work", false),   // the working directory
    ("secret", true),  // a masked path
    ("fixed", false),  // a read-only path
];

/// What an image puts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A link to the canary as the host names it.
    AbsoluteLink,
    /// A link by `..`.
    ParentLink,
    /// A link to what is missing in the canary: who creates it creates it there.
    DanglingLink,
    /// A link through the kernel's own links.
    MagicLink,
    /// A link to the root of the container.
    RootLink,
    /// Two links to each other.
    Loop,
    /// A regular file.
    File,
    /// A fifo that nobody has open.
    Fifo,
    /// A directory with something in it.
    Directory,
    /// The canary's file itself, by another name.
    HardLink,
}

use Kind::*;
pub const KINDS: [Kind; 10] =
    [AbsoluteLink, ParentLink, DanglingLink, MagicLink, RootLink, Loop, File, Fifo, Directory, HardLink];

/// Replaces what is at `place` in the rootfs.
pub fn plant(arena: &Arena, place: &str, is_file: bool, kind: Kind) -> PathBuf {
    let at = arena.rootfs().join(place);
    let canary = arena.canary();
    let inside = if is_file { "file" } else { "dir" };
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let up = "../".repeat(20);
    match kind {
        AbsoluteLink => symlink(canary.join(inside), &at).unwrap(),
        ParentLink => symlink(format!("{up}{}", canary.join(inside).display()), &at).unwrap(),
        DanglingLink => symlink(format!("{up}{}", canary.join("new").display()), &at).unwrap(),
        MagicLink => symlink(format!("/proc/self/root{}", canary.join(inside).display()), &at).unwrap(),
        RootLink => symlink("/", &at).unwrap(),
        Loop => {
            let other = at.with_extension("loop");
            symlink(at.file_name().unwrap(), &other).unwrap();
            symlink(other.file_name().unwrap(), &at).unwrap();
        }
        File => fs::write(&at, "the image's").unwrap(),
        Fifo => rustix::fs::mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
        Directory => {
            fs::create_dir(&at).unwrap();
            fs::write(at.join("x"), "the image's").unwrap();
        }
        HardLink => fs::hard_link(canary.join("file"), &at).unwrap(),
    }
    at
}

/// A bundle that goes to every place. The image's /dev is used as it is, unless it is /dev that is replaced.
fn arena(name: &str, place: &str) -> Arena {
    let mut arena = Arena::new(name);
    if place != "dev" {
        arena.without_mounts(&["/dev"]);
    }
    let data = arena.bed.dir.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "volume").unwrap();
    arena.bind(&data, "/data").bind(data.join("file"), "/one");
    arena.mount(json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    arena.bed.config["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 5}]);
    arena.bed.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/secret"]);
    arena.bed.config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/fixed"]);
    arena.bed.config["process"]["cwd"] = json!("/work");
    arena.script(&format!(
        "echo home=$HOME; find / -path /proc -prune -o -path /sys -prune -o -name {SECRET} -print; echo x > /dev/null"
    ));
    arena
}

/// What the runtime must refuse, and the field that it names. All else must work, inside the rootfs.
fn must_refuse(way: &str, place: &str, kind: Kind) -> Option<&'static str> {
    let leads_nowhere = matches!(kind, MagicLink | Loop);
    let no_directory = leads_nowhere || matches!(kind, File | Fifo | HardLink);
    match place {
        // A link in their place would lead whoever writes labels and sysctls elsewhere (CVE-2019-19921).
        "proc" | "sys" => (kind != Directory).then_some("mounts["),
        // A node that is there already is never opened, nor replaced.
        "dev/null" => Some("default devices (/dev/null)"),
        "dev/own" => Some("linux.devices[0] (/dev/own)"),
        "dev/ptmx" => (kind == Directory).then_some("default links (/dev/ptmx)"),
        // A link to the root: what covers the root is seen by those only who come by "/..".
        "dev" | "dev/pts" | "dev/shm" | "dev/mqueue" | "data" | "copied" => {
            (no_directory || kind == RootLink).then_some("mounts[")
        }
        "one" => (leads_nowhere || matches!(kind, RootLink | Directory)).then_some("mounts[7] (/one)"),
        // `exec` makes no directory for its process.
        "work" => (no_directory || way == "exec" && !matches!(kind, RootLink | Directory)).then_some("process.cwd"),
        // The root itself is masked, which init came to before: who comes now finds it empty.
        "secret" if way == "exec" && kind == RootLink => Some("process.cwd"),
        "secret" => leads_nowhere.then_some("linux.maskedPaths[1] (/secret)"),
        "fixed" => leads_nowhere.then_some("linux.readonlyPaths[1] (/fixed)"),
        _ => None,
    }
}

fn matrix(tree: &str) {
    let mut cells = 0;
    for (way, start) in WAYS {
        for (place, is_file) in PLACES {
            let mut arena = arena(&format!("{}-{way}-{tree}", place.replace('/', "-")), place);
            for kind in KINDS {
                arena.empty_rootfs();
                plant(&arena, place, is_file, kind);
                if way == "exec" && place != "work" {
                    fs::create_dir(arena.rootfs().join("work")).unwrap();
                }
                arena.arm();
                let outcome = arena.live(tree, way, start);
                match must_refuse(way, place, kind) {
                    Some(field) => outcome.refused_with(&format!("tare: {field}")),
                    None => {
                        let home = if (place, kind) == ("etc/passwd", HardLink) { HOME } else { "/" };
                        assert_eq!(outcome.ran(), format!("home={home}"), "{place}, {kind:?}: {outcome}");
                    }
                }
                cells += 1;
            }
        }
    }
    assert_eq!(cells, WAYS.len() * PLACES.len() * KINDS.len());
}

#[test]
fn replaced_places_in_the_antechamber() {
    matrix("antechamber");
}

#[test]
fn replaced_places_in_a_copy_of_the_hosts_mounts() {
    matrix("clone");
}

/// Where the kernel has it (integration/uml).
#[test]
fn replaced_places_in_a_namespace_of_the_rootfs() {
    if trees().contains(&"open-tree") {
        matrix("open-tree");
    }
}

/// The control: who goes to these places by their names, as a runtime without RESOLVE_IN_ROOT does, changes the canary,
/// and is seen.
#[test]
fn the_canary_notices_who_follows_the_links() {
    let mut arena = arena("naive", "none");
    for (place, is_file) in PLACES {
        for kind in [AbsoluteLink, ParentLink, DanglingLink, HardLink] {
            arena.empty_rootfs();
            fs::remove_dir_all(arena.canary()).unwrap();
            canary::make(&arena.canary());
            let at = plant(&arena, place, is_file, kind);
            arena.arm();
            assert!(arena.canary_is_untouched());
            let file = if at.is_dir() { at.join("made") } else { at };
            fs::write(file, "naive").unwrap();
            assert!(!arena.canary_is_untouched(), "{place} {kind:?}");
        }
    }
    arena.empty_rootfs();
    arena.arm();
    // And who gets to see it, is seen by the script.
    let canary = arena.canary();
    arena.bind(canary, "/data");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), format!("home=/\n/data/dir/{SECRET}")));
}
