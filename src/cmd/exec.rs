//! `exec`: the process is that of `--process`, or the container's own with what the flags change.

use std::path::Path;

use serde_json::{Value, json};

use super::create::socket_activation;
use crate::cli::Exec;
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::plan::Options;
use crate::run::exec::{Request, exec as execute};
use crate::run::{console, foreground};
use crate::spec;
use crate::state::{Action, Status, Store};
use crate::sys::Call;

/// Bytes of a process file; more is a mistake.
const LONGEST: u64 = 16 << 20;

/// `tare exec`. The exit status of everything that fails before the command runs is 255, as runc's.
pub fn exec(args: &Exec, store: &Store, log: &mut Log) -> Result<i32> {
    let signals = foreground::take_signals()?;
    let (id, command) = args.args.split_first().ok_or_else(|| Error::new("missing").field("ID"))?;
    let container = store.open(id)?;
    let state = container.load()?;
    match container.status(&state)? {
        Status::Paused if args.ignore_paused => {}
        status => status.allows(Action::Exec)?,
    }
    let saved = state.config.as_ref().ok_or_else(|| Error::new("the container's configuration is not in its state"))?;
    let mut config: Value = serde_json::from_str(saved.get()).map_err(|e| Error::new(e.to_string()))?;
    match &args.process {
        Some(path) => config["process"] = read(path)?,
        None => change(&mut config["process"], args, command)?,
    }
    let mut warnings = Vec::new();
    let spec = spec::parse(&config.to_string(), &mut warnings)?;
    spec::check(&spec, &mut warnings)?;
    log.warnings(warnings);

    let mut options = Options { id: id.clone(), bundle: state.bundle.clone(), run: true, ..Options::default() };
    options.preserve_fds = args.preserve_fds;
    socket_activation(&mut options);
    let terminal = spec.process().as_ref().is_some_and(|p| p.terminal() == Some(true));
    let request = Request {
        console: console::prepare(terminal, args.console_socket.as_deref(), args.detach)?,
        container,
        state: &state,
        options,
        spec: &spec,
        pid_file: args.pid_file.as_deref(),
        pidfd_socket: args.pidfd_socket.as_deref(),
        cgroup: cgroup(&args.cgroup)?,
        ignore_paused: args.ignore_paused,
        signals: &signals,
    };
    let (child, master) = execute(request, log)?;
    if args.detach {
        return Ok(0);
    }
    log.succeed();
    match &master {
        Some(master) => console::relay(master, &child, &signals),
        None => foreground::wait(&child, &signals),
    }
}

fn read(path: &Path) -> Result<Value> {
    use std::io::Read;
    let args = || format!("{path:?}");
    let field = |e: Error| e.field("--process");
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .call("read", args)
        .doing("read the process")
        .map_err(field)?;
    let process: Value = serde_json::from_str(&text).map_err(|e| field(Error::new(e.to_string())))?;
    if process.is_object() { Ok(process) } else { Err(field(Error::new("it is not an object"))) }
}

/// The container's own process, less its terminal, with what the flags say.
fn change(process: &mut Value, args: &Exec, command: &[String]) -> Result<()> {
    if command.is_empty() {
        return Err(Error::new("process args cannot be empty").field("COMMAND"));
    }
    process["args"] = json!(command);
    process["terminal"] = json!(args.tty);
    if let Some(cwd) = &args.cwd {
        process["cwd"] = json!(cwd);
    }
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = json!(label);
    }
    if let Some(no_new_privileges) = args.no_new_privs {
        process["noNewPrivileges"] = json!(no_new_privileges);
    }
    if let Some(user) = &args.user {
        let (uid, gid) = ids(user)?;
        process["user"]["uid"] = json!(uid);
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(gid);
        }
    }
    add(&mut process["env"], &args.env);
    add(&mut process["user"]["additionalGids"], &args.additional_gids);
    // A capability that cannot be inherited cannot be ambient either; and to fill the inheritable set is what let files
    // with capabilities give them to others (CVE-2022-29162).
    let ambient = process["capabilities"]["inheritable"].is_array();
    for set in ["bounding", "effective", "permitted"].into_iter().chain(ambient.then_some("ambient")) {
        add(&mut process["capabilities"][set], &args.cap);
    }
    Ok(())
}

/// Adds to a list, which may be missing.
fn add<T: serde::Serialize>(list: &mut Value, more: &[T]) {
    if more.is_empty() {
        return;
    }
    match list {
        Value::Array(list) => list.extend(more.iter().map(|item| json!(item))),
        other => *other = json!(more),
    }
}

/// `UID[:GID]`. Numbers only: a name would be looked up in the image (CVE-2026-30892).
fn ids(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let parsed = match text.split_once(':') {
        Some((uid, gid)) => number(uid).zip(number(gid)).map(|(uid, gid)| (uid, Some(gid))),
        None => number(text).map(|uid| (uid, None)),
    };
    parsed.ok_or_else(|| Error::new(format!("{text:?} is not UID[:GID]")).field("--user").hint("both are numbers"))
}

/// `[CONTROLLER:]PATH`: cgroup v2 has one path for all controllers.
fn cgroup(given: &[String]) -> Result<Option<&Path>> {
    match given {
        [] => Ok(None),
        [one] => {
            let path = one.split_once(':').map_or(one.as_str(), |(_, path)| path);
            Ok(Some(Path::new(path)))
        }
        _ => Err(Error::new("cgroup v2 has one path only").field("--cgroup")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        assert_eq!(ids("1").unwrap(), (1, None));
        assert_eq!(ids("1:2").unwrap(), (1, Some(2)));
        assert_eq!(ids("4294967294:0").unwrap(), (4_294_967_294, Some(0)));
        for text in ["", "1:", ":1", "name", "-1", "4294967296", "1:4294967296", "1:2:3", "+1", " 1", "1:x"] {
            assert!(ids(text).is_err(), "{text:?}");
        }
    }
}
