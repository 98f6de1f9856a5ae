//! The state of a container: derived, never stored (but for `creating`).

use std::fmt;

use crate::error::{Error, Result};

/// The states of runtime-spec's runtime.md, and `paused`, which all engines know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work, or was killed.
    Creating,
    /// The init process waits for `start`.
    Created,
    /// The container's process has been executed.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// The init process is gone, or a zombie.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `start`
    Start,
    /// `kill`
    Kill,
    /// `delete` without `--force`
    Delete,
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `ps`
    Ps,
    /// `events`
    Events,
    /// `update`
    Update,
    /// `exec`
    Exec,
}

/// What `exec` says of a paused container.
pub const PAUSED: &str = "cannot exec in a paused container (use --ignore-paused to override)";

impl Status {
    /// Whether the action makes sense now; else an error in runc's words, which engines match on.
    pub fn allows(self, action: Action) -> Result<()> {
        use Status::{Created, Creating, Paused, Running, Stopped};
        let no = |words: String| Err(Error::new(words));
        match (action, self) {
            (Action::Start, Created) => Ok(()),
            (Action::Start, Stopped) => no("cannot start a container that has stopped".into()),
            (Action::Start, Running) => no("cannot start an already running container".into()),
            (Action::Start, Creating | Paused) => no(format!("cannot start a container in the {self} state")),
            (Action::Kill, Stopped) => no("container not running".into()),
            (Action::Kill, Creating) => no("container not running: it is still being created".into()),
            (Action::Kill, Created | Running | Paused) => Ok(()),
            (Action::Delete, Created | Stopped) => Ok(()),
            (Action::Delete, Creating | Running | Paused) => {
                no(format!("cannot delete container that is not stopped: {self}"))
            }
            (Action::Exec, Created | Running) => Ok(()),
            (Action::Exec, Paused) => no(PAUSED.into()),
            (Action::Exec, Stopped) => no("cannot exec in a stopped container".into()),
            (Action::Exec, Creating) => no("container not running: it is still being created".into()),
            (Action::Pause, Created | Running) | (Action::Resume, Paused) => Ok(()),
            (Action::Pause, _) => no(format!("container not running or created: {self}")),
            (Action::Resume, _) => no(format!("container not paused: {self}")),
            (Action::Ps | Action::Events | Action::Update, Created | Running | Paused) => Ok(()),
            (Action::Ps | Action::Events | Action::Update, Creating | Stopped) => {
                no(format!("container not running: {self}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair() {
        use Status::*;
        let table = [
            (Creating, [false; 9]),
            (Created, [true, true, true, true, false, true, true, true, true]),
            (Running, [false, true, false, true, false, true, true, true, true]),
            (Paused, [false, true, false, false, true, true, true, true, false]),
            (Stopped, [false, false, true, false, false, false, false, false, false]),
        ];
        use Action::{Delete, Events, Exec, Kill, Pause, Ps, Resume, Start, Update};
        for (status, allowed) in table {
            for (action, allowed) in
                [Start, Kill, Delete, Pause, Resume, Ps, Events, Update, Exec].into_iter().zip(allowed)
            {
                assert_eq!(status.allows(action).is_ok(), allowed, "{status} {action:?}");
            }
        }
        assert!(Stopped.allows(Kill).unwrap_err().to_string().contains("container not running"));
    }
}
