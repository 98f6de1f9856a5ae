//! `mounts`, masked and read-only paths, the root's mount.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::options::{self, MountOptions, Propagation};
use super::{Facts, Namespaces, Op, SourceKind, Steps, Tree, clean, idmap};
use crate::error::{Error, Origin, Result};
use crate::sys::mount::{Attr, FsOption};

/// A value of fsconfig(2) may have 255 bytes; what is longer goes by mount(2).
pub const LONGEST_VALUE: usize = 255;

/// File systems that belong to the namespaces of whoever mounts them: the child makes them. All others are made by the
/// parent, which sees the host's devices and paths.
const CHILDS: [&str; 12] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "ramfs",
    "bpf",
    "binfmt_misc",
    "rpc_pipefs",
    "nfsd",
];

/// What may be mounted inside /proc: files that say less than the kernel's, as lxcfs makes them (runc's list). Anything
/// else could fool whoever writes labels or sysctls there (CVE-2019-16884, CVE-2023-28642).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Whether a mount's target may lie inside /proc.
pub fn may_cover_proc(target: &Path) -> bool {
    target == Path::new("/proc") || PROC_FILES.iter().any(|p| target == Path::new(p))
}

/// The propagation that the rootfs and all bind sources start from: `slave`, unless `linux.rootfsPropagation` says
/// otherwise. It holds for mounts below them, too, so that "private" leaves no way in.
pub fn base_propagation(spec: &Spec) -> Result<u64> {
    let word = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref()).unwrap_or_default();
    if word.is_empty() {
        return Ok(libc::MS_SLAVE);
    }
    match options::propagation_flag(word) {
        Some(Propagation { flag: libc::MS_UNBINDABLE, .. }) => Ok(libc::MS_PRIVATE),
        Some(Propagation { flag, .. }) => Ok(flag),
        None => Err(Error::new(format!("{word:?} is not shared, slave, private or unbindable"))
            .field("linux.rootfsPropagation")),
    }
}

/// Cut off from all others.
const PRIVATE: u64 = libc::MS_PRIVATE | libc::MS_UNBINDABLE;

fn entries(spec: &Spec) -> impl Iterator<Item = (usize, &Mount)> {
    spec.mounts().iter().flatten().enumerate()
}

fn origin(index: usize, mount: &Mount) -> Origin {
    Origin::new(format!("mounts[{index}]"), mount.destination().display().to_string())
}

fn parse(index: usize, mount: &Mount) -> Result<(String, MountOptions)> {
    let typ = mount.typ().as_deref().unwrap_or_default();
    // On cgroup v2 there is one kind.
    let fstype = if typ == "cgroup" { "cgroup2" } else { typ };
    let words = mount.options().as_deref().unwrap_or_default();
    let parsed = options::parse(fstype, words).map_err(|e| {
        e.at(Origin::new(format!("mounts[{index}].options"), mount.destination().display().to_string()))
    })?;
    let fstype = if parsed.bind { "bind" } else { fstype };
    Ok((fstype.to_owned(), parsed))
}

/// Whether a file system has options that only mount(2) can pass: then the child must see the host's paths.
pub fn needs_host_paths(spec: &Spec) -> Result<bool> {
    for (index, mount) in entries(spec) {
        let (_, parsed) = parse(index, mount)?;
        if !parsed.bind && parsed.data.iter().any(too_long) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn too_long((_, value): &FsOption) -> bool {
    value.as_ref().is_some_and(|v| v.len() > LONGEST_VALUE)
}

/// All mounts of config.json, in their order.
pub fn plan(spec: &Spec, facts: &Facts, tree: Tree, base: u64, steps: &mut Steps) -> Result<()> {
    if tree == Tree::Host {
        return Ok(()); // spec/check has refused mounts without a mount namespace
    }
    steps.child(Origin::field("root.path"), Op::AttachRootfs);
    let cgroup_namespace = Namespaces::of(spec, false).has_cgroup();
    let mut readonly = Vec::new();
    for (index, mount) in entries(spec) {
        let origin = origin(index, mount);
        let (fstype, parsed) = parse(index, mount)?;
        let target = clean(mount.destination());
        check_target(&target, &fstype).map_err(|e| e.at(origin.clone()))?;
        let source = mount.source().clone().unwrap_or_default();
        let mapped = idmap::of(mount, spec).map_err(|e| e.at(origin.clone()))?;
        // Only what the parent opens can be mapped: it needs rights in the file system's user namespace.
        let by_child = CHILDS.contains(&fstype.as_str()) && !(mapped.is_some() && fstype == "tmpfs");
        let (first, whose) = (steps.slots, origin.clone());
        if mapped.is_some() && (parsed.remount || by_child) {
            return Err(Error::new("this mount cannot be idmapped").at(origin));
        }
        if parsed.remount {
            let attrs = attrs(&parsed, None);
            steps.child(origin, Op::Remount { target, attrs, propagation: parsed.propagation });
        } else if parsed.bind {
            let kind = if target == Path::new("/proc") { SourceKind::Procfs } else { SourceKind::Any };
            bind(source, target, parsed, base, kind, origin, steps);
        } else if fstype == "cgroup2" && !cgroup_namespace {
            // A new mount of cgroup2 would set the flags of the host's (nsdelegate), so the host's is bound.
            bind(facts.cgroup_root.clone(), target, parsed, base, SourceKind::Any, origin, steps);
        } else if by_child || parsed.data.iter().any(too_long) {
            // Targets below a read-only tmpfs or /dev are still to be made, so it becomes read-only after them.
            let late = fstype == "tmpfs" || target == Path::new("/dev");
            let mut attrs = parsed.attr.set;
            let mut slot = None;
            if late && attrs & libc::MOUNT_ATTR_RDONLY != 0 {
                attrs &= !libc::MOUNT_ATTR_RDONLY;
                let new = steps.slot();
                slot = Some(new);
                readonly.push((origin.clone(), Op::LateReadonly { slot: new }));
            }
            let MountOptions { data: options, propagation, copy_up, .. } = parsed;
            let source = source.to_string_lossy().into_owned();
            steps.child(origin, Op::Mount { target, fstype, source, options, attrs, propagation, copy_up, slot });
        } else {
            let slot = steps.slot();
            let MountOptions { data: mut options, propagation, attr, target_nofollow, .. } = parsed;
            if !source.as_os_str().is_empty() {
                options.insert(0, ("source".into(), Some(source.to_string_lossy().into_owned())));
            }
            steps.before(origin.clone(), Op::MakeFs { slot, fstype, options, attrs: attr.set, propagation });
            steps.child(origin, Op::Attach { slot, target, nofollow: target_nofollow, copy_symlink: false });
        }
        if let Some((maps, recursive)) = mapped {
            steps.before(whose, Op::MapMount { slot: first, maps, recursive });
        }
    }
    steps.late.extend(readonly);
    Ok(())
}

/// A bind mount: opened and given its options by the parent, attached by the child.
fn bind(
    source: PathBuf,
    target: PathBuf,
    parsed: MountOptions,
    base: u64,
    kind: SourceKind,
    origin: Origin,
    steps: &mut Steps,
) {
    let slot = steps.slot();
    let attrs = attrs(&parsed, Some(base));
    steps.before(
        origin.clone(),
        Op::OpenSource {
            slot,
            path: source,
            recursive: parsed.recursive,
            nofollow: parsed.source_nofollow,
            copy_symlink: parsed.copy_symlink,
            attrs,
            kind,
        },
    );
    steps.child(
        origin,
        Op::Attach { slot, target, nofollow: parsed.target_nofollow, copy_symlink: parsed.copy_symlink },
    );
}

/// The calls of mount_setattr(2) for the options, in order: what is changed, and whether for all mounts below.
fn attrs(parsed: &MountOptions, base: Option<u64>) -> Vec<(Attr, bool)> {
    let mut calls = Vec::with_capacity(2);
    let own = &parsed.propagation;
    // "slave, then private" is private, so the base need not be set first. But what `rshared` makes of a slave stays one of
    // the host's as well, and a private base leaves no master for `rslave`.
    let covers = |p: &Propagation, base| p.recursive && (p.flag & PRIVATE != 0 || p.flag == base);
    let covered = own.first().zip(base).is_some_and(|(p, base)| covers(p, base));
    let base = base.filter(|_| !covered).map(|flag| Propagation { flag, recursive: true });
    let mut propagation = base.iter().chain(own);
    let first = propagation.next();
    let mut one = parsed.attr;
    if let Some(first) = first.filter(|p| !p.recursive) {
        one.propagation = first.flag;
    }
    if !one.is_empty() {
        calls.push((one, false));
    }
    // After the mount's own: `rro` with `rw` is read-only, with runc and crun as well.
    let mut all = parsed.recursive_attr;
    if let Some(first) = first.filter(|p| p.recursive) {
        all.propagation = first.flag;
    }
    if !all.is_empty() {
        calls.push((all, true));
    }
    calls.extend(propagation.map(|p| (Attr { propagation: p.flag, ..Attr::default() }, p.recursive)));
    calls
}

/// What may be mounted where.
fn check_target(target: &Path, fstype: &str) -> Result<()> {
    if target == Path::new("/") {
        return Err(Error::new("a mount cannot cover the root of the container"));
    }
    let in_proc = target.starts_with("/proc");
    if in_proc && !may_cover_proc(target) {
        return Err(Error::new(format!("{} cannot be mounted because it is inside /proc", target.display()))
            .hint("only files like /proc/meminfo may be covered"));
    }
    if target == Path::new("/proc") && fstype != "proc" && fstype != "bind" {
        return Err(Error::new("/proc cannot be mounted because it is not of type proc"));
    }
    Ok(())
}

/// Masked and read-only paths, late read-only mounts.
pub fn restrict(spec: &Spec, steps: &mut Steps) {
    let late = std::mem::take(&mut steps.late);
    for (origin, op) in late {
        steps.child(origin, op);
    }
    let Some(linux) = spec.linux() else { return };
    let path = |p: &String| clean(Path::new(p));
    for (i, p) in linux.readonly_paths().iter().flatten().enumerate().filter(|(_, p)| !is_root(p)) {
        steps.child(Origin::new(format!("linux.readonlyPaths[{i}]"), p.as_str()), Op::ReadonlyPath { path: path(p) });
    }
    let masked = linux.masked_paths().as_deref().unwrap_or_default();
    if masked.is_empty() {
        return;
    }
    // The host's /dev/null, checked by its number, and not the one that the image or a race put there (CVE-2025-31133).
    let null = steps.slot();
    let origin = Origin::field("linux.maskedPaths");
    let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
    steps.before(
        origin,
        Op::OpenSource {
            slot: null,
            path: "/dev/null".into(),
            recursive: false,
            nofollow: true,
            copy_symlink: false,
            attrs: vec![(private, false)],
            kind: SourceKind::DevNull,
        },
    );
    for (i, p) in masked.iter().enumerate() {
        let origin = Origin::new(format!("linux.maskedPaths[{i}]"), p.as_str());
        steps.child(origin, Op::Mask { path: path(p), null });
    }
}

/// The root's mount itself, after everything in it is made. A read-only path "/" means it, too: a copy that covered it
/// would be above the root that the container gets.
pub fn root(spec: &Spec, steps: &mut Steps) {
    let paths = spec.linux().as_ref().and_then(|l| l.readonly_paths().as_deref()).unwrap_or_default();
    if spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true)) {
        steps.child(Origin::field("root.readonly"), Op::RootReadonly);
    } else if let Some(i) = paths.iter().position(|p| is_root(p)) {
        steps.child(Origin::field(format!("linux.readonlyPaths[{i}]")), Op::RootReadonly);
    }
}

fn is_root(path: &str) -> bool {
    clean(Path::new(path)) == Path::new("/")
}

/// Shared and unbindable are set at last: pivot_root(2) refuses a shared root.
pub fn root_propagation(spec: &Spec, steps: &mut Steps) {
    let word = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref()).unwrap_or_default();
    if let Some(Propagation { flag: flag @ (libc::MS_SHARED | libc::MS_UNBINDABLE), recursive }) =
        options::propagation_flag(word)
    {
        steps.child(Origin::field("linux.rootfsPropagation"), Op::RootPropagation { flag, recursive });
    }
}
