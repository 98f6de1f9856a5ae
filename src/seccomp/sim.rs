//! For tests: runs a classic BPF program over one system call, as the kernel would. It knows the instructions that
//! libseccomp and our stub use, and panics on others, on a jump out of the program and on a bad load.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
};
use libseccomp::ScmpSyscall;
use oci_spec::runtime::Arch;

use super::Filter;
use super::arch::{audit, to_scmp};

/// What a program said: `SECCOMP_RET_*` with its data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(pub u32);

pub const ALLOW: Verdict = Verdict(libc::SECCOMP_RET_ALLOW);
pub const LOG: Verdict = Verdict(libc::SECCOMP_RET_LOG);
pub const TRAP: Verdict = Verdict(libc::SECCOMP_RET_TRAP);
pub const KILL_THREAD: Verdict = Verdict(libc::SECCOMP_RET_KILL_THREAD);
pub const KILL_PROCESS: Verdict = Verdict(libc::SECCOMP_RET_KILL_PROCESS);
pub const EPERM: Verdict = errno(libc::EPERM);
pub const ENOSYS: Verdict = errno(libc::ENOSYS);

pub const fn errno(errno: i32) -> Verdict {
    Verdict(libc::SECCOMP_RET_ERRNO | errno as u32)
}

pub const fn trace(message: u32) -> Verdict {
    Verdict(libc::SECCOMP_RET_TRACE | message)
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// The number of a call on an architecture.
pub fn number(arch: Arch, name: &str) -> i32 {
    let number = ScmpSyscall::from_name_by_arch(name, to_scmp(arch)).unwrap().as_raw_syscall();
    assert!(number >= 0, "{arch} has no {name}");
    number
}

impl Filter {
    /// A call by its name, natively.
    pub fn call(&self, name: &str, args: &[u64]) -> Verdict {
        let native = super::arch::native().unwrap();
        self.raw(native, number(native, name), args)
    }

    /// A call by its number.
    pub fn raw(&self, arch: Arch, number: i32, args: &[u64]) -> Verdict {
        run(&super::bpf::from_bytes(&self.bpf), arch, number, args)
    }
}

/// Runs a program.
pub fn run(program: &[libc::sock_filter], arch: Arch, number: i32, args: &[u64]) -> Verdict {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(audit(arch).to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    data.extend(all.iter().flat_map(|arg| arg.to_ne_bytes()));

    let (mut pc, mut a) = (0, 0u32);
    loop {
        let libc::sock_filter { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |taken: bool| pc += usize::from(if taken { jt } else { jf });
        const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
        const AND: u32 = BPF_ALU | BPF_AND | BPF_K;
        const RET: u32 = BPF_RET | BPF_K;
        const JA: u32 = BPF_JMP | BPF_JA;
        const JEQ: u32 = BPF_JMP | BPF_JEQ | BPF_K;
        const JGT: u32 = BPF_JMP | BPF_JGT | BPF_K;
        const JGE: u32 = BPF_JMP | BPF_JGE | BPF_K;
        const JSET: u32 = BPF_JMP | BPF_JSET | BPF_K;
        match u32::from(code) {
            LOAD => {
                let at = k as usize;
                assert!(at.is_multiple_of(4), "unaligned load");
                a = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND => a &= k,
            JA => pc += k as usize,
            JEQ => branch(a == k),
            JGT => branch(a > k),
            JGE => branch(a >= k),
            JSET => branch(a & k != 0),
            RET => return Verdict(k),
            other => panic!("instruction {other:#x} at {}", pc - 1),
        }
    }
}
