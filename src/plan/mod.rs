//! PURE: from config.json and facts about the host to the list of everything that will be done, in order. Nothing here
//! reads or writes; `tare plan` prints the list, the parent and the child work it off, an error is told by its index.

mod devices;
mod explain;
mod hooks;
mod idmap;
mod mounts;
mod namespaces;
mod options;
mod process;
mod resources;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde::Serialize;

use crate::cgroup::devices::Rule;
use crate::cgroup::limits::Write;
use crate::cgroup::systemd::properties::Property;
use crate::cgroup::systemd::{Manager, Unit};
use crate::error::{Error, Origin, Result};
use crate::sys::mount::{Attr, FsOption};

pub use hooks::{Hook, Hooks};
pub use mounts::{LONGEST_VALUE, may_cover_proc};
pub use namespaces::{By, Joined, Maps, NEWTIME, Namespaces, Tree};
pub use options::Propagation;
pub use process::{Capabilities, Environment, Groups, candidates};

/// What was found out about the host and the caller before planning.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The kernel has OPEN_TREE_NAMESPACE.
    pub open_tree_namespace: bool,
    /// Effective user id 0 in the initial user namespace: the antechamber can be used.
    pub privileged: bool,
    /// The capabilities that the runtime has and may give.
    pub permitted: u64,
    /// /proc/kcore exists, so /dev/core is made.
    pub kcore: bool,
    /// Where cgroup2 is mounted.
    pub cgroup_root: PathBuf,
    /// The runtime's own cgroup, from /proc/self/cgroup.
    pub own_cgroup: String,
}

/// What the caller asked for, beside config.json.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container's id.
    pub id: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`, with what LISTEN_FDS adds.
    pub preserve_fds: u32,
    /// LISTEN_FDS of the caller: the container gets it with LISTEN_PID=1.
    pub listen_fds: u32,
    /// `--cgroup-manager=disabled`.
    pub no_cgroup: bool,
    /// `--systemd-cgroup`: who makes the cgroup then.
    pub systemd: Option<Manager>,
    /// `--mount-namespace`: the way to make it, instead of the best that works.
    pub tree: Option<Tree>,
    /// `run`: the process is executed at once, without waiting for `start`.
    pub run: bool,
}

/// Everything that a `create` does, in order.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// Which namespaces are made, and when.
    pub namespaces: Namespaces,
    /// How the mount namespace is made.
    pub tree: Tree,
    /// The container's cgroup, below the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Its unit, if systemd makes it.
    pub unit: Option<Unit>,
    /// The container's hooks.
    pub hooks: Option<Hooks>,
    /// The number of mounts that the parent opens for the child.
    pub slots: usize,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One thing that is done.
#[derive(Debug, Serialize)]
pub struct Step {
    /// The field of config.json it comes from.
    #[serde(serialize_with = "as_text")]
    pub origin: Origin,
    /// Who does it, when.
    pub by: Actor,
    /// What is done.
    pub op: Op,
}

fn writes_as_text<S: serde::Serializer>(writes: &[Write], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_map(writes.iter().map(|w| (&w.file, &w.value)))
}

fn as_text<S: serde::Serializer>(origin: &Origin, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(origin)
}

/// The process that carries out a step. A child of a new user namespace has no right on the host any more, so this is
/// no detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// The parent, before clone3(2).
    ParentBefore,
    /// The parent, after clone3(2), while the child does its own steps.
    ParentAfterMaps,
    /// The child.
    Child,
}

/// The kinds of steps.
#[derive(Debug, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Op {
    // The parent, before clone3.
    /// Opens the rootfs as a detached tree.
    OpenRootfs { path: PathBuf, propagation: u64 },
    /// Opens the source of a bind mount as a detached tree and gives it its options.
    OpenSource {
        slot: usize,
        path: PathBuf,
        recursive: bool,
        nofollow: bool,
        copy_symlink: bool,
        attrs: Vec<(Attr, bool)>,
        kind: SourceKind,
    },
    /// Makes a file system whose options hold paths of the host.
    MakeFs { slot: usize, fstype: String, options: Vec<FsOption>, attrs: u64, propagation: Vec<Propagation> },
    /// Maps the ids of a mount that is open.
    MapMount { slot: usize, maps: Maps, recursive: bool },
    /// Makes the container's cgroup; the child is born in it.
    CreateCgroup { path: PathBuf },

    // The parent, while the child works.
    /// Writes uid_map and gid_map of the child.
    MapIds,
    /// Gives the cgroup to the container's root, so that it can manage its own below it.
    Delegate { uid: u32 },
    /// Has systemd make the container's cgroup, with the child in it.
    StartUnit {
        unit: Unit,
        #[serde(serialize_with = "writes_as_text")]
        limits: Vec<Write>,
        rules: Vec<Rule>,
        properties: Vec<Property>,
        subgroup: Option<String>,
    },
    /// Writes the limits.
    LimitCgroup {
        #[serde(serialize_with = "writes_as_text")]
        writes: Vec<Write>,
    },
    /// Attaches the device filter.
    DeviceFilter { rules: Vec<Rule>, optional: bool },
    /// Writes oom_score_adj of the child.
    OomScoreAdj { value: i32 },
    /// Compiles the filter, or takes it from the cache, and hands it to the child.
    CompileSeccomp {
        /// The profile itself is left out of the dry run.
        #[serde(skip)]
        profile: Box<LinuxSeccomp>,
    },

    // The child.
    /// Makes the rootfs a mount of the new namespace.
    AttachRootfs,
    /// Attaches a tree that the parent opened.
    Attach { slot: usize, target: PathBuf, nofollow: bool, copy_symlink: bool },
    /// Makes a new file system and attaches it.
    Mount {
        target: PathBuf,
        fstype: String,
        source: String,
        options: Vec<FsOption>,
        attrs: u64,
        propagation: Vec<Propagation>,
        copy_up: bool,
        slot: Option<usize>,
    },
    /// Makes a mount read-only, now that all in it is made.
    LateReadonly { slot: usize },
    /// Changes a mount that is there.
    Remount { target: PathBuf, attrs: Vec<(Attr, bool)>, propagation: Vec<Propagation> },
    /// Makes a device node.
    Device { path: PathBuf, kind: DeviceKind, major: u32, minor: u32, mode: u32, uid: u32, gid: u32 },
    /// Makes a symbolic link, if nothing is there (or in its place).
    Link { path: PathBuf, target: &'static str, replace: bool },
    /// Writes a sysctl through a private procfs.
    Sysctl { path: String, value: String },
    /// Brings the loopback interface up.
    Loopback,
    /// Sets the hostname.
    Hostname { name: String },
    /// Sets the NIS domain name.
    Domainname { name: String },
    /// Hides a path.
    Mask { path: PathBuf, null: usize },
    /// Makes a path read-only.
    ReadonlyPath { path: PathBuf },
    /// Makes the working directory if it is missing.
    MakeCwd { path: PathBuf },
    /// Makes the root's mount read-only.
    RootReadonly,
    /// Makes the root's mount shared or unbindable.
    RootPropagation { flag: u64, recursive: bool },
    /// Has the parent run the hooks prestart and createRuntime, and waits for that.
    RuntimeHooks,
    /// Runs the hooks createContainer.
    ContainerHooks,
    /// Runs the hooks startContainer.
    StartHooks,
    /// Leaves the old root.
    Pivot { how: Pivot },
    /// Makes a terminal: its slave becomes stdio (and /dev/console), its master goes to who asked for it.
    Console { size: Option<(u16, u16)>, bind: bool },
    /// Opens the container's /dev/null instead of the host's on stdio.
    ReopenDevNull,
    /// A session keyring of its own.
    Keyring { name: String },
    /// Signals, CPU affinity, descriptors above the preserved ones.
    Reset { preserve_fds: u32 },
    /// Raises a hard limit while the right to is there.
    RaiseRlimit { resource: u32, name: String, hard: u64 },
    /// The environment; HOME is looked up in the image's passwd when it is missing.
    Environment(Environment),
    /// Gives stdio to the process's user.
    StdioOwner { uid: u32 },
    /// Enters the working directory, as root if the user may not.
    Cwd { path: PathBuf },
    /// Drops capabilities from the bounding set.
    Bounding { keep: u64 },
    /// Supplementary groups, gid and uid.
    User { uid: u32, gid: u32, groups: Groups, umask: u32 },
    /// The other four capability sets.
    Capabilities { sets: Capabilities, until_exec: u64 },
    /// No new privileges.
    NoNewPrivs,
    /// Makes the process that goes on, in the pid namespace that it joins.
    EnterPids,
    /// Finds the executable and checks that it may be executed.
    LookUp { args: Vec<String> },
    /// Reports that all is ready, and waits for the parent's word.
    Ready { seccomp: bool },
    /// Waits for `tare start`.
    AwaitStart,
    /// Sets a limit.
    Rlimit { resource: u32, name: String, soft: u64, hard: u64 },
    /// Loads the filter.
    LoadSeccomp,
    /// Becomes the container's process.
    Exec,
}

/// What the source of a bind mount must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Anything.
    Any,
    /// The device 1:3, by its number.
    DevNull,
    /// A procfs, since it will cover /proc.
    Procfs,
    /// This device.
    Device(DeviceKind, u32, u32),
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// `c` or `u`.
    Char,
    /// `b`.
    Block,
    /// `p`.
    Fifo,
}

/// How the old root is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::enum_variant_names, reason = "the system call's name")]
pub enum Pivot {
    /// The namespace was made with this root.
    Done,
    /// pivot_root(2).
    PivotRoot,
    /// `--no-pivot`: the root mount is moved onto "/", then chroot(2).
    MoveRoot,
    /// chroot(2) alone: no mount namespace of its own.
    Chroot,
}

/// Plans a `create` (or with `options.run` a `run`).
///
/// # Errors
/// Whatever of config.json cannot be carried out, with the field's name.
pub fn plan(spec: &Spec, facts: &Facts, options: &Options, log: &mut Vec<String>) -> Result<Plan> {
    let namespaces = Namespaces::of(spec, options.no_cgroup);
    let mut steps = Steps::default();
    let overlay_paths = mounts::needs_host_paths(spec)?;
    let hooks = Hooks::of(spec, &options.id, &options.bundle);
    let needs_host = overlay_paths || hooks.as_ref().is_some_and(Hooks::look_inside);
    let tree = namespaces::tree(&namespaces, facts, options, needs_host)?;

    process::oom_score_adj(spec, &mut steps);
    if namespaces.maps.is_some() {
        steps.after(Origin::field("linux.uidMappings"), Op::MapIds);
    }
    let root = spec.root().as_ref().ok_or_else(|| Error::new("missing").field("root"))?;
    // clone3(NEWUSER) makes what it copies a slave; a tree that is moved in would stay shared with the host.
    let base = match mounts::base_propagation(spec)? {
        libc::MS_SHARED if namespaces.user() => libc::MS_SLAVE,
        base => base,
    };
    let rootfs = clean(&options.bundle.join(root.path()));
    let origin = Origin::new("root.path", rootfs.display().to_string());
    steps.before(origin, Op::OpenRootfs { path: rootfs, propagation: base });

    mounts::plan(spec, facts, tree, base, &mut steps)?;
    let (cgroup, unit) = resources::plan(spec, facts, options, &mut steps, log)?;
    devices::plan(spec, facts, &mut steps)?;
    process::console(spec, tree != Tree::Host, &mut steps);
    process::seccomp(spec, &mut steps);
    if let Some(hooks) = &hooks {
        let mut put = |list: &[Hook], op| {
            if let Some(first) = list.first() {
                steps.child(Origin::new(first.field.clone(), first.path.clone()), op);
            }
        };
        put(&hooks.create_runtime, Op::RuntimeHooks);
        put(&hooks.create_container, Op::ContainerHooks);
    }
    mounts::restrict(spec, &mut steps);
    let how = match (tree, options.no_pivot) {
        (Tree::Host, _) => Pivot::Chroot,
        (Tree::OpenTree, _) => Pivot::Done,
        (_, true) => Pivot::MoveRoot,
        _ => Pivot::PivotRoot,
    };
    process::plan(spec, how, facts, options, hooks.as_ref(), &mut steps, log)?;
    let slots = steps.slots;
    Ok(Plan { id: options.id.clone(), namespaces, tree, cgroup, unit, hooks, slots, steps: steps.in_order() })
}

/// Plans an `exec`: `spec` is the container's, with the new process in it.
///
/// # Errors
/// Whatever of the process cannot be carried out, with the field's name.
pub fn exec(spec: &Spec, facts: &Facts, options: &Options, log: &mut Vec<String>) -> Result<Plan> {
    let mut steps = Steps::default();
    process::exec(spec, facts, options, &mut steps, log)?;
    let (id, namespaces, tree) = (options.id.clone(), Namespaces::default(), Tree::Joined);
    Ok(Plan { id, namespaces, tree, cgroup: None, unit: None, hooks: None, slots: 0, steps: steps.in_order() })
}

/// A path without `.` and `..`, lexically, as Go's filepath.Clean does it for absolute paths.
pub fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// The list while it is made, by actor; each part in its order.
#[derive(Default)]
struct Steps {
    before: Vec<Step>,
    after: Vec<Step>,
    child: Vec<Step>,
    /// To be done by the child after all mounts and devices.
    late: Vec<(Origin, Op)>,
    slots: usize,
}

impl Steps {
    fn before(&mut self, origin: Origin, op: Op) {
        self.before.push(Step { origin, by: Actor::ParentBefore, op });
    }

    fn after(&mut self, origin: Origin, op: Op) {
        self.after.push(Step { origin, by: Actor::ParentAfterMaps, op });
    }

    fn child(&mut self, origin: Origin, op: Op) {
        self.child.push(Step { origin, by: Actor::Child, op });
    }

    /// A place for a descriptor that the parent opens and the child uses.
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    fn in_order(self) -> Vec<Step> {
        self.before.into_iter().chain(self.after).chain(self.child).collect()
    }
}
