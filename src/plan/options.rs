//! The options of a mount in config.json: which are bits of a mount, which of a file system, which are ours.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::sys::mount::{Attr, FsOption};

// include/uapi/linux/mount.h
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;

/// A change of propagation: `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, and whether for all mounts below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Propagation {
    /// The `MS_*` flag.
    pub flag: u64,
    /// Whether it is meant for all mounts below, too (`rslave`).
    pub recursive: bool,
}

/// The options of one mount, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Bits of the mount itself.
    pub attr: Attr,
    /// Bits of the mount and all below it (`rro`).
    pub recursive_attr: Attr,
    /// Changes of propagation, in order.
    pub propagation: Vec<Propagation>,
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    /// `remount`: change what is mounted there already.
    pub remount: bool,
    /// `tmpcopyup`: a tmpfs that starts with what the rootfs has at its place.
    pub copy_up: bool,
    /// `src-nofollow`: a link as the source is taken itself.
    pub source_nofollow: bool,
    /// `dest-nofollow`: a link at the target is covered itself.
    pub target_nofollow: bool,
    /// `copy-symlink`: a link as the source is made anew at the target.
    pub copy_symlink: bool,
    /// Flags of the file system (`sync`), and options that only it knows (`size=64m`).
    pub data: Vec<FsOption>,
}

/// `ro` and the like: the word, the bits it sets, the bits it clears. With an `r` before it, it holds for all mounts below.
const ATTRS: [(&str, u64, u64); 19] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("noatime", NOATIME, ATIME),
    ("atime", 0, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", 0, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
    ("defaults", 0, 0),
];

const PROPAGATION: [(&str, u64); 4] = [
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("private", libc::MS_PRIVATE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Flags of a file system that fsconfig(2) knows by name, and their opposites, which are the default.
const FS_FLAGS: [&str; 6] = ["sync", "dirsync", "lazytime", "mand", "iversion", "silent"];
const FS_FLAGS_OFF: [&str; 7] = ["async", "nolazytime", "nomand", "noiversion", "loud", "acl", "noacl"];

/// What the pseudo file systems of every container know, so that a misspelt option is found before anything is touched.
/// Other file systems answer for themselves, through the kernel's message.
fn known_data(fstype: &str) -> Option<&'static [&'static str]> {
    Some(match fstype {
        "proc" => &["hidepid", "gid", "subset", "pidns"],
        "sysfs" | "mqueue" => &[],
        "tmpfs" => &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
            "inode32",
            "inode64",
            "noswap",
            "swap",
            "quota",
            "usrquota",
            "grpquota",
            "usrquota_block_hardlimit",
            "usrquota_inode_hardlimit",
            "grpquota_block_hardlimit",
            "grpquota_inode_hardlimit",
            "casefold",
            "strict_encoding",
        ],
        "devpts" => &["newinstance", "ptmxmode", "mode", "uid", "gid", "max"],
        "cgroup2" => &[
            "nsdelegate",
            "favordynmods",
            "memory_localevents",
            "memory_recursiveprot",
            "memory_hugetlb_accounting",
            "pids_localevents",
        ],
        _ => return None,
    })
}

/// SELinux contexts hold commas and are never split.
const CONTEXTS: [&str; 5] = ["context", "fscontext", "defcontext", "rootcontext", "seclabel"];

/// The word for messages, `rslave`.
pub fn propagation_flag(word: &str) -> Option<Propagation> {
    let find = |w: &str| PROPAGATION.iter().find(|(name, _)| *name == w).map(|(_, flag)| *flag);
    match find(word) {
        Some(flag) => Some(Propagation { flag, recursive: false }),
        None => word.strip_prefix('r').and_then(find).map(|flag| Propagation { flag, recursive: true }),
    }
}

/// Reads the options of a mount of type `fstype` (`bind` for bind mounts).
///
/// # Errors
/// An option that a bind mount or a well-known file system cannot have; the error names the option, not the field.
pub fn parse(fstype: &str, options: &[String]) -> Result<MountOptions> {
    let mut parsed = MountOptions { bind: fstype == "bind", ..MountOptions::default() };
    for option in options {
        one(&mut parsed, option);
    }
    if fstype == "bind" && !parsed.remount {
        parsed.bind = true;
    }
    if parsed.bind {
        if let Some((key, _)) = parsed.data.iter().find(|(k, _)| !FS_FLAGS.contains(&k.as_str())) {
            return Err(Error::new(format!("unknown option {key:?}: a bind mount has no options of a file system")));
        }
        parsed.data.clear(); // sync and its like: runc passes them on, the kernel ignores them
        return Ok(parsed);
    }
    // A new file system is one mount: `rro` is `ro`.
    let every = parsed.recursive_attr.set & !parsed.attr.clear;
    apply(&mut parsed.attr, every, 0);
    if let Some(known) = known_data(fstype) {
        parsed.data = split_commas(std::mem::take(&mut parsed.data));
        let strange = |(k, _): &&FsOption| {
            !known.contains(&k.as_str()) && !FS_FLAGS.contains(&k.as_str()) && !CONTEXTS.contains(&k.as_str())
        };
        if let Some((key, _)) = parsed.data.iter().find(strange) {
            return Err(Error::new(format!("unknown option {key:?} of {fstype}")));
        }
    } else if parsed.attr.set & RDONLY != 0 {
        // A file system on a device is opened for reading only; of the pseudo ones just the mount is read-only, since
        // theirs may be shared with others.
        parsed.data.push(("ro".into(), None));
    }
    Ok(parsed)
}

/// The last word wins.
fn apply(attr: &mut Attr, set: u64, clear: u64) {
    attr.set = attr.set & !(clear | set) | set;
    attr.clear = attr.clear & !set | clear;
}

fn one(parsed: &mut MountOptions, option: &str) {
    let find = |word: &str| ATTRS.iter().find(|(name, _, _)| *name == word && *name != "defaults");
    if option == "defaults" || option.is_empty() {
    } else if let Some((_, set, clear)) = find(option) {
        apply(&mut parsed.attr, *set, *clear);
    } else if let Some((_, set, clear)) = option.strip_prefix('r').and_then(find) {
        apply(&mut parsed.recursive_attr, *set, *clear);
    } else if let Some(propagation) = propagation_flag(option) {
        parsed.propagation.push(propagation);
    } else if FS_FLAGS_OFF.contains(&option) {
        parsed.data.retain(|(key, _)| option.strip_prefix("no").unwrap_or(&option[1..]) != key);
    } else {
        match option {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "remount" => parsed.remount = true,
            "tmpcopyup" => parsed.copy_up = true,
            "src-nofollow" => parsed.source_nofollow = true,
            "dest-nofollow" => parsed.target_nofollow = true,
            "copy-symlink" => (parsed.copy_symlink, parsed.source_nofollow) = (true, true),
            // plan/idmap.rs reads them.
            _ if matches!(option.split('=').next(), Some("idmap" | "ridmap")) => {}
            _ => parsed.data.push(key_value(option)),
        }
    }
}

fn key_value(option: &str) -> FsOption {
    match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (option.to_owned(), None),
    }
}

/// mount(2) takes options joined by commas, so people write `size=64m,mode=755` as one.
fn split_commas(data: Vec<FsOption>) -> Vec<FsOption> {
    let mut out = Vec::with_capacity(data.len());
    for (key, value) in data {
        match value {
            Some(value) if value.contains(',') && !CONTEXTS.contains(&key.as_str()) => {
                let mut parts = value.split(',');
                out.push((key, parts.next().map(str::to_owned)));
                out.extend(parts.filter(|p| !p.is_empty()).map(key_value));
            }
            value => out.push((key, value)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(fstype: &str, options: &[&str]) -> MountOptions {
        parse(fstype, &options.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(p("bind", &["ro", "rw"]).attr, Attr { set: 0, clear: RDONLY, propagation: 0 });
        assert_eq!(p("bind", &["rw", "ro"]).attr, Attr { set: RDONLY, clear: 0, propagation: 0 });
        assert_eq!(p("bind", &["noatime"]).attr, Attr { set: NOATIME, clear: ATIME, propagation: 0 });
        assert_eq!(
            p("bind", &["noatime", "strictatime"]).attr,
            Attr { set: STRICTATIME, clear: ATIME, propagation: 0 }
        );
        assert_eq!(p("bind", &["nosuid", "suid", "nodev"]).attr, Attr { set: NODEV, clear: NOSUID, propagation: 0 });
        assert_eq!(p("bind", &["rro", "rnosuid"]).recursive_attr.set, RDONLY | NOSUID);
        assert_eq!(p("tmpfs", &["sync", "async"]).data, vec![]);
        assert_eq!(p("tmpfs", &["lazytime", "nolazytime", "dirsync"]).data, vec![("dirsync".into(), None)]);
    }

    #[test]
    fn every_option_of_runc_is_known() {
        // `runc features`, mountOptions, 1.3.6
        let words = "acl async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noacl noatime \
            nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private \
            ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime \
            rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid \
            rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";
        for word in words.split_whitespace() {
            let options = p("ext4", &[word]);
            let own = options.data.iter().all(|(k, _)| FS_FLAGS.contains(&k.as_str()) || k == "ro");
            assert!(own, "{word} was taken for an option of the file system: {options:?}");
        }
    }

    #[test]
    fn recursive_words_hold_for_a_new_file_system() {
        assert_eq!(p("tmpfs", &["rro", "rnosuid"]).attr.set, RDONLY | NOSUID);
        assert_eq!(p("tmpfs", &["rro", "rw"]).attr.set, 0);
    }

    #[test]
    fn data() {
        let size = ("size".to_owned(), Some("64m".to_owned()));
        let mode = ("mode".to_owned(), Some("755".to_owned()));
        assert_eq!(p("tmpfs", &["size=64m", "mode=755"]).data, [size.clone(), mode.clone()]);
        assert_eq!(p("tmpfs", &["size=64m,mode=755"]).data, [size, mode]);
        let context = p("tmpfs", &["context=system_u:object_r:container_file_t:s0:c1,c2"]).data;
        assert_eq!(context[0].1.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
        assert!(parse("tmpfs", &["bogus".into()]).is_err());
        assert!(parse("bind", &["bogus".into()]).is_err());
        assert!(parse("proc", &["size=1".into()]).is_err());
        assert_eq!(p("ext4", &["ro", "data=ordered"]).data.len(), 2);
    }
}
