//! Rules → program, by libseccomp.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::error::{SeccompErrno, SeccompError};
use libseccomp::{ScmpArch, ScmpFilterContext, ScmpVersion};
use oci_spec::runtime::Arch;
use rustix::fs::{MemfdFlags, memfd_create};

use super::rules::Rules;
use super::{arch, bpf, enosys};
use crate::error::{Doing, Error, Result};
use crate::sys::Call;

/// From this many calls on a binary tree costs less than the comparisons it saves. Runc's number; with no rule at all
/// libseccomp 2.5.4's tree is wrong.
const TREE_FROM: usize = 33;

/// The whole program: for each architecture the ENOSYS check, then what libseccomp makes of the rules.
///
/// Libseccomp could make one program for all architectures, but its time grows with the square of the length: Docker's
/// profile takes 16 ms for x86_64, x86 and x32 together, 7 ms one by one.
pub fn program(rules: &Rules<'_>) -> Result<Vec<u8>> {
    let mut parts = Vec::with_capacity(rules.archs.len());
    for (index, arch) in &rules.archs {
        let mut program = Vec::new();
        if enosys::wanted(rules.default)
            && let Some(newest) = enosys::newest(*arch, rules.names())
        {
            program = enosys::check(*arch, newest);
        }
        program.extend(bpf::from_bytes(&export(&filter(rules, *index, *arch)?)?));
        parts.push(bpf::Part { arch: *arch, program });
    }
    let program = bpf::assemble(&parts);
    if program.len() > bpf::MAX {
        return Err(Error::new(format!(
            "the program has {} instructions, the kernel takes {}",
            program.len(),
            bpf::MAX
        ))
        .field("linux.seccomp")
        .hint("list fewer architectures, or use fewer conditions on arguments"));
    }
    Ok(bpf::to_bytes(&program))
}

/// The filter of one architecture; `index` is its place in `linux.seccomp.architectures`, `None` for the native one.
fn filter(rules: &Rules<'_>, index: Option<usize>, arch: Arch) -> Result<ScmpFilterContext> {
    let mut filter = ScmpFilterContext::new(rules.default).map_err(|e| failed(e, "linux.seccomp.defaultAction"))?;
    if let Some(index) = index {
        // Before the rules, whose numbers are the native ones and translated as they are added.
        let foreign = filter.add_arch(arch::to_scmp(arch)).and_then(|f| f.remove_arch(ScmpArch::Native));
        foreign.map_err(|e| {
            let version = ScmpVersion::current().map_or_else(|_| String::new(), |v| format!(" {v}"));
            failed(e, format!("linux.seccomp.architectures[{index}]"))
                .hint(format!("{arch} does not go with this machine, or libseccomp{version} does not know it"))
        })?;
    }
    for rule in &rules.rules {
        for ((name, call), conditions) in rule.calls.iter().flat_map(|call| rule.when.iter().map(move |w| (call, w))) {
            filter.add_rule_conditional(rule.action, *call, conditions).map_err(|e| {
                let contradicts = e.errno() == Some(SeccompErrno::EEXIST);
                let error = Error::new(format!("add the rule: libseccomp: {e}")).at(rule.origin(name));
                match contradicts {
                    true => error.hint("another entry has the same call and conditions with another action"),
                    false => error,
                }
            })?;
        }
    }
    if rules.rules.iter().map(|rule| rule.calls.len()).sum::<usize>() >= TREE_FROM {
        // Speed only, so a libseccomp without it (before 2.5) will do.
        let _ = filter.set_ctl_optimize(2);
    }
    Ok(filter)
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

fn failed(error: SeccompError, field: impl Into<Cow<'static, str>>) -> Error {
    Error::new(format!("libseccomp: {error}")).field(field)
}
