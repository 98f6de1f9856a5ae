//! HOME from the image's passwd. The file is the image's: its size and its lines are bounded (CVE-2026-61801), and it
//! must be a regular file; not one of /proc, where a link may lead to this process's own environment, which is the host's.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::sys::root;

/// Bytes of /etc/passwd that are looked at.
const MOST: u64 = 4 << 20;
/// Bytes of a line; longer ones are passed over.
const LONGEST: u64 = 4096;

/// The home directory of `uid` in the image, or "/".
pub fn of(rootfs: impl AsFd, uid: u32) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = root::open(rootfs, Path::new("/etc/passwd"), flags) else { return "/".into() };
    let regular = |s: rustix::fs::Stat| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile;
    let of_proc = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type as i64 == libc::PROC_SUPER_MAGIC);
    if of_proc || !rustix::fs::fstat(&file).is_ok_and(regular) {
        return "/".into();
    }
    find(BufReader::new(std::fs::File::from(file).take(MOST)), uid).unwrap_or_else(|| "/".into())
}

/// name:password:uid:gid:gecos:home:shell (passwd(5)). The number is compared as a number.
fn find(mut lines: impl BufRead, uid: u32) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = lines.by_ref().take(LONGEST).read_until(b'\n', &mut line).ok()?;
        if n == 0 {
            return None;
        }
        if line.last() != Some(&b'\n') && n as u64 == LONGEST {
            skip_line(&mut lines)?;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let fields: Vec<&str> = text.trim_end().split(':').collect();
        let usable = |home: &str| !home.is_empty() && !home.contains('\0');
        if fields.len() >= 6 && fields[2].parse() == Ok(uid) && usable(fields[5]) {
            return Some(fields[5].to_owned());
        }
    }
}

/// Reads to the end of a line without keeping it.
fn skip_line(lines: &mut impl BufRead) -> Option<()> {
    loop {
        let buffer = lines.fill_buf().ok()?;
        if buffer.is_empty() {
            return Some(());
        }
        let (used, ended) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        lines.consume(used);
        if ended {
            return Some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn finds_by_number_and_passes_over_long_lines() {
        let long = format!("x:{}:7:7::/long:/bin/sh\n", "y".repeat(10_000));
        let text =
            format!("1000:x:0:0::/byname:/bin/sh\n{long}root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:\n");
        assert_eq!(find(text.as_bytes(), 1000).as_deref(), Some("/home/u"));
        assert_eq!(find(text.as_bytes(), 0).as_deref(), Some("/byname"));
        assert_eq!(find(text.as_bytes(), 7), None);
        assert_eq!(find(&b"a:x:5:5::/h"[..], 5).as_deref(), Some("/h"));
        assert_eq!(find(&b""[..], 5), None);
    }
}
