//! ENOSYS for system calls that are newer than the profile.
//!
//! A profile written before a call existed cannot name it, so it gets the default action, mostly EPERM. C libraries
//! fall back to an older call on ENOSYS only, and break on EPERM. So every call above the newest that the profile
//! names gets ENOSYS, by a few instructions placed before libseccomp's, which cannot express it. Runc does the same
//! (runc #2750, and #4219 for the native architecture); a hole below the newest call stays with the default action.

use libc::{BPF_JEQ, BPF_JGE, BPF_JGT, SECCOMP_RET_ERRNO, sock_filter};
use libseccomp::{ScmpAction, ScmpSyscall};
use oci_spec::runtime::Arch;

use super::arch::{self, ARM_PRIVATE, X32_BIT};
use super::bpf::{jump, ret};

/// Whether newer calls are to get ENOSYS. Not where the default lets calls through (a tracer answers for new calls
/// itself), or is ENOSYS already.
pub fn wanted(default: ScmpAction) -> bool {
    !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) | ScmpAction::Errno(libc::ENOSYS))
}

/// The largest number that the names have on an architecture. `None` where it has none of the calls: then its calls
/// are left to the default action.
pub fn newest<'a>(arch: Arch, names: impl Iterator<Item = &'a str>) -> Option<u32> {
    let scmp = arch::to_scmp(arch);
    let number = |name| {
        let number = ScmpSyscall::from_name_by_arch(name, scmp).ok()?.as_raw_syscall();
        // Negative: libseccomp knows the call, the architecture doesn't have it.
        u32::try_from(number).ok().filter(|number| end(arch).is_none_or(|end| *number < end))
    };
    names.filter_map(number).max().filter(|newest| *newest > 0)
}

/// The instructions: with the call's number loaded, return ENOSYS or fall off the end.
pub fn check(arch: Arch, newest: u32) -> Vec<sock_filter> {
    let enosys = ret(SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut check = Vec::new();
    if matches!(arch, Arch::ScmpArchS390 | Arch::ScmpArchS390x) {
        // s390 carries large numbers in a register of call 0 (once setup). A number that the kernel doesn't know is
        // left at 0, so that is what a newer call looks like; no program has called setup itself for decades.
        check.extend([jump(BPF_JEQ, 0, 0, 1), enosys]);
    }
    if let Some(end) = end(arch) {
        check.push(jump(BPF_JGE, end, 2, 0));
    }
    check.extend([jump(BPF_JGT, newest, 0, 1), enosys]);
    check
}

/// The end of the numbers that grow with time; those from here on are another ABI's, or private ones.
fn end(arch: Arch) -> Option<u32> {
    match arch {
        Arch::ScmpArchX86_64 => Some(X32_BIT),
        Arch::ScmpArchArm => Some(ARM_PRIVATE),
        _ => None,
    }
}
