//! Seccomp: a profile of config.json becomes a BPF program in the parent; the child does one `seccomp(2)`.
//!
//! Profile → [`rules::Rules`] (checked, names resolved) → for each architecture libseccomp's program, with ENOSYS for
//! newer calls before it → one program. Only that is cached: errors and warnings come from the first step, so a hit and
//! a miss report the same.

// Until the parent uses it.

mod arch;
mod bpf;
mod cache;
mod compile;
mod enosys;
mod profiles;
mod rules;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

use oci_spec::runtime::LinuxSeccomp;

use crate::error::Result;
use rules::Rules;

pub use profiles::{NAMES, builtin};

/// A compiled profile, ready for `seccomp(SECCOMP_SET_MODE_FILTER, flags, {len, bpf})`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// An array of `struct sock_filter`, 8 bytes each, in the machine's byte order; at most 4096 of them.
    pub bpf: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// What the profile asks for and does not get, one line each, for the log.
    pub warnings: Vec<String>,
}

/// Compiles a profile.
///
/// # Errors
/// Each names its field, from `linux.seccomp` down to `linux.seccomp.syscalls[3].args[0].index`: an action or flag
/// that is not supported, an errno or an argument's index out of range, rules that contradict each other, a program
/// that is too long for the kernel.
#[cfg(test)]
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    compile_cached(profile, None)
}

/// Compiles a profile, or takes its program from `cache`: a directory that the caller has opened and that belongs to
/// the caller alone. A cache that cannot be used is never an error: the profile is compiled.
///
/// # Errors
/// As [`compile`], and the same on a hit as on a miss.
pub fn compile_cached(profile: &LinuxSeccomp, cache: Option<BorrowedFd<'_>>) -> Result<Filter> {
    let rules = Rules::new(profile)?;
    let entry = cache.and_then(|dir| cache::Entry::new(dir, profile));
    let bpf = match entry.as_ref().and_then(cache::Entry::read) {
        Some(bpf) => bpf,
        None => {
            let bpf = compile::program(&rules)?;
            if let Some(entry) = &entry {
                entry.write(&bpf);
            }
            bpf
        }
    };
    Ok(Filter { bpf, flags: rules.flags, warnings: rules.warnings })
}
