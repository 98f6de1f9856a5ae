//! `state`, and the object that `list` prints, too.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::state::{Container, State, Status, Store};

/// `tare state`
pub fn state(id: &str, store: &Store) -> Result<i32> {
    let container = store.open(id)?;
    let state = container.load()?;
    let status = container.status(&state)?;
    let text = serde_json::to_string_pretty(&describe(&state, status)).map_err(|e| Error::new(e.to_string()))?;
    super::print(&text)?;
    Ok(0)
}

/// runtime-spec's state, with what runc adds to it, in runc's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description<'s> {
    oci_version: Value,
    pub id: &'s str,
    pub pid: i32,
    pub status: String,
    pub bundle: &'s Path,
    rootfs: &'s Path,
    pub created: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Value>,
    pub owner: String,
}

pub fn describe(state: &State, status: Status) -> Description<'_> {
    let mut config: Option<Value> = state.config.as_ref().and_then(|c| serde_json::from_str(c.get()).ok());
    let mut take = |key: &str| config.as_mut().and_then(|c| c.get_mut(key)).map(Value::take).filter(|v| !v.is_null());
    Description {
        oci_version: take("ociVersion").unwrap_or_else(|| crate::spec::VERSION.into()),
        id: &state.id,
        pid: if status == Status::Stopped { 0 } else { state.pid },
        status: status.to_string(),
        bundle: &state.bundle,
        rootfs: &state.rootfs,
        created: &state.created,
        annotations: take("annotations"),
        owner: owner(state),
    }
}

/// The name of the user who created it; runc's `state` has "" for root, its `list` has "root".
fn owner(state: &State) -> String {
    if state.owner == 0 {
        return String::new();
    }
    nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(state.owner))
        .ok()
        .flatten()
        .map_or_else(|| format!("#{}", state.owner), |u| u.name)
}

/// The state of a container whose directory may be half made.
pub fn look(container: &Container) -> Result<Option<(State, Status)>> {
    match container.read()? {
        Some(state) => container.status(&state).map(|status| Some((state, status))),
        None => Ok(None),
    }
}
