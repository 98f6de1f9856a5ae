//! `state`, and the object that `list` prints, too.

use serde_json::{Map, Value, json};

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

/// runtime-spec's state, with what runc adds to it.
pub fn describe(state: &State, status: Status) -> Value {
    let config: Option<Value> = state.config.as_ref().and_then(|c| serde_json::from_str(c.get()).ok());
    let of = |key: &str| config.as_ref().and_then(|c| c.get(key)).filter(|v| !v.is_null()).cloned();
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| drop(map.insert(key.into(), value));
    put("ociVersion", of("ociVersion").unwrap_or_else(|| json!(crate::spec::VERSION)));
    put("id", json!(state.id));
    put("pid", json!(if status == Status::Stopped { 0 } else { state.pid }));
    put("status", json!(status.to_string()));
    put("bundle", json!(state.bundle));
    put("rootfs", json!(state.rootfs));
    put("created", json!(state.created));
    if let Some(annotations) = of("annotations") {
        put("annotations", annotations);
    }
    put("owner", json!(owner(state)));
    Value::Object(map)
}

/// The name of the user who created it; runc prints "" for root.
pub fn owner(state: &State) -> String {
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
