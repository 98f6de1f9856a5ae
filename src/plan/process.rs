//! `process`, and the way from the last mount to execve(2).

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimitType, Process, Spec};
use serde::Serialize;

use super::{Facts, Hooks, Namespaces, Op, Options, Pivot, Steps, mounts};
use crate::error::{Error, Origin, Result};

/// The environment as far as config.json gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// `NAME=value`, no name twice.
    pub env: Vec<String>,
    /// Whose home directory is looked up in the image's passwd, if HOME is missing.
    pub home_of: Option<u32>,
}

/// Capability sets as bit masks, the bounding set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Capabilities {
    /// The effective set.
    pub effective: u64,
    /// The permitted set.
    pub permitted: u64,
    /// The inheritable set: empty unless config.json fills it (CVE-2022-29162).
    pub inheritable: u64,
    /// The ambient set.
    pub ambient: u64,
}

/// Supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Groups {
    /// These and no others.
    These(Vec<u32>),
    /// None; or those of a caller who may not give them up (`deny` in /proc/PID/setgroups, user_namespaces(7)).
    NoneIfPossible,
    /// Those of the caller: `run.oci.keep_original_groups`.
    Callers,
}

impl Groups {
    fn of(spec: &Spec, gids: Option<&Vec<u32>>, facts: &Facts) -> Groups {
        match gids {
            _ if spec.annotations().iter().flatten().any(|(name, value)| name == KEEP_GROUPS && value == "1") => {
                Groups::Callers
            }
            Some(gids) if !gids.is_empty() => Groups::These(gids.clone()),
            _ if facts.privileged => Groups::These(Vec::new()),
            _ => Groups::NoneIfPossible,
        }
    }
}

/// crun's annotation, which Podman sets for `--group-add keep-groups`.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Bit of CAP_SYS_ADMIN, without which seccomp(2) needs no_new_privs.
const SYS_ADMIN: u64 = 1 << 21;

/// From the last mount to execve.
pub fn plan(
    spec: &Spec,
    how: Pivot,
    facts: &Facts,
    options: &Options,
    hooks: Option<&Hooks>,
    steps: &mut Steps,
    log: &mut Vec<String>,
) -> Result<()> {
    let process = spec.process().as_ref().ok_or_else(|| Error::new("missing").field("process"))?;
    let field = Origin::field;
    if Namespaces::of(spec, false).new_ones() & libc::CLONE_NEWNET as u64 != 0 {
        steps.child(field("linux.namespaces"), Op::Loopback);
    }
    names(spec, steps)?;
    steps.child(field("process.cwd"), Op::MakeCwd { path: super::clean(process.cwd()) });
    if how != Pivot::Chroot {
        mounts::root(spec, steps);
    }
    steps.child(field("root.path"), Op::Pivot { how });
    if how != Pivot::Chroot {
        mounts::root_propagation(spec, steps);
    }
    steps.child(field("process"), Op::ReopenDevNull);
    until_execve(spec, facts, options, hooks, false, steps, log)
}

/// Before its ids are mapped: until then the process's files in /proc are the parent's, whoever that is.
pub fn oom_score_adj(spec: &Spec, steps: &mut Steps) {
    if let Some(value) = spec.process().as_ref().and_then(Process::oom_score_adj) {
        steps.after(Origin::field("process.oomScoreAdj"), Op::OomScoreAdj { value });
    }
}

/// A further process of a container.
pub fn exec(spec: &Spec, facts: &Facts, options: &Options, steps: &mut Steps, log: &mut Vec<String>) -> Result<()> {
    oom_score_adj(spec, steps);
    seccomp(spec, steps);
    console(spec, false, steps);
    until_execve(spec, facts, options, None, true, steps, log)
}

/// The terminal, before /dev becomes read-only.
pub fn console(spec: &Spec, bind: bool, steps: &mut Steps) {
    let Some(process) = spec.process().as_ref().filter(|p| p.terminal() == Some(true)) else { return };
    // The kernel's sizes are 16 bits wide.
    let clip = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let size = process.console_size().map(|size| (clip(size.height()), clip(size.width())));
    steps.child(Origin::field("process.terminal"), Op::Console { size, bind });
}

/// The filter, which the parent compiles meanwhile.
pub fn seccomp(spec: &Spec, steps: &mut Steps) {
    if let Some(seccomp) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
        steps.after(Origin::field("linux.seccomp"), Op::CompileSeccomp { profile: Box::new(seccomp.clone()) });
    }
}

/// From the container's root on, what all its processes go through; those that enter a pid namespace do so when nothing of
/// the runtime's is needed any more.
fn until_execve(
    spec: &Spec,
    facts: &Facts,
    options: &Options,
    hooks: Option<&Hooks>,
    enters: bool,
    steps: &mut Steps,
    log: &mut Vec<String>,
) -> Result<()> {
    let process = spec.process().as_ref().ok_or_else(|| Error::new("missing").field("process"))?;
    let field = Origin::field;
    if !options.no_new_keyring {
        steps.child(field("process"), Op::Keyring { name: format!("_ses.{}", options.id) });
    }
    steps.child(field("process"), Op::Reset { preserve_fds: options.preserve_fds });
    let limits = rlimits(process);
    let user = Namespaces::of(spec, false).user();
    for (origin, (resource, name, _, hard)) in &limits {
        let op = Op::RaiseRlimit { resource: *resource, name: name.clone(), hard: *hard };
        if user { steps.after(origin.clone(), op) } else { steps.child(origin.clone(), op) }
    }
    steps.child(field("process.env"), Op::Environment(environment(process, options)?));

    let seccomp = spec.linux().as_ref().is_some_and(|l| l.seccomp().is_some());
    let no_new_privs = process.no_new_privileges() == Some(true);
    let (bounding, sets) = capabilities(process.capabilities().as_ref(), facts, log);
    let user = process.user();
    let groups = Groups::of(spec, user.additional_gids().as_ref(), facts);
    steps.child(field("process.user"), Op::StdioOwner { uid: user.uid() });
    steps.child(field("process.cwd"), Op::Cwd { path: process.cwd().clone() });
    steps.child(field("process.capabilities.bounding"), Op::Bounding { keep: bounding });
    let umask = user.umask().unwrap_or(0o022);
    steps.child(field("process.user"), Op::User { uid: user.uid(), gid: user.gid(), groups, umask });
    // Without no_new_privs the load of the filter needs CAP_SYS_ADMIN until execve, which drops it.
    let until_exec = if seccomp && !no_new_privs { SYS_ADMIN & facts.permitted } else { 0 };
    steps.child(field("process.capabilities"), Op::Capabilities { sets, until_exec });
    if no_new_privs {
        steps.child(field("process.noNewPrivileges"), Op::NoNewPrivs);
    }
    if enters {
        steps.child(field("linux.namespaces"), Op::EnterPids);
    }
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::new("must not be empty").field("process.args"));
    }
    steps.child(field("process.args"), Op::LookUp { args });
    steps.child(field("process"), Op::Ready { seccomp });
    if !options.run {
        steps.child(field("process"), Op::AwaitStart);
    }
    if let Some(first) = hooks.and_then(|h| h.start_container.first()) {
        steps.child(Origin::new(first.field.clone(), first.path.clone()), Op::StartHooks);
    }
    for (origin, (resource, name, soft, hard)) in limits {
        steps.child(origin, Op::Rlimit { resource, name, soft, hard });
    }
    if seccomp {
        steps.child(field("linux.seccomp"), Op::LoadSeccomp);
    }
    steps.child(field("process.args"), Op::Exec);
    Ok(())
}

/// Sysctls and names, in the namespaces they belong to.
fn names(spec: &Spec, steps: &mut Steps) -> Result<()> {
    let sysctl = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let mut sysctl: Vec<_> = sysctl.into_iter().flatten().collect();
    sysctl.sort(); // a map has no order; a plan has
    for (key, value) in sysctl {
        let origin = Origin::field(format!("linux.sysctl[{key:?}]"));
        // The same reading of the name that was checked.
        let path = crate::spec::sysctl_path(key).ok_or_else(|| Error::new("is no sysctl").at(origin.clone()))?;
        steps.child(origin, Op::Sysctl { path, value: value.clone() });
    }
    if let Some(name) = spec.hostname().clone().filter(|n| !n.is_empty()) {
        steps.child(Origin::field("hostname"), Op::Hostname { name });
    }
    if let Some(name) = spec.domainname().clone().filter(|n| !n.is_empty()) {
        steps.child(Origin::field("domainname"), Op::Domainname { name });
    }
    Ok(())
}

type Limit = (u32, String, u64, u64);

fn rlimits(process: &Process) -> Vec<(Origin, Limit)> {
    let number = |t: PosixRlimitType| match t {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    let limit = |(i, l): (usize, &oci_spec::runtime::PosixRlimit)| {
        let name = l.typ().to_string();
        let origin = Origin::new(format!("process.rlimits[{i}]"), name.clone());
        (origin, (number(l.typ()) as u32, name, l.soft(), l.hard()))
    };
    process.rlimits().iter().flatten().enumerate().map(limit).collect()
}

/// No name twice, the last one wins; HOME missing or empty is looked up later.
fn environment(process: &Process, options: &Options) -> Result<Environment> {
    let given = process.env().as_deref().unwrap_or_default();
    let mut seen = HashSet::new();
    let mut env = Vec::with_capacity(given.len() + 3);
    for (i, entry) in given.iter().enumerate().rev() {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::new(format!("{entry:?} is not NAME=value")).field(format!("process.env[{i}]")));
        };
        let listen = options.listen_fds > 0 && (name == "LISTEN_FDS" || name == "LISTEN_PID");
        if !listen && entry != "HOME=" && seen.insert(name) {
            env.push(entry.clone());
        }
    }
    let home_of = (!seen.contains("HOME")).then(|| process.user().uid());
    env.reverse();
    if options.listen_fds > 0 {
        env.push(format!("LISTEN_FDS={}", options.listen_fds));
        env.push("LISTEN_PID=1".into());
    }
    Ok(Environment { env, home_of })
}

/// The bounding set and the others. What the runtime itself has not, it cannot give: that is a warning (config.md).
fn capabilities(asked: Option<&LinuxCapabilities>, facts: &Facts, log: &mut Vec<String>) -> (u64, Capabilities) {
    let Some(asked) = asked else { return (0, Capabilities::default()) };
    let mut missing = 0;
    let mut set = |caps: &Option<HashSet<Capability>>| {
        let wanted = caps.iter().flatten().filter_map(bit).fold(0, |set, bit| set | bit);
        missing |= wanted & !facts.permitted;
        wanted & facts.permitted
    };
    let bounding = set(asked.bounding());
    let permitted = set(asked.permitted());
    let effective = set(asked.effective());
    let inheritable = set(asked.inheritable());
    let ambient = set(asked.ambient());
    if missing != 0 {
        let names: Vec<_> =
            caps::all().into_iter().filter(|c| missing & c.bitmask() != 0).map(|c| c.to_string()).collect();
        log.push(format!("process.capabilities: not available here, left out: {}", names.join(", ")));
    }
    let possible = ambient & permitted & inheritable;
    if ambient != possible {
        log.push("process.capabilities.ambient: what is not permitted and inheritable, too, is left out".into());
    }
    (bounding, Capabilities { effective: effective & permitted, permitted, inheritable, ambient: possible })
}

fn bit(cap: &Capability) -> Option<u64> {
    caps::Capability::from_str(&format!("CAP_{cap}")).ok().map(|c| c.bitmask())
}

/// The path of the file to execute: `name` itself with a slash in it, else all places of $PATH.
pub fn candidates(name: &str, env: &[String]) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    // An empty or relative element means the working directory, where nothing is to be found by accident (as in Go).
    path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| PathBuf::from(dir).join(name)).collect()
}
