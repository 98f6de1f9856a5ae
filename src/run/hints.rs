//! What may help, by call, errno and field: one table.

use nix::errno::Errno;

use crate::error::Error;

/// (call, errno, beginning of the field, hint)
const HINTS: [(&str, Errno, &str, &str); 16] = [
    ("open_tree", Errno::ENOENT, "mounts", "the source is missing on the host"),
    (
        "open_tree",
        Errno::EINVAL,
        "mounts",
        "the source holds mounts that are locked in a parent user namespace; use rbind",
    ),
    ("open_tree", Errno::EPERM, "", "opening mounts needs CAP_SYS_ADMIN; LXC and Incus need security.nesting=true"),
    (
        "openat2",
        Errno::ELOOP,
        "mounts",
        "the image has a loop of links there, or one that leads through those of /proc",
    ),
    (
        "move_mount",
        Errno::EACCES,
        "",
        "a security module denies detached mounts (AppArmor in LXC: lxc.apparmor.profile)",
    ),
    ("fsopen", Errno::ENODEV, "mounts", "the kernel does not know this type of file system"),
    ("fsconfig", Errno::EINVAL, "mounts", "an option or its value is unknown to this file system"),
    ("fsconfig", Errno::EPERM, "mounts", "this file system may not be mounted here"),
    ("fsconfig", Errno::EBUSY, "mounts", "the file system is mounted elsewhere with other options"),
    ("openat2", Errno::ENOTDIR, "mounts", "a file is in the way: a directory can only be mounted on a directory"),
    ("mkdirat", Errno::EROFS, "mounts", "the target is missing and the rootfs is on a read-only file system"),
    ("openat", Errno::EROFS, "mounts", "the target is missing and the rootfs is on a read-only file system"),
    ("mknodat", Errno::EPERM, "", "making device nodes needs CAP_MKNOD in the initial user namespace"),
    ("openat2", Errno::ENOENT, "linux.sysctl", "the kernel has no such sysctl, or not in this namespace"),
    ("write", Errno::EINVAL, "linux.sysctl", "the kernel refuses the value"),
    ("write", Errno::EACCES, "process.oomScoreAdj", "lowering oom_score_adj needs CAP_SYS_RESOURCE"),
];

/// Adds the hint that fits, if the error has none.
pub fn explain(e: Error) -> Error {
    let Some(source) = &e.source else { return e };
    let field = e.origin.as_ref().map(|o| o.field.as_ref()).unwrap_or_default();
    let fits = |(call, errno, begins, _): &&(&str, Errno, &str, &str)| {
        source.call == *call && source.errno == *errno && field.starts_with(begins)
    };
    match HINTS.iter().find(fits) {
        Some((_, _, _, hint)) => e.hint(*hint),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Origin;
    use crate::sys::SysError;

    #[test]
    fn every_hint_is_reached_and_none_hides_another() {
        for (call, errno, field, hint) in HINTS {
            let e = Error::sys("x", SysError::new(call, "", errno)).at(Origin::field(format!("{field}[0]")));
            assert_eq!(explain(e).hint.as_deref(), Some(hint));
        }
        let e = Error::sys("x", SysError::new("open_tree", "", Errno::ENOENT)).at(Origin::field("root.path"));
        assert_eq!(explain(e).hint, None);
    }
}
