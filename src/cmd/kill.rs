//! `kill`.

use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::cli::Kill;
use crate::error::{Doing, Error, Result};
use crate::plan::{By, Namespaces};
use crate::spec;
use crate::state::{Action, State, Status, Store};
use crate::sys::clone;

/// `tare kill`. With `--all` it is no error if init is dead already: engines send that to what is left of a container
/// that shares its pid namespace. There a SIGKILL goes to all, too, as with runc: the end of init is not that of the others.
pub fn kill(args: &Kill, store: &Store) -> Result<i32> {
    let id = args.args.first().map(String::as_str).unwrap_or_default();
    let signal = number(args.args.get(1).map_or("SIGTERM", String::as_str))?;
    let container = store.open(id)?;
    let state = container.load()?;
    if args.all || (signal == libc::SIGKILL && !state.creating && shares_pids(&state)?) {
        let cgroup = match &state.cgroup {
            Some(at) => cgroup::open_existing(&at.path)?,
            None if args.all => {
                return Err(Error::new("the container has no cgroup, so its processes are not known").field("--all"));
            }
            None => None,
        };
        match &cgroup {
            Some(cgroup) if signal == libc::SIGKILL => cgroup.kill_all()?,
            Some(cgroup) => cgroup.signal_all(|pidfd| clone::pidfd_send_signal(pidfd, signal))?,
            None => {}
        }
        if args.all || cgroup.is_some() {
            return Ok(0);
        }
    }
    let status = container.status(&state)?;
    status.allows(Action::Kill)?;
    let gone = || Status::Stopped.allows(Action::Kill).err().unwrap_or_else(|| Error::new("container not running"));
    let Some(init) = container.init(&state)? else { return Err(gone()) };
    match clone::pidfd_send_signal(&init, signal) {
        Err(e) if e.errno == Errno::ESRCH => Err(gone()),
        r => r.doing("send the signal"),
    }?;
    Ok(0)
}

/// Whether it has no pid namespace of its own: the host's, or one that it joined.
fn shares_pids(state: &State) -> Result<bool> {
    let Some(config) = &state.config else { return Ok(false) };
    let spec = spec::parse(config.get(), &mut Vec::new())?;
    Ok(Namespaces::of(&spec, false).by(libc::CLONE_NEWPID as u64) != Some(By::Clone))
}

/// A number, or a name with or without SIG, in any case.
fn number(word: &str) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {word:?}")).field("SIGNAL");
    if let Ok(n) = word.parse::<i32>() {
        return if (0..=64).contains(&n) { Ok(n) } else { Err(unknown()) };
    }
    let name = word.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |base: &str, sign: i32, from: i32| {
        let rest = name.strip_prefix(base)?;
        let n = if rest.is_empty() { 0 } else { rest.strip_prefix(if sign > 0 { '+' } else { '-' })?.parse().ok()? };
        Some(from + sign * n).filter(|n| (34..=64).contains(n))
    };
    match name {
        "POLL" => return Ok(libc::SIGIO),
        "CLD" => return Ok(libc::SIGCHLD),
        "IOT" => return Ok(libc::SIGABRT),
        _ => {}
    }
    // signal(7): the C library keeps two real-time signals for itself, so SIGRTMIN is 34.
    let named = Signal::from_str(&format!("SIG{name}")).ok().map(|s| s as i32);
    named.or_else(|| real_time("RTMIN", 1, 34)).or_else(|| real_time("RTMAX", -1, 64)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signals() {
        let good = [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("0", 0),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
            ("IO", 29),
            ("poll", 29),
            ("CLD", 17),
        ];
        for (word, n) in good {
            assert_eq!(number(word).unwrap(), n, "{word}");
        }
        for word in ["", "SIG", "65", "-1", "KILL9", "RTMIN+31", "RTMAX+1", "9x"] {
            assert!(number(word).is_err(), "{word}");
        }
    }
}
