//! Which devices the container may use: `linux.resources.devices` as a BPF program on its cgroup (cgroup v2 has no files
//! for it; cgroup-v2.rst, "Device controller"; BPF_PROG_TYPE_CGROUP_DEVICE).
//!
//! The rules count in their order. For each kind of access (read, write, mknod) the last rule that matches the device and
//! names that access decides; without one it is denied. An access is allowed if all the kinds that it asks for are.
//!
//! runc's defaults come behind the rules of config.json, also when there are none (GHSA-g54h-m393-cpwq: an empty list once
//! allowed everything). runc evaluates the same lists with a model of cgroup v1, which is stricter about what may be
//! written and looser about what it means: it refuses a denial inside an allowed wildcard, which is a hole here; and takes
//! any rule of type `a` for "everything", where the numbers and the access of such a rule count here.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::fs::Cgroup;
use super::systemd::Unit;
use crate::error::{Doing, Error, Result};
use crate::sys::bpf::{self, Insn};

#[cfg(test)]
mod tests;

/// What rules say of a device's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Kind {
    /// Type `a`: block and character devices.
    Any,
    /// Type `b`.
    Block,
    /// Type `c`.
    Char,
}

/// One rule: which devices, which access, and whether it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Rule {
    /// Allowed, or denied.
    pub allow: bool,
    /// The type of the device.
    pub kind: Kind,
    /// Its major number; None is any.
    pub major: Option<u32>,
    /// Its minor number; None is any.
    pub minor: Option<u32>,
    /// `BPF_DEVCG_ACC_*`, at least one.
    pub access: i32,
}

const R: i32 = bpf::BPF_DEVCG_ACC_READ;
const W: i32 = bpf::BPF_DEVCG_ACC_WRITE;
const M: i32 = bpf::BPF_DEVCG_ACC_MKNOD;

const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: i32) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// Every node may be made: without the right to open it that does no harm, and images and package managers do it.
const MKNOD: [Rule; 2] = [allow(Kind::Char, None, None, M), allow(Kind::Block, None, None, M)];

/// The devices that every container has (runtime-spec, config-linux.md, "Default Devices"), and the terminals' own.
const DEFAULTS: [(&str, Rule); 9] = [
    ("/dev/null", allow(Kind::Char, Some(1), Some(3), R | W | M)),
    ("/dev/random", allow(Kind::Char, Some(1), Some(8), R | W | M)),
    ("/dev/full", allow(Kind::Char, Some(1), Some(7), R | W | M)),
    ("/dev/tty", allow(Kind::Char, Some(5), Some(0), R | W | M)),
    ("/dev/zero", allow(Kind::Char, Some(1), Some(5), R | W | M)),
    ("/dev/urandom", allow(Kind::Char, Some(1), Some(9), R | W | M)),
    // The slaves and the multiplexer of devpts: a mount of its own, not nodes of ours.
    ("", allow(Kind::Char, Some(136), None, R | W | M)),
    ("", allow(Kind::Char, Some(5), Some(2), R | W | M)),
    // /dev/net/tun: no node of ours either, but VPNs in containers count on it (runc took it away in 1.2.0 and gave it back).
    ("", allow(Kind::Char, Some(10), Some(200), R | W | M)),
];

/// The rules of config.json (`linux.resources.devices`), and runc's defaults behind them. `nodes` is `linux.devices`: where
/// it redefines a default device, that one's rule is left out.
///
/// # Errors
/// A rule has no access or one of other letters than r, w and m; a type other than a, b and c; a negative number (-1 is
/// any).
pub fn rules(list: &[LinuxDeviceCgroup], nodes: &[LinuxDevice]) -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::with_capacity(list.len() + MKNOD.len() + DEFAULTS.len());
    for (i, device) in list.iter().enumerate() {
        let rule = rule(device).map_err(|e| e.field(format!("linux.resources.devices[{i}]")))?;
        rules.push(rule);
    }
    // Where all is allowed from the outset, making nodes is too, and who denies a device after that means its node as well.
    let all = rules.iter().rfind(|rule| rule.is_everything());
    if !all.is_some_and(|rule| rule.allow) {
        rules.extend(MKNOD);
    }
    let redefined = |path: &str| nodes.iter().any(|node| node.path().as_os_str() == path);
    rules.extend(DEFAULTS.iter().filter(|(path, _)| !redefined(path)).map(|(_, rule)| *rule));
    Ok(rules)
}

fn rule(device: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => Kind::Any,
        Some(LinuxDeviceType::B) => Kind::Block,
        Some(LinuxDeviceType::C) => Kind::Char,
        Some(other) => return Err(Error::new(format!("invalid cgroup device type {:?}", other.as_str()))),
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| Error::new(format!("invalid device number {n}"))),
    };
    let mut access = 0;
    for letter in device.access().iter().flat_map(|access| access.chars()) {
        access |= match letter {
            'r' => R,
            'w' => W,
            'm' => M,
            _ => return Err(Error::new(format!("unknown device access {letter:?}")).hint("it consists of r, w and m")),
        };
    }
    if access == 0 {
        return Err(Error::new("device access field cannot be empty").hint("it consists of r, w and m"));
    }
    Ok(Rule { allow: device.allow(), kind, major: number(device.major())?, minor: number(device.minor())?, access })
}

impl Rule {
    /// Whether it is about every access to every device.
    fn is_everything(&self) -> bool {
        self.covers(&Rule { allow: self.allow, kind: Kind::Any, major: None, minor: None, access: R | W | M })
    }

    /// The kinds of access as config.json has them.
    pub fn letters(&self) -> String {
        [(R, 'r'), (W, 'w'), (M, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect()
    }

    /// Whether it decides everything that `other` is about.
    fn covers(&self, other: &Rule) -> bool {
        (self.kind == Kind::Any || self.kind == other.kind)
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
            && self.access & other.access == other.access
    }
}

/// The rules in the order in which the program asks them: the last one first, without those that come too late.
fn effective(rules: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules.iter().rev() {
        if !out.iter().any(|later| later.covers(rule)) {
            out.push(*rule);
        }
    }
    out
}

/// Whether nothing is denied.
fn allows_everything(effective: &[Rule]) -> bool {
    effective.iter().all(|rule| rule.allow) && effective.last().is_some_and(Rule::is_everything)
}

// Registers: the result; the context (struct bpf_cgroup_dev_ctx: u32 access_type, major, minor); the kinds of access that
// no rule has decided yet; what a rule looks at.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const LOOK: u8 = 3;

// Instruction classes and operations of linux/bpf_common.h are in libc; those that eBPF added are from linux/bpf.h.
const BPF_ALU64: u32 = 0x07;
const BPF_JMP32: u32 = 0x06; // Linux 5.1
const BPF_JNE: u32 = 0x50;
const BPF_MOV: u32 = 0xb0;
const BPF_EXIT: u32 = 0x90;

const LOAD: u8 = (libc::BPF_LDX | libc::BPF_MEM | libc::BPF_W) as u8;
const MOV: u8 = (BPF_ALU64 | BPF_MOV | libc::BPF_K) as u8;
const MOV_REG: u8 = (BPF_ALU64 | BPF_MOV | libc::BPF_X) as u8;
const AND: u8 = (BPF_ALU64 | libc::BPF_AND | libc::BPF_K) as u8;
const SHIFT_RIGHT: u8 = (BPF_ALU64 | libc::BPF_RSH | libc::BPF_K) as u8;
// 32 bits wide, since a 64-bit comparison would extend the sign of a number above 2^31.
const JUMP_IF_NOT: u8 = (BPF_JMP32 | BPF_JNE | libc::BPF_K) as u8;
const JUMP_IF: u8 = (BPF_JMP32 | libc::BPF_JEQ | libc::BPF_K) as u8;
const EXIT: u8 = (libc::BPF_JMP | BPF_EXIT) as u8;

/// The program: 1 allows the access, 0 denies it. ACCESS holds the kinds of access that no rule has decided yet, so that
/// the rules can be asked from the last to the first and the first answer counts.
///
/// Each rule loads what it looks at anew. Kept in registers, the verifier would carry what each comparison tells it about
/// them through all the rules behind: 500 rules took it 250 ms and 1200 were too many; so they take 9 ms, and Docker's list
/// 0.17 ms instead of 0.24 (Linux 6.18).
pub fn program(rules: &[Rule]) -> Vec<Insn> {
    let op = |code, dst, imm| Insn::new(code, dst, 0, 0, imm);
    let load = |dst, offset| Insn::new(LOAD, dst, CONTEXT, offset, 0);
    // access_type is the kinds of access in the upper half, the device's type in the lower.
    let mut code = vec![load(ACCESS, 0), op(SHIFT_RIGHT, ACCESS, 16)];
    let is_type = |kind| [load(LOOK, 0), op(AND, LOOK, 0xffff), op(JUMP_IF_NOT, LOOK, kind)];
    // The bits of the number, whatever its sign as an i32.
    let is_number = |offset, n: u32| [load(LOOK, offset), op(JUMP_IF_NOT, LOOK, n as i32)];

    let rules = effective(rules);
    for rule in &rules {
        // Jumps to the next rule are filled in once its place is known.
        let mut block = Vec::with_capacity(12);
        match rule.kind {
            Kind::Any => {}
            Kind::Block => block.extend(is_type(bpf::BPF_DEVCG_DEV_BLOCK)),
            Kind::Char => block.extend(is_type(bpf::BPF_DEVCG_DEV_CHAR)),
        }
        block.extend(rule.major.into_iter().flat_map(|major| is_number(4, major)));
        block.extend(rule.minor.into_iter().flat_map(|minor| is_number(8, minor)));
        match (rule.allow, rule.access == R | W | M) {
            (_, true) => {}
            // What is allowed here is decided; allowed it is when nothing else was asked for.
            (true, _) => block.extend([op(AND, ACCESS, !rule.access), op(JUMP_IF_NOT, ACCESS, 0)]),
            (false, _) => {
                block.extend([Insn::new(MOV_REG, LOOK, ACCESS, 0, 0), op(AND, LOOK, rule.access), op(JUMP_IF, LOOK, 0)])
            }
        }
        block.extend([op(MOV, RESULT, i32::from(rule.allow)), op(EXIT, 0, 0)]);
        let len = block.len();
        for (i, insn) in block.iter_mut().enumerate().filter(|(_, insn)| matches!(insn.code, JUMP_IF | JUMP_IF_NOT)) {
            insn.off = (len - i - 1) as i16;
        }
        code.extend(block);
    }
    // What no rule allows is denied. Behind a rule for everything this would be unreachable, which the verifier refuses.
    if !rules.last().is_some_and(Rule::is_everything) {
        code.extend([op(MOV, RESULT, 0), op(EXIT, 0, 0)]);
    }
    code
}

/// What becomes of programs on the cgroup that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are left over from before, and go.
    Remove,
    /// They are systemd's, which looks after them.
    Keep,
}

impl Others {
    /// For a cgroup with or without a unit.
    pub fn of(unit: Option<&Unit>) -> Others {
        if unit.is_some() { Others::Keep } else { Others::Remove }
    }
}

/// The name of our program, by which we know it.
const NAME: &str = "tare_devices";

/// Makes the rules the cgroup's, in the place of those it has. A running container sees the old rules or the new ones and
/// nothing between.
///
/// Rules that allow everything (a privileged container's) need no program: with one or without, the programs of the
/// cgroups above are asked. runc attaches one that says yes; it would be run at every open of a device.
///
/// # Errors
/// EPERM without the capabilities, see the hint. In a user namespace that is always so; the caller may then do without:
/// nobody there can make a device node or open one that he could not open without a container.
pub fn apply(cgroup: &Cgroup, rules: &[Rule], others: Others) -> Result<()> {
    let mut old = if cgroup.is_fresh() { Vec::new() } else { attached(cgroup)? };
    if others == Others::Keep {
        old.retain(|program| bpf::program_name(program.as_fd()).is_ok_and(|name| name == NAME));
    }
    let explain = |e: Error| explain(e).field("linux.resources.devices");
    if !allows_everything(&effective(rules)) {
        let new = bpf::load_device_program(&program(rules), c"Apache-2.0", NAME)
            .doing("load the device rules")
            .map_err(explain)?;
        // The one that is there is replaced in one step. More than one are not ours: they are taken away behind ours, as
        // runc does.
        let replace = if let [one] = old.as_slice() { Some(one.as_fd()) } else { None };
        bpf::attach_device_program(cgroup.as_fd(), new.as_fd(), replace)
            .doing("attach the device rules to the container's cgroup")
            .map_err(explain)?;
        if replace.is_some() {
            return Ok(());
        }
    }
    for program in &old {
        match bpf::detach_device_program(cgroup.as_fd(), program.as_fd()) {
            Err(e) if e.errno == Errno::ENOENT => {}
            other => other.doing("detach the old device rules from the container's cgroup").map_err(explain)?,
        }
    }
    Ok(())
}

/// The programs that are attached to the cgroup itself.
fn attached(cgroup: &Cgroup) -> Result<Vec<OwnedFd>> {
    let explain = |e: Error| explain(e).field("linux.resources.devices");
    let ids = bpf::device_programs(cgroup.as_fd()).doing("look for old device rules").map_err(explain)?;
    let mut programs = Vec::with_capacity(ids.len());
    for id in ids {
        match bpf::program_by_id(id) {
            Ok(program) => programs.push(program),
            // Detached meanwhile; or a security module keeps it from us (SELinux and systemd's program): it can only deny
            // more than ours does.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EACCES) => {}
            Err(e) => return Err(explain(Error::sys("open the old device rules", e))),
        }
    }
    Ok(programs)
}

fn explain(error: Error) -> Error {
    match error.errno() {
        Some(Errno::EPERM | Errno::EACCES) => error.hint(
            "device rules need CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the initial user namespace, a seccomp profile \
             that allows bpf(2), and no program above that was attached without BPF_F_ALLOW_MULTI",
        ),
        Some(Errno::E2BIG) => error.hint("there are too many rules for the kernel's verifier, or 64 programs on the cgroup"),
        Some(Errno::ENOSYS) => error.hint("the kernel has no bpf(2), or a seccomp profile hides it"),
        Some(Errno::EINVAL) => error.hint("the kernel was built without CONFIG_CGROUP_BPF, or refuses the program"),
        _ => error,
    }
}
