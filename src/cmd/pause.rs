//! `pause` and `resume`.

use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::state::{Action, State, Store};

/// `tare pause`: returns once every process is stopped.
pub fn pause(id: &str, store: &Store) -> Result<i32> {
    let container = store.open(id)?;
    let state = container.load()?;
    container.status(&state)?.allows(Action::Pause)?;
    cgroup(&state)?.freeze().map(|()| 0)
}

/// `tare resume`
pub fn resume(id: &str, store: &Store) -> Result<i32> {
    let container = store.open(id)?;
    let state = container.load()?;
    container.status(&state)?.allows(Action::Resume)?;
    cgroup(&state)?.thaw().map(|()| 0)
}

/// The container's cgroup.
///
/// # Errors
/// It has none (`--cgroup-manager=disabled`), or it is gone.
pub fn cgroup(state: &State) -> Result<Cgroup> {
    let Some(at) = &state.cgroup else {
        return Err(Error::new("the container has no cgroup")
            .hint("it was created with --cgroup-manager=disabled, or by who may make no cgroup"));
    };
    cgroup::open_existing(&at.path)?.ok_or_else(|| Error::new("container not running: its cgroup has been removed"))
}
