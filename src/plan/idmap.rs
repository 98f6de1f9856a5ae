//! Idmapped mounts: `uidMappings` and `gidMappings` of a mount, or crun's options `idmap` and `ridmap`.

use oci_spec::runtime::{Mount, Spec};

use super::Maps;
use crate::error::{Error, Result};

/// The mappings of a mount, and whether those below it get them, too. Without mappings of its own they are the container's.
///
/// # Errors
/// There are none, or only of users or groups; a range is none; they are not in crun's form:
/// `idmap=uids=0-1-10#10-11-10;gids=0-100-10`.
pub fn of(mount: &Mount, spec: &Spec) -> Result<Option<(Maps, bool)>> {
    let options = mount.options().as_deref().unwrap_or_default();
    let word = options.iter().find_map(|o| {
        let (name, value) = o.split_once('=').map_or((o.as_str(), None), |(name, value)| (name, Some(value)));
        matches!(name, "idmap" | "ridmap").then_some((name, value))
    });
    let list = |l: &Option<Vec<_>>| l.clone().unwrap_or_default();
    let own = Maps::of(&list(mount.uid_mappings()), &list(mount.gid_mappings()));
    let recursive = word.is_some_and(|(name, _)| name == "ridmap");
    // With a user namespace that is joined engines send the mappings as well.
    let linux = spec.linux().as_ref();
    let container = linux.map(|l| Maps::of(&list(l.uid_mappings()), &list(l.gid_mappings())));
    let container = container.filter(|maps| *maps != Maps::default());
    let maps = match word {
        Some((_, Some(text))) => read(text, container.as_ref())?,
        _ if !own.uids.is_empty() || !own.gids.is_empty() => own,
        Some((_, None)) => container.ok_or_else(|| {
            Error::new("there are no mappings: neither the mount nor the container has any")
                .hint("give the mount uidMappings and gidMappings, or idmap=uids=…;gids=…")
        })?,
        None => return Ok(None),
    };
    if maps.uids.is_empty() || maps.gids.is_empty() {
        return Err(Error::new("an idmapped mount needs mappings of users and of groups"));
    }
    let bad = |[inside, outside, count]: &&[u32; 3]| {
        *count == 0 || inside.checked_add(*count).is_none() || outside.checked_add(*count).is_none()
    };
    if let Some([inside, outside, count]) = maps.uids.iter().chain(&maps.gids).find(bad) {
        let range = format!("the mapping {inside} {outside} {count} is empty, or beyond the last id");
        return Err(Error::new(range));
    }
    Ok(Some((maps, recursive)))
}

/// crun's form. With `@` the ids on the host are counted in the container's user namespace.
fn read(text: &str, container: Option<&Maps>) -> Result<Maps> {
    let bad =
        || Error::new(format!("{text:?} is no mapping")).hint("the form is uids=FROM-TO-COUNT#…;gids=FROM-TO-COUNT#…");
    let mut maps = Maps::default();
    for part in text.split(';') {
        let (kind, ranges) = part.split_once('=').ok_or_else(bad)?;
        for range in ranges.split('#') {
            let (relative, range) = range.strip_prefix('@').map_or((false, range), |range| (true, range));
            let numbers: Vec<u32> =
                range.split('-').map(|n| n.parse().map_err(|_| bad())).collect::<Result<Vec<u32>>>()?;
            let [inside, mut outside, count] = numbers[..] else { return Err(bad()) };
            let (list, of_container) = match kind {
                "uids" => (&mut maps.uids, container.map(|c| &c.uids)),
                "gids" => (&mut maps.gids, container.map(|c| &c.gids)),
                _ => return Err(bad()),
            };
            if relative {
                let within = |m: &&[u32; 3]| outside >= m[0] && outside - m[0] < m[2];
                let map = of_container.and_then(|list| list.iter().find(within)).ok_or_else(bad)?;
                outside = map[1] + (outside - map[0]);
            }
            list.push([inside, outside, count]);
        }
    }
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crun_s_form() {
        let container = Maps { uids: vec![[0, 100_000, 1000]], gids: vec![[0, 200_000, 1000]] };
        let maps = read("uids=0-1-10#10-11-10;gids=0-@5-1", Some(&container));
        assert!(maps.is_err());
        let maps = read("uids=0-1-10#@10-11-10;gids=@0-100-10", Some(&container)).unwrap();
        assert_eq!(maps.uids, [[0, 1, 10], [10, 100_011, 10]]);
        assert_eq!(maps.gids, [[0, 200_100, 10]]);
        for text in ["", "uids", "uids=", "uids=1-2", "uids=1-2-x", "pids=1-2-3", "uids=1-2-3-4", "uids=@5000-5000-1"] {
            assert!(read(text, Some(&container)).is_err(), "{text:?}");
        }
    }
}
