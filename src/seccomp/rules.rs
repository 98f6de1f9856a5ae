//! The profile of config.json, checked and resolved: what libseccomp will be told.

use std::collections::HashMap;

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpSyscall, ScmpVersion};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::arch;
use crate::error::{Error, Origin, Result};

/// The largest errno that a system call can return (`MAX_ERRNO` of linux/err.h).
const MAX_ERRNO: u32 = 4095;

/// A profile in libseccomp's terms.
#[derive(Debug)]
pub struct Rules<'a> {
    /// For calls that no rule matches.
    pub default: ScmpAction,
    /// Index in `linux.seccomp.architectures` and architecture; the native one (without an index) first.
    pub archs: Vec<(Option<usize>, Arch)>,
    /// In the order of config.json.
    pub rules: Vec<Rule<'a>>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// For the log.
    pub warnings: Vec<String>,
    entries: &'a [LinuxSyscall],
}

/// One entry of `linux.seccomp.syscalls`.
#[derive(Debug)]
pub struct Rule<'a> {
    /// Its index.
    pub entry: usize,
    /// Names and native numbers; libseccomp's negative number for a call that only exists elsewhere.
    pub calls: Vec<(&'a str, ScmpSyscall)>,
    /// What is done when it matches.
    pub action: ScmpAction,
    /// Alternatives, each a list of conditions that must all hold. Never empty: an unconditional rule is one
    /// alternative without conditions.
    pub when: Vec<Vec<ScmpArgCompare>>,
}

impl<'a> Rules<'a> {
    /// Checks a profile and resolves its names.
    ///
    /// # Errors
    /// Those of [`super::compile`] that need no compiler.
    pub fn new(profile: &'a LinuxSeccomp) -> Result<Self> {
        refuse_listener(profile)?;
        let mut warnings = Vec::new();
        let default = action(profile.default_action(), profile.default_errno_ret(), &mut warnings, || {
            ("linux.seccomp.defaultAction".to_owned(), "linux.seccomp.defaultErrnoRet".to_owned())
        })?;
        let archs = archs(profile)?;
        let entries = profile.syscalls().as_deref().unwrap_or_default();

        let mut rules = Vec::new();
        let mut unknown = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let field = || format!("linux.seccomp.syscalls[{i}]");
            let action = action(entry.action(), entry.errno_ret(), &mut warnings, || {
                (format!("{}.action", field()), format!("{}.errnoRet", field()))
            })?;
            let when = alternatives(entry, &field, &mut warnings)?;
            let mut calls = Vec::with_capacity(entry.names().len());
            for (j, name) in entry.names().iter().enumerate() {
                match ScmpSyscall::from_name(name) {
                    Ok(call) => calls.push((name.as_str(), call)),
                    Err(_) if name.is_empty() => {
                        let field = format!("{}.names[{j}]", field());
                        return Err(Error::new("a system call's name is empty").field(field));
                    }
                    Err(_) => unknown.push(name.as_str()),
                }
            }
            rules.push(Rule { entry: i, calls, action, when });
        }
        warn_of_overridden(&rules, &mut warnings);
        // Libseccomp refuses a rule that says what the default says.
        rules.retain(|rule| rule.action != default);
        if !unknown.is_empty() {
            unknown.sort_unstable();
            unknown.dedup();
            let version = ScmpVersion::current().map_or_else(|_| "?".to_owned(), |v| v.to_string());
            warnings.push(format!(
                "linux.seccomp.syscalls: not known to libseccomp {version}, skipped: {}",
                unknown.join(", ")
            ));
        }
        let flags = flags(profile, &mut warnings);
        Ok(Rules { default, archs, rules, flags, warnings, entries })
    }

    /// All names of the profile, of denied calls too.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.iter().flat_map(|entry| entry.names()).map(String::as_str)
    }
}

fn refuse_listener(profile: &LinuxSeccomp) -> Result<()> {
    let path = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().as_ref().is_some_and(|metadata| !metadata.is_empty());
    let field = match (path, metadata) {
        (true, _) => "linux.seccomp.listenerPath",
        (_, true) => "linux.seccomp.listenerMetadata",
        _ => return Ok(()),
    };
    Err(Error::new("SCMP_ACT_NOTIFY: not supported yet").field(field))
}

/// The action with its errno. `fields` names the fields of the two.
fn action(
    action: Action,
    errno: Option<u32>,
    warnings: &mut Vec<String>,
    fields: impl Fn() -> (String, String),
) -> Result<ScmpAction> {
    // Checked, since libseccomp keeps 16 bits: 65536 would become 0 and a denied call a success that did nothing.
    let data = |max: u32| match errno {
        Some(value) if value > max => Err(Error::new(format!("{value}: at most {max}")).field(fields().1)),
        Some(value) => Ok(value),
        None => Ok(libc::EPERM as u32),
    };
    let action = match action {
        Action::ScmpActErrno => return Ok(ScmpAction::Errno(data(MAX_ERRNO)? as i32)),
        Action::ScmpActTrace => return Ok(ScmpAction::Trace(data(u16::MAX.into())? as u16)),
        Action::ScmpActNotify => {
            return Err(Error::new("SCMP_ACT_NOTIFY: not supported yet").field(fields().0));
        }
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    };
    // The runtime-spec wants a failure here. Runc ignores the errno, and profiles have come to rely on it: Docker's
    // default one with its defaultAction changed to SCMP_ACT_LOG keeps its defaultErrnoRet.
    if errno.is_some() {
        warnings.push(format!("{}: ignored, the action has no errno", fields().1));
    }
    Ok(action)
}

/// The native architecture, which libseccomp always has, and those of the profile.
fn archs(profile: &LinuxSeccomp) -> Result<Vec<(Option<usize>, Arch)>> {
    let native = arch::native()
        .ok_or_else(|| Error::new("this machine's architecture is not known").field("linux.seccomp.architectures"))?;
    let mut archs = vec![(None, native)];
    for (i, arch) in profile.architectures().iter().flatten().enumerate() {
        let listed = *arch == Arch::ScmpArchNative || archs.iter().any(|(_, a)| a == arch);
        // No call of another family can come; leaving it out makes one profile for all machines cost nothing.
        if !listed && arch::runs_on(*arch, native) {
            archs.push((Some(i), *arch));
        }
    }
    Ok(archs)
}

/// The conditions of one entry, as alternatives.
fn alternatives(
    entry: &LinuxSyscall,
    field: &impl Fn() -> String,
    warnings: &mut Vec<String>,
) -> Result<Vec<Vec<ScmpArgCompare>>> {
    let args = entry.args().as_deref().unwrap_or_default();
    let mut conditions = Vec::with_capacity(args.len());
    for (i, arg) in args.iter().enumerate() {
        conditions.push(condition(arg).map_err(|e| e.field(format!("{}.args[{i}].index", field())))?);
    }
    // Conditions on different arguments are and-ed (CVE-2017-18367). Libseccomp takes one condition for each argument
    // of a rule; an entry with two on one argument becomes one rule for each of its conditions, which means "or".
    // That is runc's reading, on which profiles rely (runc #2735).
    let twice = args.iter().enumerate().any(|(i, arg)| args[..i].iter().any(|other| other.index() == arg.index()));
    if !twice {
        return Ok(vec![conditions]);
    }
    warnings
        .push(format!("{}.args: two conditions on one argument: any one of the entry's conditions suffices", field()));
    Ok(conditions.into_iter().map(|condition| vec![condition]).collect())
}

/// Libseccomp lets a rule without conditions win over those with, and the first such rule over later ones.
fn warn_of_overridden(rules: &[Rule<'_>], warnings: &mut Vec<String>) {
    let mut winners = HashMap::new();
    for rule in rules.iter().filter(|rule| rule.when.iter().any(Vec::is_empty)) {
        for (_, call) in &rule.calls {
            winners.entry(call.as_raw_syscall()).or_insert(rule);
        }
    }
    for rule in rules {
        for (name, call) in &rule.calls {
            if let Some(winner) = winners.get(&call.as_raw_syscall()).filter(|winner| winner.action != rule.action) {
                let (origin, by) = (rule.origin(name), winner.entry);
                warnings.push(format!("{origin}: no effect: syscalls[{by}] has the call without conditions"));
            }
        }
    }
}

fn condition(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| Error::new(format!("{}: the arguments of a call are 0 to 5", arg.index())))?;
    let (op, value) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // argument & value == valueTwo
        Operator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
    };
    Ok(ScmpArgCompare::new(index, op, value))
}

/// The flags for `seccomp(2)`. Linux 5.14 knows all that are passed on.
fn flags(profile: &LinuxSeccomp, warnings: &mut Vec<String>) -> u32 {
    // An absent list, and only that, means SPEC_ALLOW, as with runc and crun: without it every container pays for
    // the mitigation of speculative store bypass on machines that have it.
    let Some(flags) = profile.flags() else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 };
    let bit = |flag: &Flag| match flag {
        Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
        Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        // The process that loads the filter has one thread.
        Flag::SeccompFilterFlagTsync => 0,
        // The kernel takes it together with a listener only (EINVAL otherwise).
        Flag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    if flags.contains(&Flag::SeccompFilterFlagWaitKillableRecv) {
        warnings.push(
            "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ignored: it is for SCMP_ACT_NOTIFY".into(),
        );
    }
    flags.iter().map(bit).fold(0, |all, bit| all | bit)
}

impl Rule<'_> {
    /// Where the rule for one of its calls comes from.
    pub fn origin(&self, name: &str) -> Origin {
        Origin::new(format!("linux.seccomp.syscalls[{}]", self.entry), name)
    }
}
