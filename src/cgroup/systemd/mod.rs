//! The systemd cgroup driver (`--systemd-cgroup`): the container's cgroup is a transient scope, made and removed by systemd
//! at our word over D-Bus, so that the host's manager of cgroups knows of it.
//!
//! ```text
//! mod.rs         slice:prefix:name → the unit and its place (pure)
//! properties.rs  limits, device rules and annotations → properties of the unit (pure)
//! variant.rs     the text form of a property's value in annotations (pure)
//! bus.rs         the conversation with systemd
//! ```
//! Limits are properties *and* are written to the files: systemd writes the files of a unit again at daemon-reload, from
//! its properties; and it has no property for many of them.

pub mod bus;
pub mod properties;
mod variant;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::at;
use crate::error::{Error, Result};

/// Whom we ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// The system's.
    System,
    /// That of the user with this id.
    User(u32),
}

/// The container's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `docker-ID.scope`, or a slice.
    pub name: String,
    /// The slice that it is in.
    pub slice: String,
    /// Who has it.
    pub manager: Manager,
}

impl Unit {
    /// The unit for `cgroupsPath`, which has the form `slice:prefix:name`; all of it may be missing. As in runc, the slice
    /// is then `system.slice` (`user.slice` for a user's manager), and a name that ends in `.slice` is a slice itself.
    ///
    /// # Errors
    /// It has another form, or names no unit.
    pub fn parse(cgroups_path: Option<&Path>, id: &str, manager: Manager) -> Result<Unit> {
        let asked = cgroups_path.unwrap_or(Path::new(""));
        let text = asked.to_str().unwrap_or_default();
        let bad = |why: String| at(asked)(Error::new(why)).hint("the form is slice:prefix:name");
        let (slice, prefix, name) = match text.split(':').collect::<Vec<_>>()[..] {
            [""] => ("", "tare", id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                let why = format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?}"
                );
                return Err(bad(why));
            }
        };
        if name.is_empty() {
            return Err(bad("the name of the unit is empty".into()));
        }
        let slice = match (slice, manager) {
            ("", Manager::System) => "system.slice",
            ("", Manager::User(_)) => "user.slice",
            (slice, _) => slice,
        };
        if slice_path(slice).is_none() {
            return Err(bad(format!("invalid slice name: {slice}")));
        }
        let name = match prefix {
            _ if name.ends_with(".slice") => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        // systemd.unit(5): letters, digits and : - _ . \ @, 255 characters.
        let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.len() > 255 || !name.chars().all(good) || name.ends_with(".slice") && slice_path(&name).is_none() {
            return Err(bad(format!("invalid unit name: {name}")));
        }
        Ok(Unit { name, slice: slice.to_owned(), manager })
    }

    /// Whether it is a slice, which holds no process of its own when it is started.
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Its cgroup below that of its manager, without a leading slash.
    pub fn path(&self) -> PathBuf {
        if self.is_slice() {
            return slice_path(&self.name).unwrap_or_default();
        }
        slice_path(&self.slice).unwrap_or_default().join(&self.name)
    }
}

/// `a-b-c.slice` is in `a-b.slice`, which is in `a.slice` (systemd.slice(5)); `-.slice` is the root.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    if stem == "-" {
        return Some(path);
    }
    if stem.split('-').any(str::is_empty) || stem.contains('/') {
        return None;
    }
    let ends = stem.match_indices('-').map(|(i, _)| i).chain([stem.len()]);
    for end in ends {
        path.push(format!("{}.slice", &stem[..end]));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::CGROUPS_PATH;

    #[test]
    fn units() {
        for (asked, manager, name, path) in [
            (Some("system.slice:docker:x"), Manager::System, "docker-x.scope", "system.slice/docker-x.scope"),
            (
                Some("kubepods-burstable-podU.slice:cri-containerd:x"),
                Manager::System,
                "cri-containerd-x.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/cri-containerd-x.scope",
            ),
            (Some("machine.slice:libpod:x"), Manager::System, "libpod-x.scope", "machine.slice/libpod-x.scope"),
            (Some(":runc:x"), Manager::System, "runc-x.scope", "system.slice/runc-x.scope"),
            (Some(":runc:x"), Manager::User(1000), "runc-x.scope", "user.slice/runc-x.scope"),
            (Some("::x"), Manager::System, "x.scope", "system.slice/x.scope"),
            (Some("a.slice::b.slice"), Manager::System, "b.slice", "b.slice"),
            (Some("-.slice:p:x"), Manager::System, "p-x.scope", "p-x.scope"),
            (Some(""), Manager::System, "tare-id.scope", "system.slice/tare-id.scope"),
            (None, Manager::System, "tare-id.scope", "system.slice/tare-id.scope"),
        ] {
            let unit = Unit::parse(asked.map(Path::new), "id", manager).unwrap();
            assert_eq!((unit.name.as_str(), unit.path().as_path()), (name, Path::new(path)), "{asked:?}");
        }
    }

    #[test]
    fn no_units() {
        for asked in [
            "/docker/x",
            "a:b",
            "a:b:c:d",
            "x:docker:y",
            "a--b.slice:p:x",
            "-a.slice:p:x",
            "a.slice:p:",
            "a.slice:p:x/y",
            "a/b.slice:p:x",
        ] {
            let error = Unit::parse(Some(Path::new(asked)), "id", Manager::System).unwrap_err();
            assert_eq!(error.origin.as_ref().unwrap().field, CGROUPS_PATH, "{asked}");
            assert!(error.hint.is_some());
        }
    }
}
