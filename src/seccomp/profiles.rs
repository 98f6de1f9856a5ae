//! The profiles that come with tare: `seccomp-profiles/`, for `tare spec --seccomp NAME`.

/// The names that [`builtin`] knows.
pub const NAMES: [&str; 3] = ["default", "strict", "log"];

/// A profile by its name, as the JSON text of a `linux.seccomp` object; `None` for other names than [`NAMES`].
pub fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "default" => Some(include_str!("../../seccomp-profiles/default.json")),
        "strict" => Some(include_str!("../../seccomp-profiles/strict.json")),
        "log" => Some(include_str!("../../seccomp-profiles/log.json")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

    use super::*;
    use crate::seccomp::sim::*;
    use crate::seccomp::{Filter, arch, compile};

    fn profile(name: &str) -> LinuxSeccomp {
        serde_json::from_str(builtin(name).unwrap()).unwrap()
    }

    fn filter(name: &str) -> Filter {
        compile(&profile(name)).unwrap()
    }

    const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
    const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

    #[test]
    fn each_parses_and_compiles() {
        for name in NAMES {
            let filter = filter(name);
            // An old libseccomp misses names; nothing else may be amiss.
            assert!(filter.warnings.iter().all(|w| w.contains("not known to libseccomp")), "{:?}", filter.warnings);
            assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
        }
        assert_eq!(builtin("docker"), None);
    }

    #[test]
    fn default_is_dockers() {
        let f = filter("default");
        let table: &[(&str, &[u64], Verdict)] = &[
            ("read", &[], ALLOW),
            ("execve", &[], ALLOW),
            ("ptrace", &[], ALLOW),
            ("chroot", &[], ALLOW),
            ("seccomp", &[], ALLOW),
            ("landlock_restrict_self", &[], ALLOW),
            ("memfd_secret", &[], ALLOW),
            // Of capabilities that are not Docker's default ones.
            ("mount", &[], EPERM),
            ("umount2", &[], EPERM),
            ("open_tree", &[], EPERM),
            ("move_mount", &[], EPERM),
            ("fsopen", &[], EPERM),
            ("setns", &[], EPERM),
            ("unshare", &[], EPERM),
            ("sethostname", &[], EPERM),
            ("bpf", &[], EPERM),
            ("perf_event_open", &[], EPERM),
            ("open_by_handle_at", &[], EPERM),
            ("reboot", &[], EPERM),
            ("init_module", &[], EPERM),
            ("finit_module", &[], EPERM),
            ("acct", &[], EPERM),
            ("kcmp", &[], EPERM),
            ("pidfd_getfd", &[], EPERM),
            ("process_madvise", &[], EPERM),
            ("settimeofday", &[], EPERM),
            ("clock_settime", &[], EPERM),
            ("vhangup", &[], EPERM),
            ("mbind", &[], EPERM),
            ("set_mempolicy", &[], EPERM),
            ("syslog", &[], EPERM),
            // Of none.
            ("add_key", &[], EPERM),
            ("keyctl", &[], EPERM),
            ("request_key", &[], EPERM),
            ("io_uring_setup", &[], EPERM),
            ("io_uring_enter", &[], EPERM),
            ("io_uring_register", &[], EPERM),
            ("userfaultfd", &[], EPERM),
            ("kexec_load", &[], EPERM),
            ("swapon", &[], EPERM),
            ("pivot_root", &[], EPERM),
            // By argument.
            ("clone3", &[], ENOSYS),
            ("clone", &[libc::SIGCHLD as u64], ALLOW),
            ("clone", &[CLONE_THREAD | libc::CLONE_VM as u64], ALLOW),
            ("clone", &[NEWUSER], EPERM),
            ("clone", &[libc::CLONE_NEWNS as u64 | libc::SIGCHLD as u64], EPERM),
            ("clone", &[libc::CLONE_NEWCGROUP as u64], EPERM),
            ("personality", &[0], ALLOW),
            ("personality", &[0x0008], ALLOW),
            ("personality", &[0x20000], ALLOW),
            ("personality", &[0x20008], ALLOW),
            ("personality", &[0xffff_ffff], ALLOW),
            ("personality", &[0x0040000], EPERM),
            ("socket", &[libc::AF_UNIX as u64], ALLOW),
            ("socket", &[libc::AF_INET as u64], ALLOW),
            ("socket", &[libc::AF_INET6 as u64], ALLOW),
            ("socket", &[libc::AF_NETLINK as u64], ALLOW),
            ("socket", &[libc::AF_PACKET as u64], ALLOW),
            ("socket", &[libc::AF_CAN as u64], ALLOW),
            ("socket", &[libc::AF_XDP as u64], ALLOW),
            ("socket", &[libc::AF_ALG as u64], EPERM),
            ("socket", &[libc::AF_VSOCK as u64], EPERM),
            ("socket", &[libc::AF_DECnet as u64], EPERM),
            ("socket", &[libc::AF_IRDA as u64], EPERM),
            ("socket", &[libc::AF_ISDN as u64], EPERM),
            ("socket", &[46], EPERM),
            ("socket", &[1 << 32 | libc::AF_UNIX as u64], EPERM),
        ];
        for (name, args, verdict) in table {
            assert_eq!(f.call(name, args), *verdict, "{name}({args:x?})");
        }
        assert_eq!(f.raw(arch::native().unwrap(), 9999, &[]), ENOSYS);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn default_has_the_32_bit_abis() {
        use oci_spec::runtime::Arch::*;
        let f = filter("default");
        for arch in [ScmpArchX86, ScmpArchX32] {
            assert_eq!(f.raw(arch, number(arch, "openat"), &[]), ALLOW, "{arch}");
            assert_eq!(f.raw(arch, number(arch, "mount"), &[]), EPERM, "{arch}");
            assert_eq!(f.raw(arch, number(arch, "clone"), &[NEWUSER]), EPERM, "{arch}");
            assert_eq!(f.raw(arch, number(arch, "clone3"), &[]), ENOSYS, "{arch}");
            assert_eq!(f.raw(arch, number(arch, "fork"), &[]), ALLOW, "{arch}");
            assert_eq!(f.raw(arch, number(arch, "openat") + 9999, &[]), ENOSYS, "{arch}");
        }
        // A 32-bit C library's way to a socket: nothing of it can be filtered, and Docker lets it through.
        assert_eq!(f.raw(ScmpArchX86, number(ScmpArchX86, "socketcall"), &[1]), ALLOW);
    }

    #[test]
    fn strict_serves_the_network_and_starts_nothing() {
        let f = filter("strict");
        let table: &[(&str, &[u64], Verdict)] = &[
            ("read", &[], ALLOW),
            ("accept4", &[], ALLOW),
            ("epoll_pwait", &[], ALLOW),
            ("futex", &[], ALLOW),
            ("openat", &[], ALLOW),
            ("execve", &[], ALLOW),
            ("clone", &[CLONE_THREAD | libc::CLONE_VM as u64 | libc::CLONE_SIGHAND as u64], ALLOW),
            ("clone", &[libc::SIGCHLD as u64], EPERM),
            ("clone", &[CLONE_THREAD | NEWUSER], EPERM),
            ("clone3", &[], ENOSYS),
            ("execveat", &[], EPERM),
            ("ptrace", &[], EPERM),
            ("process_vm_readv", &[], EPERM),
            ("mount", &[], EPERM),
            ("chroot", &[], EPERM),
            ("setuid", &[], EPERM),
            ("mknodat", &[], EPERM),
            ("fchownat", &[], EPERM),
            ("symlinkat", &[], EPERM),
            ("memfd_create", &[], EPERM),
            ("seccomp", &[], EPERM),
            ("io_uring_setup", &[], EPERM),
            ("shmget", &[], EPERM),
            ("socket", &[libc::AF_UNIX as u64, libc::SOCK_STREAM as u64], ALLOW),
            ("socket", &[libc::AF_INET as u64, libc::SOCK_STREAM as u64], ALLOW),
            ("socket", &[libc::AF_INET6 as u64, libc::SOCK_DGRAM as u64], ALLOW),
            ("socket", &[libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, libc::NETLINK_ROUTE as u64], ALLOW),
            ("socket", &[libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, libc::NETLINK_NETFILTER as u64], EPERM),
            ("socket", &[libc::AF_PACKET as u64, libc::SOCK_RAW as u64], EPERM),
            ("ioctl", &[0, libc::FIONBIO], ALLOW),
            ("ioctl", &[0, libc::FIOCLEX], ALLOW),
            ("ioctl", &[0, libc::TCGETS], ALLOW),
            ("ioctl", &[0, libc::TIOCSTI], EPERM),
            ("prctl", &[libc::PR_SET_NAME as u64], ALLOW),
            ("prctl", &[libc::PR_SET_VMA as u64], ALLOW),
            ("prctl", &[libc::PR_SET_SECCOMP as u64], EPERM),
        ];
        for (name, args, verdict) in table {
            assert_eq!(f.call(name, args), *verdict, "{name}({args:x?})");
        }
        let native = arch::native().unwrap();
        assert_eq!(f.raw(native, number(native, "futex_waitv") + 1, &[]), ENOSYS);
    }

    #[test]
    fn log_logs_what_strict_denies() {
        let (log, strict) = (profile("log"), profile("strict"));
        let allowed = |profile: &LinuxSeccomp| {
            let entries = profile.syscalls().clone().unwrap_or_default();
            entries.into_iter().filter(|e| e.action() == LinuxSeccompAction::ScmpActAllow).collect::<Vec<_>>()
        };
        assert_eq!(allowed(&log), allowed(&strict));
        assert_eq!(log.syscalls().as_ref().map(Vec::len), Some(allowed(&strict).len()), "and nothing else");
        let f = filter("log");
        assert_eq!(f.call("read", &[]), ALLOW);
        assert_eq!(f.call("mount", &[]), LOG);
        assert_eq!(f.call("clone3", &[]), LOG);
        assert_eq!(f.raw(arch::native().unwrap(), 9999, &[]), LOG);
    }
}
