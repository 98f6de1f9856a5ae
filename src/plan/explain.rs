//! `tare plan`: each step as a line, with who does it, what is called, where in config.json it comes from, and why.

use std::fmt;

use crate::sys::clone;

use super::{Actor, DeviceKind, Groups, Op, Pivot, Plan, Tree};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "container {}", self.id)?;
        for (actor, title) in [
            (Actor::ParentBefore, "the parent, before the container's process exists"),
            (Actor::ParentAfterMaps, "the parent, while the container's process does its own steps"),
            (Actor::Child, "the container's process, until it executes"),
        ] {
            if actor == Actor::ParentAfterMaps {
                writeln!(f, "\n      {}", self.clone3())?;
            }
            writeln!(f, "\n  {title}:")?;
            for (i, step) in self.steps.iter().enumerate().filter(|(_, s)| s.by == actor) {
                let (call, why) = step.op.explain(self.tree);
                writeln!(f, "  {i:3}  {call}\n         {} — {why}", step.origin)?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn clone3(&self) -> String {
        let elsewhere = if self.tree == Tree::OpenTree { libc::CLONE_NEWNS as u64 } else { 0 };
        let mut flags = clone::flag_names(self.namespaces.early & !elsewhere);
        if self.namespaces.cgroup {
            flags.push_str("|NEWCGROUP");
        }
        if self.cgroup.is_some() && self.unit.is_none() {
            flags.push_str("|INTO_CGROUP");
        }
        let place = match self.tree {
            Tree::OpenTree => "the mount namespace is there already, and has the rootfs alone",
            Tree::Antechamber => "the mount namespace is a copy of the antechamber, which has three mounts",
            Tree::Clone => "the mount namespace is a copy of the host's",
            Tree::Host => "no mount namespace of its own",
            Tree::Joined => "the mount namespace is the container's",
        };
        format!("clone3({})\n         linux.namespaces — {place}", flags)
    }
}

impl Op {
    /// The system calls, and why.
    fn explain(&self, tree: Tree) -> (String, &'static str) {
        match self {
            Op::OpenRootfs { path, .. } if tree == Tree::Host => (format!("open({path:?})"), "the container's root"),
            Op::OpenRootfs { path, .. } if tree == Tree::OpenTree => (
                format!("open_tree({path:?}, NAMESPACE|AT_RECURSIVE)"),
                "a mount namespace of the container's root alone",
            ),
            Op::OpenRootfs { path, .. } => {
                (format!("open_tree({path:?}, CLONE|AT_RECURSIVE)"), "the container's root, as a tree of its own")
            }
            Op::OpenSource { path, recursive, .. } => (
                format!("open_tree({path:?}, CLONE{}), mount_setattr()", if *recursive { "|AT_RECURSIVE" } else { "" }),
                "only the parent sees the host's paths",
            ),
            Op::MakeFs { fstype, .. } => {
                (format!("fsopen({fstype:?}), fsmount()"), "its options hold devices or paths of the host")
            }
            Op::CreateCgroup { path } => {
                (format!("mkdir(\"{}\")", path.display()), "the process is born in its cgroup")
            }
            Op::StartUnit { unit, .. } => (
                format!("StartTransientUnit({:?}), in {}", unit.name, unit.slice),
                "systemd makes the cgroup and moves the process into it",
            ),
            Op::MapMount { .. } => {
                ("mount_setattr(IDMAP)".into(), "the ids in the file system are others in the container")
            }
            Op::MapIds => ("write(uid_map, gid_map)".into(), "who is who in the new user namespace"),
            Op::Delegate { uid } => {
                (format!("fchownat(cgroup, {uid})"), "the container's root manages its own cgroups")
            }
            Op::LimitCgroup { writes } => {
                let list: Vec<_> = writes.iter().map(|w| format!("{} = {}", w.file, w.value.trim())).collect();
                (format!("write({})", list.join(", ")), "limits hold before the container's program runs")
            }
            Op::DeviceFilter { rules, .. } => (
                format!(
                    "bpf(PROG_LOAD, CGROUP_DEVICE), bpf(PROG_ATTACH): {} rules and the default devices",
                    rules.len()
                ),
                "cgroup v2 has no files for devices",
            ),
            Op::OomScoreAdj { value } => (format!("write(oom_score_adj, {value})"), "only the parent may lower it"),
            Op::CompileSeccomp { .. } => {
                ("libseccomp, or the cache; send the filter to the child".into(), "compiled while the child mounts")
            }
            Op::AttachRootfs if tree == Tree::OpenTree => {
                ("setns(NEWNS), open(\"/\"), mount_setattr()".into(), "the new namespace has the rootfs for its root")
            }
            Op::AttachRootfs => {
                ("move_mount(rootfs)".into(), "the container's root becomes a mount of the new namespace")
            }
            Op::Attach { target, .. } => (
                format!("openat2({target:?}, IN_ROOT), move_mount()"),
                "the target is resolved inside the rootfs, once",
            ),
            Op::Mount { target, fstype, .. } => (
                format!("fsopen({fstype:?}), fsmount(), move_mount(→ {target:?})"),
                "made by the process to whose namespaces it belongs",
            ),
            Op::LateReadonly { .. } => ("mount_setattr(RDONLY)".into(), "read-only now that everything in it is made"),
            Op::Remount { target, .. } => {
                (format!("mount_setattr({target:?})"), "changes what is mounted there already")
            }
            Op::Device { path, kind, major, minor, mode, .. } => {
                let kind = match kind {
                    DeviceKind::Char => "c",
                    DeviceKind::Block => "b",
                    DeviceKind::Fifo => "p",
                };
                (
                    format!("mknodat({path:?}, {kind} {major}:{minor}, {mode:04o})"),
                    "a device that the container finds in /dev",
                )
            }
            Op::Link { path, target, .. } => {
                (format!("symlinkat({target:?}, {path:?})"), "a link that programs expect")
            }
            Op::Sysctl { path, value } => (
                format!("write(/proc/sys/{path}, {value:?})"),
                "through the host's procfs, in the container's namespaces",
            ),
            Op::Loopback => ("ioctl(SIOCSIFFLAGS, \"lo\", UP)".into(), "127.0.0.1 works in the new network namespace"),
            Op::Hostname { name } => (format!("sethostname({name:?})"), "the container's own name"),
            Op::Domainname { name } => (format!("setdomainname({name:?})"), "the container's own domain"),
            Op::Mask { path, .. } => (
                format!("move_mount(/dev/null or an empty directory → {path:?})"),
                "hides it; nothing is done where it is missing",
            ),
            Op::ReadonlyPath { path } => {
                (format!("open_tree({path:?}), mount_setattr(RDONLY), move_mount()"), "covered by itself, read-only")
            }
            Op::MakeCwd { path } => (format!("openat2({path:?}, IN_ROOT), mkdirat()"), "made if it is missing"),
            Op::RuntimeHooks => ("execve() by the parent".into(), "the mounts are made, the root is not changed yet"),
            Op::ContainerHooks => ("execve()".into(), "in the container's namespaces, with the host's paths"),
            Op::StartHooks => ("execve()".into(), "in the container, before its own program"),
            Op::RootReadonly => ("mount_setattr(rootfs, RDONLY)".into(), "after everything in it is made"),
            Op::RootPropagation { .. } => {
                ("mount_setattr(\"/\", propagation)".into(), "pivot_root refuses a shared root")
            }
            Op::Pivot { how: Pivot::Done } => ("chdir(\"/\")".into(), "the namespace was made with this root"),
            Op::Pivot { how: Pivot::PivotRoot } => {
                ("pivot_root(\".\", \".\"), umount2(\".\", DETACH)".into(), "nothing of the old root stays in reach")
            }
            Op::Pivot { how: Pivot::MoveRoot } => ("move_mount(rootfs → \"/\"), chroot(\".\")".into(), "--no-pivot"),
            Op::Pivot { how: Pivot::Chroot } => ("chroot(\".\")".into(), "there is no mount namespace to pivot in"),
            Op::Console { .. } => (
                "open(\"/dev/ptmx\"), ioctl(TIOCGPTPEER, TIOCSCTTY), dup2()".into(),
                "a terminal of the container's own devpts; its master goes to who asked for it",
            ),
            Op::ReopenDevNull => ("open(\"/dev/null\"), dup2()".into(), "no descriptor of the host's /dev stays"),
            Op::Keyring { name } => {
                (format!("keyctl(JOIN_SESSION_KEYRING, {name:?})"), "the caller's keys are not the container's")
            }
            Op::Reset { preserve_fds } => (
                format!(
                    "sched_setaffinity(), sigprocmask(), close_range({}, CLOEXEC)",
                    3_u32.saturating_add(*preserve_fds)
                ),
                "what the caller's state must not do to the container",
            ),
            Op::RaiseRlimit { name, hard, .. } => (
                format!("prlimit({name}, hard {hard})"),
                "if it is above the present one, while CAP_SYS_RESOURCE is there",
            ),
            Op::Environment(e) => match e.home_of {
                Some(uid) => (
                    format!("{} variables, HOME of uid {uid} from /etc/passwd", e.env.len()),
                    "the last of a name wins",
                ),
                None => (format!("{} variables", e.env.len()), "the last of a name wins"),
            },
            Op::StdioOwner { uid } => (format!("fchown(0..2, {uid})"), "so that /dev/stdout can be opened"),
            Op::Cwd { path } => (format!("openat2({path:?}, NO_MAGICLINKS), fchdir()"), "never through /proc/self/fd"),
            Op::Bounding { .. } => ("prctl(PR_CAPBSET_DROP)".into(), "no program can ever gain the others"),
            Op::User { uid, gid, groups, .. } => {
                let groups = match groups {
                    Groups::These(list) => format!("setgroups({list:?}), "),
                    Groups::NoneIfPossible => "setgroups([]), ".into(),
                    Groups::Callers => String::new(),
                };
                (format!("{groups}setresgid({gid}), setresuid({uid})"), "from here on it is the container's user")
            }
            Op::Capabilities { sets, until_exec } => (
                format!(
                    "capset({{eff {:#x}, prm {:#x}, inh {:#x}}}), ambient {:#x}",
                    sets.effective, sets.permitted, sets.inheritable, sets.ambient
                ),
                if *until_exec == 0 { "exactly these" } else { "and CAP_SYS_ADMIN until execve, to load the filter" },
            ),
            Op::NoNewPrivs => ("prctl(PR_SET_NO_NEW_PRIVS)".into(), "set-user-id files give nothing"),
            Op::EnterPids => {
                ("clone3(CLONE_PARENT)".into(), "who may trace it in there finds nothing of the runtime's")
            }
            Op::LookUp { args } => {
                let name = args.first().map(String::as_str).unwrap_or_default();
                (format!("faccessat2({name:?}, X_OK)"), "so that create fails, and not start")
            }
            Op::Ready { .. } => ("tell the parent that all is ready".into(), "it writes the state, then says go"),
            Op::AwaitStart => ("accept4(start socket)".into(), "the container is created; start lets it go on"),
            Op::Rlimit { name, soft, hard, .. } => {
                (format!("prlimit({name}, {soft}, {hard})"), "late: it would limit the runtime, too")
            }
            Op::LoadSeccomp => {
                ("seccomp(SET_MODE_FILTER)".into(), "last, so that the profile need not allow the runtime's calls")
            }
            Op::Exec => ("execve()".into(), "from here on it is the container's program"),
        }
    }
}
