//! Which namespaces are made when, and how the mount namespace is made.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset, Spec};
use serde::Serialize;

use super::{Facts, Options};
use crate::error::{Error, Result};

/// CLONE_NEWTIME (include/uapi/linux/sched.h; not in every C library's headers).
pub const NEWTIME: u64 = 0x80;

/// The namespaces, by the moment at which each is made or joined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Namespaces {
    /// `CLONE_NEW*` of clone3(2).
    pub early: u64,
    /// Made by the child once the ids of its user namespace are mapped: what is in them would belong to nobody else.
    pub late: u64,
    /// Made in clone3(2) if the child is born in its cgroup, else by the child once it was moved there: the root of a
    /// cgroup namespace is the cgroup that its maker is in.
    pub cgroup: bool,
    /// Joined by path, in this order.
    pub join: Vec<Joined>,
    /// The mappings of a new user namespace.
    pub maps: Option<Maps>,
    /// A new time namespace: lines of timens_offsets. Not by clone3(2), after which they could not be written any more.
    pub time: Option<Vec<String>>,
}

/// A namespace that is joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// `CLONE_NEW*`
    pub flag: u64,
    /// Its file.
    pub path: PathBuf,
    /// `linux.namespaces[3]`
    pub field: String,
}

/// Which process makes a namespace, or joins it, and when. tests/data/namespaces.txt has examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Made by clone3(2).
    Clone,
    /// Made by the child, once its ids are mapped.
    Late,
    /// Made by clone3(2) if the child is born in its cgroup, else by the child once it was moved there.
    Placed,
    /// Joined (a time namespace: or made) by the parent, which only its child gets into, and which goes back after clone3(2).
    Parent,
    /// Joined by the child.
    Child,
    /// Joined (a time namespace: or made) by the process between the parent and the child.
    Gate,
}

/// The lines of uid_map and gid_map: id inside, id outside, count (user_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Maps {
    /// uid_map
    pub uids: Vec<[u32; 3]>,
    /// gid_map
    pub gids: Vec<[u32; 3]>,
}

impl Maps {
    /// Of a list of config.json each.
    pub fn of(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Maps {
        let lines = |list: &[LinuxIdMapping]| list.iter().map(|m| [m.container_id(), m.host_id(), m.size()]).collect();
        Maps { uids: lines(uids), gids: lines(gids) }
    }

    /// The user id outside for one inside.
    pub fn outside(&self, uid: u32) -> Option<u32> {
        let within = |m: &&[u32; 3]| uid >= m[0] && uid - m[0] < m[2];
        self.uids.iter().find(within).map(|m| m[1] + (uid - m[0]))
    }
}

impl Namespaces {
    /// The namespaces of config.json.
    pub fn of(spec: &Spec, no_cgroup: bool) -> Self {
        let linux = spec.linux().as_ref();
        let asked = linux.and_then(|l| l.namespaces().as_ref());
        let mut namespaces = Namespaces::default();
        for (i, namespace) in asked.into_iter().flatten().enumerate() {
            let flag = namespace.typ() as u64;
            if let Some(path) = namespace.path() {
                let field = format!("linux.namespaces[{i}]");
                namespaces.join.push(Joined { flag, path: path.clone(), field });
            } else if namespace.typ() == LinuxNamespaceType::Cgroup {
                namespaces.cgroup = true;
            } else {
                namespaces.early |= flag;
            }
        }
        if no_cgroup && namespaces.cgroup {
            namespaces.cgroup = false;
            namespaces.early |= libc::CLONE_NEWCGROUP as u64;
        }
        if namespaces.early & NEWTIME != 0 {
            namespaces.early &= !NEWTIME;
            let offsets = linux.and_then(|l| l.time_offsets().as_ref());
            let line = |(clock, offset): (&String, &LinuxTimeOffset)| {
                format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
            };
            namespaces.time = Some(offsets.into_iter().flatten().map(line).collect());
        }
        if namespaces.early & libc::CLONE_NEWUSER as u64 != 0 {
            let list = |l: Option<&Vec<LinuxIdMapping>>| l.cloned().unwrap_or_default();
            let uids = list(linux.and_then(|l| l.uid_mappings().as_ref()));
            let gids = list(linux.and_then(|l| l.gid_mappings().as_ref()));
            namespaces.maps = Some(Maps::of(&uids, &gids));
            let late = (libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;
            namespaces.late = namespaces.early & late;
            namespaces.early &= !late;
        }
        // The user namespace last: after that there is no right to join what belongs to the host.
        namespaces.join.sort_by_key(|j| j.flag == libc::CLONE_NEWUSER as u64);
        namespaces
    }

    /// Which process makes or joins that of this kind (`CLONE_NEW*`); none if it is the host's.
    pub fn by(&self, flag: u64) -> Option<By> {
        const NEWPID: u64 = libc::CLONE_NEWPID as u64;
        if self.joins(flag) {
            return Some(match flag {
                _ if self.gate() => By::Gate,
                NEWPID | NEWTIME => By::Parent,
                _ => By::Child,
            });
        }
        match flag {
            NEWTIME => self.time.as_ref().map(|_| if self.gate() { By::Gate } else { By::Parent }),
            _ if self.early & flag != 0 => Some(By::Clone),
            _ if self.late & flag != 0 => Some(By::Late),
            _ => (self.cgroup && flag == libc::CLONE_NEWCGROUP as u64).then_some(By::Placed),
        }
    }

    /// All that are made anew.
    pub fn new_ones(&self) -> u64 {
        self.early | self.late | if self.cgroup { libc::CLONE_NEWCGROUP as u64 } else { 0 }
    }

    /// Whether there is a mount namespace of its own.
    pub fn mount(&self) -> bool {
        self.early & libc::CLONE_NEWNS as u64 != 0
    }

    /// Whether there is a cgroup namespace of its own.
    pub fn has_cgroup(&self) -> bool {
        self.new_ones() & libc::CLONE_NEWCGROUP as u64 != 0 || self.joins(libc::CLONE_NEWCGROUP as u64)
    }

    /// Whether the namespace of this kind is joined.
    pub fn joins(&self, flag: u64) -> bool {
        self.join.iter().any(|j| j.flag == flag)
    }

    /// Whether the container is in another user namespace than ours: its process has no right on the host then.
    pub fn user(&self) -> bool {
        self.maps.is_some() || self.joins(libc::CLONE_NEWUSER as u64)
    }

    /// Whether a process in between must join what is joined: a child of clone3(NEWUSER) has no right to any more; and what is
    /// made after a user namespace was joined belongs to that.
    pub fn gate(&self) -> bool {
        self.user() && !self.join.is_empty()
    }

    /// Whether the gate is then in another cgroup namespace. On a cgroup2 mounted with nsdelegate nobody is born from in there
    /// into a cgroup outside (ENOENT; cgroup_procs_write_permission), so the child is moved into its cgroup from out here.
    pub fn gate_leaves_cgroups(&self) -> bool {
        self.gate() && self.join.iter().any(|j| j.flag == libc::CLONE_NEWCGROUP as u64)
    }
}

/// Where the mount namespace comes from. A copy of the host's has every mount of the host, and making and destroying it
/// takes time for each; so a container gets one only where nothing else can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::enum_variant_names, reason = "the system call's name")]
pub enum Tree {
    /// open_tree(2) with OPEN_TREE_NAMESPACE (Linux 7.0) makes a namespace of the rootfs alone.
    OpenTree,
    /// A copy of a tiny namespace that is kept for this.
    Antechamber,
    /// A copy of the host's.
    Clone,
    /// None of its own.
    Host,
    /// `exec`: that of the container, which is there.
    Joined,
}

impl std::str::FromStr for Tree {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        match word {
            "open-tree" => Ok(Tree::OpenTree),
            "antechamber" => Ok(Tree::Antechamber),
            "clone" => Ok(Tree::Clone),
            _ => Err("open-tree, antechamber or clone".into()),
        }
    }
}

/// Chooses. `long_options`: a file system has an option that only mount(2) can pass, with paths of the host in it.
pub fn tree(namespaces: &Namespaces, facts: &Facts, options: &Options, long_options: bool) -> Result<Tree> {
    if !namespaces.mount() {
        return Ok(Tree::Host);
    }
    let needs_host = options.no_pivot || long_options || !facts.privileged;
    match options.tree {
        Some(Tree::OpenTree) if !facts.open_tree_namespace => {
            Err(Error::new("open-tree needs Linux 7.0 or newer").field("--mount-namespace"))
        }
        // That namespace is its maker's, and not the user namespace's of the container.
        Some(Tree::OpenTree) if namespaces.user() => {
            Err(Error::new("open-tree makes no mount namespace for a user namespace").field("--mount-namespace"))
        }
        Some(tree) if tree != Tree::Clone && needs_host => {
            Err(Error::new("this container needs a copy of the host's mount namespace").field("--mount-namespace"))
        }
        Some(tree) => Ok(tree),
        None if needs_host => Ok(Tree::Clone),
        None if facts.open_tree_namespace && !namespaces.user() => Ok(Tree::OpenTree),
        None => Ok(Tree::Antechamber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For the rows see the file. A container of each is run by tests/joined.rs.
    #[test]
    fn which_process_makes_or_joins_what() {
        use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
        let kinds = [User, Mount, Pid, Network, Ipc, Uts, Cgroup, Time];
        let names = ["user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"];
        let table = include_str!("../../tests/data/namespaces.txt");
        let mut rows = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        assert!(rows.next().unwrap().split_whitespace().eq(names.into_iter().chain(["owner"])));
        let mut count = 0;
        for row in rows {
            let mut cells = row.split_whitespace().map(|cell| cell.split_once(':').unwrap_or((cell, "")));
            let cells: Vec<_> = kinds.iter().zip(names).zip(cells.by_ref()).collect();
            let asked = cells.iter().filter(|(_, (how, _))| *how != "-").map(|((_, name), (how, _))| match *how {
                "new" => serde_json::json!({"type": name}),
                how => serde_json::json!({"type": name, "path": format!("/{how}/{name}")}),
            });
            let map = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
            let spec = serde_json::json!({"ociVersion": "1.2.0", "linux": {
                "namespaces": asked.collect::<Vec<_>>(), "uidMappings": map, "gidMappings": map,
            }});
            let namespaces = Namespaces::of(&serde_json::from_value(spec).unwrap(), false);
            let who = |by| match by {
                None => "",
                Some(By::Clone) => "clone",
                Some(By::Late) => "late",
                Some(By::Placed) => "placed",
                Some(By::Parent) => "parent",
                Some(By::Child) => "child",
                Some(By::Gate) => "gate",
            };
            for ((kind, name), (_, by)) in &cells {
                assert_eq!(who(namespaces.by(**kind as u64)), *by, "{name} of {row}");
            }
            // What is made of it: flags for clone3(2) and unshare(2), and what is joined, the user namespace last.
            let flags = |which: &str| {
                let chosen = cells.iter().filter(|(_, (_, by))| *by == which);
                chosen.fold(0, |flags, ((kind, _), _)| flags | **kind as u64)
            };
            assert_eq!((namespaces.early, namespaces.late), (flags("clone"), flags("late")), "{row}");
            let is = |kind: LinuxNamespaceType, how| cells.iter().any(|((k, _), cell)| **k == kind && cell.0 == how);
            assert_eq!(namespaces.cgroup, is(Cgroup, "new"), "{row}");
            assert_eq!(namespaces.maps.is_some(), is(User, "new"), "{row}");
            assert_eq!(namespaces.time.is_some(), is(Time, "new"), "{row}");
            let joined = cells.iter().filter(|(_, (how, _))| *how == "join").map(|((kind, _), _)| **kind as u64);
            let mut joined: Vec<u64> = joined.collect();
            joined.rotate_left(usize::from(is(User, "join")));
            assert_eq!(namespaces.join.iter().map(|j| j.flag).collect::<Vec<_>>(), joined, "{row}");
            let gate = flags("gate") != 0;
            assert_eq!(namespaces.gate(), gate, "{row}");
            assert_eq!(namespaces.gate_leaves_cgroups(), gate && is(Cgroup, "join"), "{row}");
            assert_eq!(namespaces.mount(), is(Mount, "new"), "{row}");
            count += 1;
        }
        assert!(count >= 40, "{count} rows");
    }

    #[test]
    fn where_the_mount_namespace_comes_from() {
        let own = Namespaces { early: libc::CLONE_NEWNS as u64, ..Namespaces::default() };
        let facts = |open_tree_namespace, privileged| Facts {
            open_tree_namespace,
            privileged,
            permitted: 0,
            kcore: false,
            cgroup_root: Default::default(),
            own_cgroup: String::new(),
        };
        let options = |tree, no_pivot| Options { tree, no_pivot, ..Options::default() };
        let long = |facts: &Facts, long_options| tree(&own, facts, &options(None, false), long_options).ok();
        for new in [false, true] {
            let best = if new { Tree::OpenTree } else { Tree::Antechamber };
            assert_eq!(long(&facts(new, true), false), Some(best));
            // What needs the host's paths inside, or rights that the caller has not.
            assert_eq!(long(&facts(new, true), true), Some(Tree::Clone));
            assert_eq!(long(&facts(new, false), false), Some(Tree::Clone));
            let asked = |asked, no_pivot| tree(&own, &facts(new, true), &options(asked, no_pivot), false).ok();
            assert_eq!(asked(None, true), Some(Tree::Clone));
            assert_eq!(asked(Some(Tree::Clone), false), Some(Tree::Clone));
            assert_eq!(asked(Some(Tree::Antechamber), false), Some(Tree::Antechamber));
            assert_eq!(asked(Some(Tree::Antechamber), true), None);
            assert_eq!(asked(Some(Tree::OpenTree), false), new.then_some(Tree::OpenTree));
            assert_eq!(
                tree(&Namespaces::default(), &facts(new, true), &Options::default(), false).ok(),
                Some(Tree::Host)
            );
        }
    }
}
