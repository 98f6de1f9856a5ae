//! ENOSYS for system calls that are newer than the profile.
//!
//! A profile written before a call existed cannot name it, so it gets the default action, mostly EPERM. C libraries
//! fall back to an older call on ENOSYS only, and break on EPERM. So every call above the newest that the profile
//! names gets ENOSYS, by a few instructions placed before libseccomp's, which cannot express it. Runc does the same
//! (runc #2750, and #4219 for the native architecture); a hole below the newest call stays with the default action.

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ERRNO,
    seccomp_data, sock_filter,
};
use libseccomp::{ScmpAction, ScmpSyscall};
use oci_spec::runtime::Arch;

use super::arch::{self, ARM_PRIVATE, X32_BIT};

/// The newest call that a profile names, on one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    arch: Arch,
    number: u32,
}

impl Newest {
    /// `None` where the architecture has none of the calls: then its calls are left to the default action.
    pub fn new<'a>(arch: Arch, names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let scmp = arch::to_scmp(arch);
        let number = |name| {
            let number = ScmpSyscall::from_name_by_arch(name, scmp).ok()?.as_raw_syscall();
            // Negative: libseccomp knows the call, the architecture doesn't have it.
            u32::try_from(number).ok().filter(|n| arch != Arch::ScmpArchArm || *n < ARM_PRIVATE)
        };
        let number = names.filter_map(number).max().filter(|n| *n > 0)?;
        Some(Newest { arch, number })
    }

    /// The end of the architecture's own range of numbers; those from here on are another's (x32 beside x86_64), or
    /// have nothing to do with the age of a call.
    fn end(self) -> Option<u32> {
        match self.arch {
            Arch::ScmpArchX86_64 => Some(X32_BIT),
            Arch::ScmpArchArm => Some(ARM_PRIVATE),
            _ => None,
        }
    }
}

/// Whether there is to be a stub. Not where the default lets calls through (a tracer answers for new calls itself),
/// or is ENOSYS already.
pub fn wanted(default: ScmpAction) -> bool {
    !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) | ScmpAction::Errno(libc::ENOSYS))
}

/// The stub: either returns ENOSYS or falls off its end, where libseccomp's program begins. Nothing in it but loads of
/// the call's number and architecture, comparisons and returns, so that the kernel (5.11 and newer) still finds out at
/// load time which calls are always allowed and then skips the whole program for them.
///
/// ```text
///     load arch
///     for each audit architecture, native first:
///         if arch != it: skip the section
///         load number
///         s390 only:    if number == 0: return ENOSYS
///         for each of its ABIs (x86_64 then x32; one elsewhere):
///             if number >= end of the ABI's range: skip the next two
///             if number > newest: return ENOSYS
///         jump to the end
/// ```
pub fn stub(newest: &[Newest]) -> Vec<sock_filter> {
    if newest.is_empty() {
        return Vec::new();
    }
    let mut stub = vec![load(std::mem::offset_of!(seccomp_data, arch))];
    let mut to_end = Vec::new();
    let audits: Vec<u32> = newest.iter().map(|n| arch::audit(n.arch)).collect();
    for (i, audit) in audits.iter().enumerate() {
        if audits[..i].contains(audit) {
            continue;
        }
        let mut abis: Vec<Newest> = newest.iter().copied().filter(|n| arch::audit(n.arch) == *audit).collect();
        abis.sort_by_key(|n| n.number);
        let section = section(&abis);
        // A section has at most 9 instructions, so its length fits the 8 bits of a conditional jump.
        stub.push(jump(BPF_JEQ, *audit, 0, section.len() as u8 + 1));
        stub.extend(section);
        to_end.push(stub.len());
        stub.push(jump(BPF_JA, 0, 0, 0));
    }
    let len = stub.len();
    for at in to_end {
        stub[at].k = (len - at - 1) as u32;
    }
    stub
}

/// The comparisons of one audit architecture, ABIs in the order of their numbers.
fn section(abis: &[Newest]) -> Vec<sock_filter> {
    let enosys = ret(SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut section = vec![load(std::mem::offset_of!(seccomp_data, nr))];
    if abis.iter().any(|n| matches!(n.arch, Arch::ScmpArchS390 | Arch::ScmpArchS390x)) {
        // s390 carries large numbers in a register of call 0 (once setup). A number that the kernel doesn't know is
        // left at 0, so that is what a newer call looks like; no program has called setup itself for decades.
        section.extend([jump(BPF_JEQ, 0, 0, 1), enosys]);
    }
    for abi in abis {
        if let Some(end) = abi.end() {
            section.push(jump(BPF_JGE, end, 2, 0));
        }
        section.extend([jump(BPF_JGT, abi.number, 0, 1), enosys]);
    }
    section
}

fn load(offset: usize) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset as u32 }
}

fn jump(op: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | op | BPF_K) as u16, jt, jf, k }
}

fn ret(k: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k }
}
