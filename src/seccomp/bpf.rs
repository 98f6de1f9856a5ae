//! The instructions that are ours, and how the programs of several architectures become one.
//!
//! Nothing but loads of the call's number and architecture, comparisons and returns, so that the kernel (5.11 and
//! newer) finds out at load time which calls are always allowed and then skips the whole program for them.

use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_KILL_THREAD, seccomp_data,
    sock_filter,
};
use oci_spec::runtime::Arch;

use super::arch::{X32_BIT, audit};

/// The size of an instruction.
pub const SIZE: usize = size_of::<sock_filter>();

/// The most instructions that the kernel takes.
pub const MAX: usize = libc::BPF_MAXINSNS as usize;

const KILL: sock_filter = ret(SECCOMP_RET_KILL_THREAD);

/// A program that decides the calls of one architecture, entered with the call's number loaded. Returns on every path.
pub struct Part {
    /// Whose calls.
    pub arch: Arch,
    /// Its instructions.
    pub program: Vec<sock_filter>,
}

/// One program of many: each call goes to the part of its architecture. Those of an architecture that has no part kill
/// the thread, which is libseccomp's answer to them too.
pub fn assemble(parts: &[Part]) -> Vec<sock_filter> {
    let mut all = vec![load(offset_of!(seccomp_data, arch))];
    for (i, part) in parts.iter().enumerate() {
        let audit_arch = audit(part.arch);
        if parts[..i].iter().any(|earlier| audit(earlier.arch) == audit_arch) {
            continue;
        }
        let mut body = vec![load(offset_of!(seccomp_data, nr))];
        // The kernel has one name for x86_64 and x32: x32's numbers have a high bit.
        let (x32, own): (Vec<_>, Vec<_>) =
            parts.iter().filter(|part| audit(part.arch) == audit_arch).partition(|part| part.arch == Arch::ScmpArchX32);
        for part in x32 {
            body.extend(only_if(BPF_JGE, X32_BIT, &part.program));
        }
        match own.first() {
            Some(part) => body.extend(&part.program),
            None => body.push(KILL),
        }
        all.extend(only_if(BPF_JEQ, audit_arch, &body));
    }
    all.push(KILL);
    all
}

/// The body, skipped where the comparison fails. By a jump of its own, as a conditional one reaches 255 instructions.
fn only_if(op: u32, k: u32, body: &[sock_filter]) -> Vec<sock_filter> {
    let mut guarded = vec![jump(op, k, 1, 0), jump(BPF_JA, body.len() as u32, 0, 0)];
    guarded.extend(body);
    guarded
}

/// Loads a word of `seccomp_data`.
fn load(offset: usize) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset as u32 }
}

/// Skips `jt` instructions where the comparison of what is loaded with `k` holds, else `jf`.
pub fn jump(op: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | op | BPF_K) as u16, jt, jf, k }
}

/// Ends the program.
pub const fn ret(k: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k }
}

/// Instructions as `seccomp(2)` takes them.
pub fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * SIZE);
    for i in program {
        bytes.extend(i.code.to_ne_bytes());
        bytes.extend([i.jt, i.jf]);
        bytes.extend(i.k.to_ne_bytes());
    }
    bytes
}

/// The instructions of [`to_bytes`]; a rest of less than one is left out.
pub fn from_bytes(bytes: &[u8]) -> Vec<sock_filter> {
    let (instructions, _) = bytes.as_chunks::<SIZE>();
    let instruction = |[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; SIZE]| sock_filter {
        code: u16::from_ne_bytes([*c0, *c1]),
        jt: *jt,
        jf: *jf,
        k: u32::from_ne_bytes([*k0, *k1, *k2, *k3]),
    };
    instructions.iter().map(instruction).collect()
}
