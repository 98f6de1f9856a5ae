//! Device nodes and links in the container's /dev.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bed::{Bed, all};
use rustix::fs::{CWD, FileType, makedev, mknodat};
use serde_json::{Value, json};

const SHOW: &str = "stat -c '%n %F %a %t:%T %u:%g'";

fn device(bed: &mut Bed, device: Value) {
    let linux = bed.config["linux"].as_object_mut().unwrap();
    linux.entry("devices").or_insert_with(|| json!([])).as_array_mut().unwrap().push(device);
}

/// Leaves /dev as the image has it, with an empty one there.
fn without_dev_mounts(bed: &mut Bed) -> std::path::PathBuf {
    let inside = |m: &Value| m["destination"].as_str().unwrap().starts_with("/dev");
    bed.config["mounts"].as_array_mut().unwrap().retain(|m| !inside(m));
    let dev = bed.dir.join("rootfs/dev");
    fs::create_dir_all(&dev).unwrap();
    dev
}

fn node(at: &Path, major: u32, minor: u32) {
    mknodat(CWD, at, FileType::CharacterDevice, 0o600.into(), makedev(major, minor)).unwrap();
}

#[test]
fn what_every_container_has() {
    let mut bed = Bed::new("default-devices");
    bed.shell(&format!(
        "cd /dev; ls; {SHOW} null zero full random urandom tty; for l in fd stdin stdout stderr ptmx; do readlink $l; done; \
         busybox head -c 3 /dev/zero | busybox wc -c; echo x > /dev/full || echo full; echo through > /dev/stderr"
    ));
    // /dev/core is there where the host has /proc/kcore.
    let core = if Path::new("/proc/kcore").exists() { "core\n" } else { "" };
    let want = format!(
        "{core}fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
         null character special file 666 1:3 0:0\nzero character special file 666 1:5 0:0\n\
         full character special file 666 1:7 0:0\nrandom character special file 666 1:8 0:0\n\
         urandom character special file 666 1:9 0:0\ntty character special file 666 5:0 0:0\n\
         /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n"
    );
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        let rest = stdout.strip_prefix(&want).unwrap_or_else(|| panic!("{stdout}\nand not\n{want}"));
        assert_eq!((rest, stderr.lines().last()), ("3\nfull\n", Some("through")), "{stderr}");
    }
}

#[test]
fn of_every_kind() {
    let mut bed = Bed::new("devices-kinds");
    device(&mut bed, json!({"path": "/dev/char", "type": "c", "major": 1, "minor": 3}));
    device(
        &mut bed,
        json!({"path": "/dev/block", "type": "b", "major": 7, "minor": 300, "fileMode": 0o640, "uid": 3, "gid": 4}),
    );
    device(&mut bed, json!({"path": "/dev/fifo", "type": "p", "fileMode": 0o622}));
    device(&mut bed, json!({"path": "/dev/to/be/made", "type": "u", "major": 1, "minor": 5, "gid": 7}));
    device(&mut bed, json!({"path": "/dev/../elsewhere", "type": "c", "major": 4095, "minor": 1048575}));
    // In the place of a default one.
    device(&mut bed, json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 9}));
    // A file type in fileMode, as stat(2) has it, says nothing more.
    device(&mut bed, json!({"path": "/dev/typed", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20644}));
    bed.shell(&format!("cd /dev; {SHOW} char block fifo to/be/made /elsewhere full typed to/be to"));
    all(
        bed.run(),
        0,
        "char character special file 666 1:3 0:0\nblock block special file 640 7:12c 3:4\nfifo fifo 622 0:0 0:0\n\
         to/be/made character special file 666 1:5 0:7\n/elsewhere character special file 666 fff:fffff 0:0\n\
         full character special file 600 1:5 9:0\ntyped character special file 644 1:3 0:0\n\
         to/be directory 755 0:0 0:0\nto directory 755 0:0 0:0",
    );
}

#[test]
fn a_device_of_the_image_is_kept_if_it_is_the_right_one() {
    let mut bed = Bed::new("devices-there");
    let dev = without_dev_mounts(&mut bed);
    node(&dev.join("null"), 1, 3);
    node(&dev.join("mine"), 1, 5);
    fs::write(dev.join("fd"), "").unwrap();
    fs::write(dev.join("ptmx"), "").unwrap();
    device(&mut bed, json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "uid": 5}));
    bed.shell(&format!("cd /dev; {SHOW} null mine; stat -c %F fd; readlink ptmx"));
    // Nothing is put in the place of what an image has for a link, but for ptmx, which would be the host's.
    all(
        bed.run(),
        0,
        "null character special file 600 1:3 0:0\nmine character special file 600 1:5 5:0\nregular empty file\npts/ptmx",
    );
}

#[test]
fn anything_else_in_its_place_is_refused() {
    // config-linux.md: "If a file already exists at path that does not match the requested device, the runtime MUST
    // generate an error."
    for (name, origin) in [("mine", "linux.devices[0] (/dev/mine)"), ("zero", "default devices (/dev/zero)")] {
        for kind in ["device", "file", "link", "directory"] {
            let mut bed = Bed::new(&format!("devices-wrong-{name}-{kind}"));
            let at = without_dev_mounts(&mut bed).join(name);
            match kind {
                "device" => node(&at, 1, 7),
                "file" => fs::write(&at, "").unwrap(),
                "link" => symlink("null", &at).unwrap(),
                _ => fs::create_dir(&at).unwrap(),
            }
            device(&mut bed, json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}));
            bed.shell("true");
            for (code, _, stderr) in bed.run() {
                assert_eq!(code, 1, "{name} {kind}");
                assert!(stderr.contains(origin) && stderr.contains("something else than the device"), "{stderr}");
            }
        }
    }
}

#[test]
fn a_dev_that_is_bound_is_somebody_elses() {
    let mut bed = Bed::new("devices-bound");
    without_dev_mounts(&mut bed);
    fs::create_dir_all(bed.dir.join("dev")).unwrap();
    node(&bed.dir.join("dev/null"), 1, 3);
    bed.mount("/dev", "bind", "dev", &["bind", "ro"]);
    device(&mut bed, json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}));
    bed.shell("ls /dev");
    all(bed.run(), 0, "null");
}

#[test]
fn what_is_no_device_is_refused_with_its_field() {
    let mut bed = Bed::new("devices-bad");
    let table = [
        (json!({"path": "/dev/x", "type": "a"}), "linux.devices[0].type"),
        (json!({"path": "/dev/x", "type": "c", "major": 4096, "minor": 0}), "linux.devices[0].major"),
        (json!({"path": "/dev/x", "type": "b", "major": 1, "minor": -1}), "linux.devices[0].minor"),
        (json!({"path": "", "type": "p"}), "linux.devices[0].path"),
        (json!({"path": "/dev/x", "type": "p", "uid": u32::MAX}), "linux.devices[0].uid: 4294967295 is no id"),
        (json!({"path": "/dev/x", "type": "p", "gid": u32::MAX}), "linux.devices[0].gid: 4294967295 is no id"),
    ];
    for (bad, field) in table {
        bed.config["linux"]["devices"] = json!([bad]);
        let out = bed.tare(&["create", &bed.id()]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && stderr.contains(field), "{bad}: {stderr}");
    }
}
