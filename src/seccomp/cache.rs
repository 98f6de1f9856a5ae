//! Compiled programs, kept between containers: one file each in a directory that the caller has opened.
//!
//! A file's name is the hash of all that a program depends on. Whoever could write here could weaken the filter of the
//! next container, so nothing is trusted that others may have written, neither the directory nor the file; the hash is
//! repeated inside, so that not even an exchange of two of our own files goes unseen. Nothing here is an error: what
//! cannot be read is compiled, what cannot be written is not kept.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use super::compile::{INSTRUCTION, MAX_INSTRUCTIONS};

/// Part of the key: to be raised whenever another program is made of the same profile.
const FORMAT: u32 = 1;

/// How many files are kept.
const MAX_FILES: usize = 64;

/// The first bytes of a file: magic, key, hash of the program.
const MAGIC: [u8; 8] = *b"tare-bpf";
const HEADER: usize = MAGIC.len() + 2 * size_of::<Hash>();

type Hash = [u8; 32];

/// The place of one profile's program in the cache.
pub struct Entry<'a> {
    dir: BorrowedFd<'a>,
    key: Hash,
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
        let key: Hash = hash.finalize().into();
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
        if !ours(&stat, FileType::RegularFile, geteuid().as_raw()) || size > HEADER + MAX_INSTRUCTIONS * INSTRUCTION {
            return None;
        }
        let mut file = Vec::with_capacity(size);
        File::from(fd).take(size as u64).read_to_end(&mut file).ok()?;
        let program = file.get(HEADER..)?.to_vec();
        let whole = !program.is_empty() && program.len().is_multiple_of(INSTRUCTION);
        (whole && file[..HEADER] == self.header(&program)).then_some(program)
    }

    /// Keeps a program: under a temporary name first, so that a reader never sees half of it. Not synced: the cache is
    /// on a tmpfs, and the hash tells a torn file.
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

    fn header(&self, program: &[u8]) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let (magic, hashes) = header.split_at_mut(MAGIC.len());
        let (key, hash) = hashes.split_at_mut(size_of::<Hash>());
        magic.copy_from_slice(&MAGIC);
        key.copy_from_slice(&self.key);
        hash.copy_from_slice(&Sha256::digest(program));
        header
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
