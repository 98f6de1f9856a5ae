//! `delete`.

use crate::cli::Delete;
use crate::error::{Error, Result};
use crate::log::Log;
use crate::run::cleanup;
use crate::state::{Action, Store, check_id};

/// `tare delete`. With `--force` whatever there is of the container goes, and it is no error if there is nothing.
pub fn delete(args: &Delete, store: &Store, log: &mut Log) -> Result<i32> {
    check_id(&args.id)?;
    let opened = store.open(&args.id).and_then(|container| {
        let lock = if args.force { cleanup::lock_by_force(&container)? } else { container.lock()? };
        Ok((container, lock))
    });
    let (container, _lock) = match opened {
        Err(e) if args.force && e.doing.contains("does not exist") => return Ok(0),
        r => r?,
    };
    if !args.force {
        let state = container.load()?;
        container.status(&state)?.allows(Action::Delete)?;
        return cleanup::delete(&container, Some(&state), log).map(|()| 0);
    }
    if container.is_foreign()? {
        let error = Error::new(format!("{:?} holds files that are not tare's", container.path));
        return Err(error.hint("it belongs to another runtime: delete it with that one"));
    }
    // A state that cannot be read names no cgroup and no process.
    match container.read() {
        Ok(state) => cleanup::delete(&container, state.as_ref(), log)?,
        Err(_) => container.remove()?,
    }
    Ok(0)
}
