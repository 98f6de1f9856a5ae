//! The steps before clone3(2): everything of the host that the child will need, as descriptors.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::cgroup::systemd::Unit;
use crate::cgroup::{self, Cgroup};
use crate::child::Opened;
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::host;
use crate::plan::{Actor, DeviceKind, Maps, Op, Plan, SourceKind, Tree};
use crate::sys::Call;
use crate::sys::mount::{self, Attr};

/// What the parent has made for the child.
#[derive(Default)]
pub struct Prepared {
    /// The rootfs.
    pub rootfs: Option<OwnedFd>,
    /// A mount namespace made of it (`Tree::OpenTree`).
    pub namespace: Option<OwnedFd>,
    /// Trees, by slot.
    pub slots: Vec<Option<Opened>>,
    /// The container's cgroup.
    pub cgroup: Option<Cgroup>,
    /// User namespaces with mappings, for idmapped mounts.
    pub maps: Vec<(Maps, OwnedFd)>,
    /// Its unit, once systemd was asked for it.
    pub unit: Option<Unit>,
}

/// Carries out the parent's steps before clone3(2), into `to`, which keeps what was made even after a failure.
pub fn prepare(plan: &Plan, bundle: &Path, host: Option<&cgroup::Host>, to: &mut Prepared) -> Result<()> {
    to.slots.resize_with(plan.slots, || None);
    for (index, step) in plan.steps.iter().enumerate().filter(|(_, s)| s.by == Actor::ParentBefore) {
        if faults::skips(&step.op) {
            continue;
        }
        faults::at("parent", index)
            .and_then(|()| one(plan.tree, &step.op, bundle, host, to))
            .map_err(|e| super::explain(e.at(step.origin.clone())))?;
    }
    Ok(())
}

fn one(tree: Tree, op: &Op, bundle: &Path, host: Option<&cgroup::Host>, to: &mut Prepared) -> Result<()> {
    match op {
        Op::OpenRootfs { path, propagation } => open_rootfs(tree, path, *propagation, to),
        Op::OpenSource { slot, path, recursive, nofollow, copy_symlink, attrs, kind } => {
            let path = bundle.join(path);
            if *copy_symlink && let Some(link) = link_target(&path) {
                to.slots[*slot] = Some(Opened::Link(link));
                return Ok(());
            }
            let tree = mount::open_tree(CWD, &path, *recursive, *nofollow)
                .doing(format!("open the source {}", path.display()))?;
            check_kind(&tree, *kind, &path)?;
            for (attr, recursive) in attrs {
                mount::mount_setattr(&tree, *attr, *recursive).doing("set the mount's options")?;
            }
            to.slots[*slot] = Some(Opened::Tree(tree));
            Ok(())
        }
        Op::MakeFs { slot, fstype, options, attrs, propagation } => {
            let fs = mount::new_fs(fstype, options, *attrs).doing("make the file system")?;
            for p in propagation {
                let attr = Attr { propagation: p.flag, ..Attr::default() };
                mount::mount_setattr(&fs, attr, p.recursive).doing("set the propagation")?;
            }
            to.slots[*slot] = Some(Opened::Tree(fs));
            Ok(())
        }
        Op::MapMount { slot, maps, recursive } => {
            let Some(Some(Opened::Tree(tree))) = to.slots.get(*slot) else {
                return Err(Error::new("a symbolic link cannot be idmapped"));
            };
            let namespace = match to.maps.iter().find(|(known, _)| known == maps) {
                Some((_, namespace)) => namespace,
                None => {
                    to.maps.push((maps.clone(), host::user_namespace(maps)?));
                    &to.maps[to.maps.len() - 1].1
                }
            };
            mount::idmap(tree, namespace, *recursive).doing("map the ids of the mount").map_err(|e| match e.errno() {
                Some(Errno::EINVAL) => e.hint("its file system, or the kernel, knows no idmapped mounts"),
                Some(Errno::EPERM) => e.hint("it is idmapped already, or belongs to a user namespace"),
                _ => e,
            })
        }
        Op::CreateCgroup { path } => {
            let host = host.ok_or_else(|| Error::new("no cgroup v2 was found"))?;
            to.cgroup = Some(cgroup::create(host, path)?);
            Ok(())
        }
        _ => Err(Error::new("a step of another process was planned before clone3")),
    }
}

/// The rootfs as a detached tree of its own, with everything that is mounted below it.
fn open_rootfs(tree: Tree, path: &Path, propagation: u64, to: &mut Prepared) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).call("open", || format!("{path:?}"));
    let dir = dir.doing("open the rootfs").map_err(|e| e.hint("root.path counts from the bundle"))?;
    to.rootfs = Some(match tree {
        Tree::Host | Tree::Joined => dir,
        Tree::OpenTree => {
            to.namespace = Some(mount::open_tree_namespace(&dir).doing("make a mount namespace of the rootfs")?);
            dir
        }
        Tree::Antechamber | Tree::Clone => {
            let tree = mount::open_tree(&dir, Path::new(""), true, false).doing("open the rootfs as a tree")?;
            mount::set_root_propagation(&tree, propagation).doing("set the rootfs's propagation")?;
            tree
        }
    });
    Ok(())
}

fn link_target(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

fn check_kind(tree: &OwnedFd, kind: SourceKind, path: &Path) -> Result<()> {
    match kind {
        SourceKind::Any => Ok(()),
        SourceKind::DevNull => {
            let stat = rustix::fs::fstat(tree).call("fstat", || format!("{path:?}")).doing("check /dev/null")?;
            let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
            if device && stat.st_rdev == rustix::fs::makedev(1, 3) {
                return Ok(());
            }
            Err(Error::new("the host's /dev/null is not the device 1:3"))
        }
        SourceKind::Device(kind, major, minor) => {
            let stat = rustix::fs::fstat(tree).call("fstat", || format!("{path:?}")).doing("check the device")?;
            let wanted = if kind == DeviceKind::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
            if FileType::from_raw_mode(stat.st_mode) == wanted && stat.st_rdev == rustix::fs::makedev(major, minor) {
                return Ok(());
            }
            Err(Error::new(format!("the host has another device than {major}:{minor} at {}", path.display()))
                .hint("in a user namespace devices cannot be made, so the host's are bound, by their path"))
        }
        SourceKind::Procfs => {
            let fs = rustix::fs::fstatfs(tree).call("fstatfs", || format!("{path:?}")).doing("check the source")?;
            if fs.f_type as i64 == libc::PROC_SUPER_MAGIC {
                return Ok(());
            }
            Err(Error::new("/proc cannot be mounted because it is not of type proc"))
        }
    }
}
