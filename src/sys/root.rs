//! Paths inside a rootfs. The image and other containers may change them at any time, so each is resolved once, by
//! openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS against a descriptor of the rootfs; from then on only the
//! descriptor is used (CVE-2021-30465, CVE-2024-21626 and their like). The kernel does all the walking: what is ours is
//! only to create what is missing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{Call, Result, SysError};

/// Lookups that EAGAIN may undo. Whoever renames without an end must not keep us without an end.
const TRIES: u32 = 100_000;

/// openat2(2) in the root `root`. Absolute links and `..` stay inside; a magic link (`/proc/self/fd/3`) is `ELOOP`.
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    open_by(root.as_fd(), path, flags, ResolveFlags::empty())
}

/// A directory at `path`, on the way to which there is no link at all: `ELOOP` or `ENOTDIR` if there is.
pub fn open_ordinary_dir(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open_by(root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
}

fn open_by(root: BorrowedFd<'_>, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename or mount somewhere on the host made ".." unsafe to resolve just now (openat2(2)).
            Err(rustix::io::Errno::AGAIN) if tries < TRIES => continue,
            r => return r.call("openat2", || format!("{path:?}, IN_ROOT|NO_MAGICLINKS")),
        }
    }
}

/// The object at `path`, links followed inside the root, as an `O_PATH` descriptor.
pub fn resolve(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH)
}

/// The object at `path` itself, even if it is a link.
pub fn resolve_nofollow(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::NOFOLLOW)
}

/// A directory at `path`; what is missing on the way is made with mode 0755, also behind dangling links.
pub fn make_dir(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(e) if e.errno == Errno::ENOENT => walk(root, path, false),
        r => r,
    }
}

/// Whatever is at `path`, or an empty file that is made there, and directories on the way to it.
pub fn make_file(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let root = root.as_fd();
    match resolve(root, path) {
        Err(e) if e.errno == Errno::ENOENT => walk(root, path, true),
        r => r,
    }
}

/// The directory that holds `path`'s last component (made if it is missing), and that component's name.
pub fn parent(root: impl AsFd, path: &Path) -> Result<(OwnedFd, &Path)> {
    let name =
        path.file_name().ok_or_else(|| SysError::new("openat2", format!("{path:?}: no file name"), Errno::EINVAL))?;
    Ok((make_dir(root, path.parent().unwrap_or(Path::new("/")))?, Path::new(name)))
}

/// Goes down component by component, creating. `done` holds no links and no `..`, so that `..` is its parent; even if
/// somebody swaps a directory for a link meanwhile, every open is confined to the root.
fn walk(root: BorrowedFd<'_>, path: &Path, last_is_file: bool) -> Result<OwnedFd> {
    // The kernel's own bound for one lookup (path_resolution(7)).
    const LINKS: usize = 40;
    let looped = || SysError::new("openat2", format!("{path:?}"), Errno::ELOOP);
    let mut links = 0;
    let mut done = PathBuf::new();
    let mut todo: Vec<Vec<u8>> = components(path);
    let mut here = resolve(root, Path::new("."))?;
    while let Some(name) = todo.pop() {
        if name == b".." {
            done.pop();
            here = resolve_nofollow(root, &done)?;
            continue;
        }
        let name_path = Path::new(std::ffi::OsStr::from_bytes(&name));
        let next = done.join(name_path);
        let file = last_is_file && todo.is_empty();
        let found = match resolve_nofollow(root, &next) {
            Err(e) if e.errno == Errno::ENOENT => {
                let made = if file {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
                    rustix::fs::openat(&here, name_path, flags, Mode::from_bits_retain(0o644))
                        .map(drop)
                        .call("openat", || format!("{next:?}, O_CREAT|O_EXCL"))
                } else {
                    rustix::fs::mkdirat(&here, name_path, Mode::from_bits_retain(0o755))
                        .call("mkdirat", || format!("{next:?}"))
                };
                match made {
                    Err(e) if e.errno != Errno::EEXIST => return Err(e),
                    _ => resolve_nofollow(root, &next)?,
                }
            }
            r => r?,
        };
        let stat = rustix::fs::fstat(&found).call("fstat", || format!("{next:?}"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(looped());
                }
                let target =
                    rustix::fs::readlinkat(&found, "", Vec::new()).call("readlinkat", || format!("{next:?}"))?;
                let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    done = PathBuf::new();
                    here = resolve(root, Path::new("."))?;
                }
                todo.extend(components(target));
            }
            FileType::Directory => (here, done) = (found, next),
            _ if todo.is_empty() && last_is_file => return Ok(found),
            _ => return Err(SysError::new("mkdirat", format!("{next:?}"), Errno::ENOTDIR)),
        }
    }
    Ok(here)
}

/// The components in reverse order, to be popped off.
fn components(path: &Path) -> Vec<Vec<u8>> {
    path.components()
        .rev()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            Component::ParentDir => Some(b"..".to_vec()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(name: &str) -> (PathBuf, OwnedFd) {
        let dir = std::env::temp_dir().join(format!("tare-root-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("root")).unwrap();
        let root = rustix::fs::open(dir.join("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, root) = tree("links");
        std::fs::create_dir(dir.join("canary")).unwrap();
        for (i, target) in ["/../../canary", "../canary", "/canary", "../../../../../canary"].iter().enumerate() {
            symlink(target, dir.join("root").join(format!("l{i}"))).unwrap();
            make_file(&root, Path::new(&format!("/l{i}/sub/file"))).unwrap();
            make_dir(&root, Path::new(&format!("/l{i}/d"))).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.join("canary")).unwrap().count(), 0, "something was made outside");
        assert!(dir.join("root/canary/sub/file").is_file());
        assert!(dir.join("root/canary/d").is_dir());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn loops_and_files_on_the_way_fail() {
        let (dir, root) = tree("loops");
        symlink("b", dir.join("root/a")).unwrap();
        symlink("a", dir.join("root/b")).unwrap();
        std::fs::write(dir.join("root/f"), "").unwrap();
        assert_eq!(make_dir(&root, Path::new("/a/x")).unwrap_err().errno, Errno::ELOOP);
        assert_eq!(make_dir(&root, Path::new("/f/x")).unwrap_err().errno, Errno::ENOTDIR);
        assert_eq!(make_dir(&root, Path::new("/f")).unwrap_err().errno, Errno::ENOTDIR);
        make_file(&root, Path::new("/f")).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
