//! Something on the host, next to the rootfs, that no container may change or see.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};

/// The name of a file that exists nowhere but in the canary: who finds it in a container has left the rootfs.
pub const SECRET: &str = "canary-secret";
/// What HOME becomes if the canary's file is read as a passwd.
pub const HOME: &str = "/canary-home";

/// Mode, owner, device, time of change, content. Without what a hard link elsewhere changes when its name is removed.
type Entry = (u32, (u32, u32), u64, (i64, i64), Vec<u8>);
/// All of a tree.
pub type Snapshot = BTreeMap<PathBuf, Entry>;

/// Makes the tree.
pub fn make(dir: &Path) {
    fs::create_dir_all(dir.join("dir/sub")).unwrap();
    fs::write(dir.join("file"), format!("canary:x:0:0::{HOME}:/bin/sh\n")).unwrap();
    fs::write(dir.join("dir").join(SECRET), "secret").unwrap();
    symlink(SECRET, dir.join("dir/link")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("dir/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Reads the tree.
pub fn snapshot(dir: &Path) -> Snapshot {
    let mut all = Snapshot::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let content = if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if m.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if m.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        all.insert(path, (m.mode(), (m.uid(), m.gid()), m.rdev(), (m.mtime(), m.mtime_nsec()), content));
    }
    all
}
