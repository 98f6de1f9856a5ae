//! Rules → program, by libseccomp.

use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::error::{SeccompErrno, SeccompError};
use libseccomp::{ScmpFilterContext, ScmpVersion};
use rustix::fs::{MemfdFlags, memfd_create};

use super::rules::Rules;
use super::{arch, enosys};
use crate::error::{Doing, Error, Result};
use crate::sys::Call;

/// The size of `struct sock_filter`.
pub const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// The most instructions that the kernel takes.
pub const MAX_INSTRUCTIONS: usize = libc::BPF_MAXINSNS as usize;

/// From this many calls on a binary tree costs less than the comparisons it saves. Runc's number; with no rule at all
/// libseccomp 2.5.4's tree is wrong.
const TREE_FROM: usize = 33;

/// The whole program: the ENOSYS stub, then libseccomp's.
pub fn program(rules: &Rules<'_>) -> Result<Vec<u8>> {
    let mut filter = ScmpFilterContext::new(rules.default).map_err(|e| failed(e, "linux.seccomp.defaultAction"))?;
    // Before the rules, which are translated to each architecture as they are added.
    for (index, arch) in &rules.archs {
        let Some(index) = index else { continue };
        filter.add_arch(arch::to_scmp(*arch)).map_err(|e| {
            let version = ScmpVersion::current().map_or_else(|_| String::new(), |v| format!(" {v}"));
            failed(e, format!("linux.seccomp.architectures[{index}]"))
                .hint(format!("{arch} does not go with this machine, or libseccomp{version} does not know it"))
        })?;
    }
    for rule in &rules.rules {
        for conditions in &rule.when {
            filter.add_rule_conditional(rule.action, rule.call, conditions).map_err(|e| {
                let contradicts = e.errno() == Some(SeccompErrno::EEXIST);
                let error = Error::new(format!("add the rule: libseccomp: {e}")).at(rule.origin());
                match contradicts {
                    true => error.hint("another entry has the same call and conditions with another action"),
                    false => error,
                }
            })?;
        }
    }
    if rules.rules.len() >= TREE_FROM {
        // Speed only, so a libseccomp without it (before 2.5) will do.
        let _ = filter.set_ctl_optimize(2);
    }
    let filter = export(&filter)?;
    let stub = enosys::stub(&rules.newest);
    let instructions = stub.len() + filter.len() / INSTRUCTION;
    if instructions > MAX_INSTRUCTIONS {
        return Err(Error::new(format!(
            "the program has {instructions} instructions, the kernel takes {MAX_INSTRUCTIONS}"
        ))
        .field("linux.seccomp")
        .hint("list fewer architectures, or use fewer conditions on arguments"));
    }
    let mut program = Vec::with_capacity(instructions * INSTRUCTION);
    for i in stub {
        program.extend(i.code.to_ne_bytes());
        program.extend([i.jt, i.jf]);
        program.extend(i.k.to_ne_bytes());
    }
    program.extend(filter);
    Ok(program)
}

/// libseccomp's program. By a file in memory, since only libseccomp 2.6 can write into memory itself.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    const DOING: &str = "export the seccomp program";
    let fd = memfd_create("seccomp", MemfdFlags::CLOEXEC).call("memfd_create", || "\"seccomp\"".into()).doing(DOING)?;
    filter.export_bpf(&fd).map_err(|e| failed(e, "linux.seccomp"))?;
    let mut file = File::from(fd);
    let mut program = Vec::new();
    file.rewind().call("lseek", || "memfd, 0".into()).doing(DOING)?;
    file.read_to_end(&mut program).call("read", || "memfd".into()).doing(DOING)?;
    Ok(program)
}

fn failed(error: SeccompError, field: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(format!("libseccomp: {error}")).field(field)
}
