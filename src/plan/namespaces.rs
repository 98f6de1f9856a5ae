//! Which namespaces are made when, and how the mount namespace is made.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Serialize;

use super::{Facts, Options};
use crate::error::{Error, Result};

/// The `CLONE_NEW*` flags, by the moment at which each namespace is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Namespaces {
    /// In clone3(2).
    pub early: u64,
    /// Made in clone3(2) if the child is born in its cgroup, else by the child once it was moved there: the root of a
    /// cgroup namespace is the cgroup that its maker is in.
    pub cgroup: bool,
}

impl Namespaces {
    /// The namespaces of config.json.
    pub fn of(spec: &Spec, no_cgroup: bool) -> Self {
        let asked = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let mut namespaces = Namespaces::default();
        for namespace in asked.into_iter().flatten() {
            match namespace.typ() {
                LinuxNamespaceType::Cgroup => namespaces.cgroup = true,
                other => namespaces.early |= other as u64,
            }
        }
        if no_cgroup && namespaces.cgroup {
            namespaces.cgroup = false;
            namespaces.early |= libc::CLONE_NEWCGROUP as u64;
        }
        namespaces
    }

    /// Whether there is a mount namespace of its own.
    pub fn mount(&self) -> bool {
        self.early & libc::CLONE_NEWNS as u64 != 0
    }

    /// Whether there is a cgroup namespace of its own.
    pub fn has_cgroup(&self) -> bool {
        self.cgroup || self.early & libc::CLONE_NEWCGROUP as u64 != 0
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
        Some(tree) if tree != Tree::Clone && needs_host => {
            Err(Error::new("this container needs a copy of the host's mount namespace").field("--mount-namespace"))
        }
        Some(tree) => Ok(tree),
        None if needs_host => Ok(Tree::Clone),
        None if facts.open_tree_namespace => Ok(Tree::OpenTree),
        None => Ok(Tree::Antechamber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_mount_namespace_comes_from() {
        let own = Namespaces { early: libc::CLONE_NEWNS as u64, cgroup: false };
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
