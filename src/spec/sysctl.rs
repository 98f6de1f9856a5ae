//! Sysctls: which file a name means, and whether a container may have it. /proc/sys is namespaced in parts only; a
//! sysctl of another part would be the host's.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::check::{has_own, word};
use super::{bad, one_line};
use crate::error::{Error, Origin, Result};

/// The System V and POSIX IPC sysctls that belong to the ipc namespace, besides `fs.mqueue.*`.
const IPC: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The file below /proc/sys that a sysctl's name means, or nothing if it means none.
///
/// As in sysctl.d(5) the first separator decides: in `net.ipv4.conf.eth0/100.rp_filter` dots separate and the slash is
/// a dot of the name, in `net/ipv4/conf/eth0.100/rp_filter` slashes do.
pub fn sysctl_path(name: &str) -> Option<String> {
    let dotted = name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] == b'.');
    let path = if dotted {
        name.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    } else {
        name.to_owned()
    };
    let clean = path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    clean.then_some(path)
}

/// Only sysctls of the container's own namespaces.
pub fn check(spec: &Spec) -> Result<()> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for name in spec.linux().iter().flat_map(|l| l.sysctl().iter().flatten()).map(|(name, _)| name) {
        let Some(path) = sysctl_path(name) else {
            return Err(bad("linux.sysctl", format!("{:?} is no sysctl", one_line(name))));
        };
        allowed(spec, &path).map_err(|why| Error::new(why).at(Origin::new("linux.sysctl", one_line(name))))?;
        // Which one would win is left to chance.
        if let Some(other) = seen.insert(path, name) {
            return Err(bad("linux.sysctl", format!("{:?} and {:?} are the same", one_line(other), one_line(name))));
        }
    }
    Ok(())
}

/// The kind of namespace that a sysctl belongs to, if a container may set it at all; `path` is below /proc/sys.
pub fn sysctl_namespace(path: &str) -> Option<LinuxNamespaceType> {
    match path {
        _ if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        _ if path.starts_with("fs/mqueue/") || IPC.contains(&path) => Some(LinuxNamespaceType::Ipc),
        "kernel/domainname" => Some(LinuxNamespaceType::Uts),
        _ => None,
    }
}

/// runc's rules and words.
fn allowed(spec: &Spec, path: &str) -> Result<(), String> {
    match sysctl_namespace(path) {
        Some(kind) if has_own(spec, kind) => Ok(()),
        Some(kind) => Err(format!("not allowed in the host's {} namespace", word(kind))),
        None if path == "kernel/hostname" => Err("not allowed as it conflicts with the OCI \"hostname\" field".into()),
        None if path.starts_with("user/") => Err("not supported yet".into()),
        None => Err("not in a separate kernel namespace".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn names_and_files() {
        let table = [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/ip_forward", Some("net/ipv4/ip_forward")),
            ("net.ipv4.conf.eno2/100.rp_filter", Some("net/ipv4/conf/eno2.100/rp_filter")),
            ("net/ipv4/conf/eno2.100/rp_filter", Some("net/ipv4/conf/eno2.100/rp_filter")),
            ("swap", Some("swap")),
            ("", None),
            ("net..ipv4", None),
            ("net/../kernel/hostname", None),
            ("net.//.kernel.hostname", None),
            ("/net/ipv4", None),
            ("net/", None),
            ("net.a\0b", None),
        ];
        for (name, file) in table {
            assert_eq!(sysctl_path(name).as_deref(), file, "{name}");
        }
    }
}
