//! Compiled programs, kept between containers: one file each in a directory that the caller has opened.
//!
//! A file's name is the hash of all that a program depends on. Whoever could write here could weaken the filter of the
//! next container, so nothing is trusted that others may have written, neither the directory nor the file; the hash is
//! repeated inside, so that not even an exchange of two of our own files goes unseen. Nothing here is an error: what
//! cannot be read is compiled, what cannot be written is not kept.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use super::bpf;

/// Part of the key: to be raised whenever another program is made of the same profile.
const FORMAT: u32 = 1;

/// How many files are kept.
const MAX_FILES: usize = 64;

/// The first bytes of a file: magic, key, checksum of the program.
const MAGIC: [u8; 8] = *b"tare-bpf";
const HEADER: usize = MAGIC.len() + size_of::<Key>() + size_of::<u64>();

type Key = [u8; 32];

/// The place of one profile's program in the cache.
pub struct Entry<'a> {
    dir: BorrowedFd<'a>,
    key: Key,
    name: String,
}

impl<'a> Entry<'a> {
    /// `None` where the directory is not ours alone.
    pub fn new(dir: BorrowedFd<'a>, profile: &LinuxSeccomp) -> Option<Self> {
        if !ours(&fstat(dir).ok()?, FileType::Directory, geteuid().as_raw()) {
            return None;
        }
        let version = ScmpVersion::current().ok()?;
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT} {version} {}\n", std::env::consts::ARCH));
        hash.update(serde_json::to_vec(profile).ok()?);
        let key: Key = hash.finalize().into();
        let name = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Entry { dir, key, name })
    }

    /// The program, if a good one is there.
    pub fn read(&self) -> Option<Vec<u8>> {
        // NONBLOCK: a fifo in the file's place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(self.dir, &self.name, flags, Mode::empty()).ok()?;
        let stat = fstat(&fd).ok()?;
        let size = usize::try_from(stat.st_size).ok()?;
        if !ours(&stat, FileType::RegularFile, geteuid().as_raw()) || size > HEADER + bpf::MAX * bpf::SIZE {
            return None;
        }
        let mut file = Vec::with_capacity(size);
        File::from(fd).take(size as u64).read_to_end(&mut file).ok()?;
        let program = file.get(HEADER..)?.to_vec();
        let whole = !program.is_empty() && program.len().is_multiple_of(bpf::SIZE);
        (whole && file[..HEADER] == self.header(&program)).then_some(program)
    }

    /// Keeps a program: under a temporary name first, so that a reader never sees half of it. Not synced: the cache is
    /// on a tmpfs, and the checksum tells a torn file.
    pub fn write(&self, program: &[u8]) {
        let temporary = format!(".{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = openat(self.dir, &temporary, flags, Mode::RUSR | Mode::WUSR).is_ok_and(|fd| {
            let mut file = File::from(fd);
            file.write_all(&self.header(program)).and_then(|()| file.write_all(program)).is_ok()
        });
        // Also where it was there already: left by a process that was killed, and in the way of the next one.
        if !written || renameat(self.dir, &temporary, self.dir, &self.name).is_err() {
            let _ = unlinkat(self.dir, &temporary, AtFlags::empty());
        }
        let _ = self.trim();
    }

    fn header(&self, program: &[u8]) -> Vec<u8> {
        // Against damage, not against an attacker, who is kept out by the ownership. Another compiler's std may give
        // another sum: then the file is made anew.
        let mut sum = DefaultHasher::new();
        sum.write(program);
        [&MAGIC[..], &self.key, &sum.finish().to_ne_bytes()].concat()
    }

    /// Removes the oldest files beyond [`MAX_FILES`], temporary ones that were left behind included.
    fn trim(&self) -> rustix::io::Result<()> {
        let mut files = Vec::new();
        for entry in Dir::read_from(self.dir)? {
            let name = entry?.file_name().to_owned();
            match statat(self.dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                    files.push((stat.st_mtime, stat.st_mtime_nsec, name));
                }
                // A directory is not ours to remove; a file that is gone was removed by another trim.
                _ => (),
            }
        }
        files.sort();
        for (_, _, name) in files.iter().take(files.len().saturating_sub(MAX_FILES)) {
            unlinkat(self.dir, name, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Whether a file is of that type and nobody else (but root) can have written it.
fn ours(stat: &Stat, kind: FileType, euid: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == euid
        && !Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::seccomp::compile_cached;

    struct Cache {
        path: PathBuf,
        fd: OwnedFd,
    }

    impl Cache {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tare-seccomp-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            let fd = fs::File::open(&path).unwrap().into();
            Cache { path, fd }
        }

        fn files(&self) -> Vec<PathBuf> {
            fs::read_dir(&self.path).unwrap().map(|e| e.unwrap().path()).collect()
        }

        fn only(&self) -> PathBuf {
            let [file] = self.files().try_into().unwrap();
            file
        }

        /// Whether a program is found; it is the right one in any case.
        fn hit(&self, profile: &LinuxSeccomp) -> bool {
            let found = Entry::new(self.fd.as_fd(), profile).and_then(|entry| entry.read());
            let filter = compile_cached(profile, Some(self.fd.as_fd())).unwrap();
            assert_eq!(filter, crate::seccomp::compile(profile).unwrap());
            found.is_some_and(|bpf| bpf == filter.bpf)
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    fn profile(errno: usize) -> LinuxSeccomp {
        serde_json::from_value(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno,
            "syscalls": [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]}))
        .unwrap()
    }

    #[test]
    fn hit_and_miss() {
        let cache = Cache::new("hit");
        assert!(!cache.hit(&profile(1)));
        assert!(cache.hit(&profile(1)), "with its warnings, see hit()");
        assert!(!cache.hit(&profile(2)), "another profile");
        assert!(cache.hit(&profile(1)) && cache.hit(&profile(2)));
        let mode = fs::metadata(&cache.files()[0]).unwrap().permissions().mode();
        assert_eq!((cache.files().len(), mode & 0o777), (2, 0o600));
        assert_eq!(cache.files()[0].file_name().unwrap().len(), 64);
    }

    #[test]
    fn what_is_not_a_good_file_is_made_anew() {
        let cache = Cache::new("bad");
        let (one, two) = (profile(1), profile(2));
        assert!(!cache.hit(&one));
        let file = cache.only();
        let good = fs::read(&file).unwrap();
        assert!(!cache.hit(&two));
        let other = cache.files().into_iter().find(|f| *f != file).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let bad: [(&str, Vec<u8>); 8] = [
            ("empty", Vec::new()),
            ("header only", good[..HEADER].into()),
            ("cut in an instruction", good[..good.len() - 3].into()),
            ("cut between instructions", good[..good.len() - 8].into()),
            ("longer", [&good[..], &[0; 8]].concat()),
            ("one bit", flipped),
            ("huge", vec![0; 1 << 20]),
            ("another profile's", fs::read(other).unwrap()),
        ];
        for (what, content) in bad {
            fs::write(&file, content).unwrap();
            assert!(!cache.hit(&one), "{what}");
            assert!(cache.hit(&one), "{what}: repaired");
        }
        assert_eq!(fs::read(&file).unwrap(), good);

        let elsewhere = cache.path.with_extension("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(!cache.hit(&one), "a link");
        fs::remove_file(&elsewhere).unwrap();
        assert!(cache.hit(&one), "the link was replaced");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(!cache.hit(&one), "writable by the group");
        assert!(cache.hit(&one));
        fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(!cache.hit(&one), "a fifo");
        assert!(cache.hit(&one));
    }

    #[test]
    fn only_our_own_files_and_directories() {
        let cache = Cache::new("owner");
        assert!(!cache.hit(&profile(1)));
        let euid = geteuid().as_raw();
        let stat = rustix::fs::stat(cache.only()).unwrap();
        assert!(ours(&stat, FileType::RegularFile, euid));
        assert!(!ours(&stat, FileType::RegularFile, euid + 1), "another's");
        assert!(!ours(&stat, FileType::Directory, euid));
        if euid == 0 {
            std::os::unix::fs::chown(cache.only(), Some(12345), None).unwrap();
            assert!(!cache.hit(&profile(1)), "another's file");
            assert!(cache.hit(&profile(1)), "replaced by ours");
        }
        for mode in [0o720, 0o702, 0o1777] {
            fs::set_permissions(&cache.path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(Entry::new(cache.fd.as_fd(), &profile(1)).is_none(), "{mode:o}");
            assert!(!cache.hit(&profile(1)));
        }
    }

    #[test]
    fn a_cache_that_cannot_be_used_is_no_error() {
        let file = fs::File::open("/dev/null").unwrap();
        compile_cached(&profile(1), Some(file.as_fd())).unwrap();
        let cache = Cache::new("gone");
        fs::remove_dir(&cache.path).unwrap();
        assert!(!cache.hit(&profile(1)) && !cache.hit(&profile(1)));
        let cache = Cache::new("left");
        let left = cache.path.join(format!(".{}", std::process::id()));
        fs::write(&left, "left by a killed process of our number").unwrap();
        assert!(!cache.hit(&profile(1)), "in the way this once");
        assert!(!cache.hit(&profile(1)) && cache.hit(&profile(1)));
    }

    #[test]
    fn the_oldest_go() {
        let cache = Cache::new("trim");
        fs::create_dir(cache.path.join("directory")).unwrap();
        for i in 0..MAX_FILES + 5 {
            let name = cache.path.join(format!("{i}"));
            let file = fs::File::create(name).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + i as u64)).unwrap();
        }
        assert!(!cache.hit(&profile(1)));
        assert_eq!(cache.files().len(), MAX_FILES + 1);
        assert!(!cache.path.join("5").exists() && cache.path.join("6").exists());
        assert!(cache.hit(&profile(1)));
    }
}
