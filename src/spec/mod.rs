//! Reading and checking config.json. A parser takes text: opening files is the caller's job.
//!
//! The way in is [`parse`], then [`check`](check()): after both, what tare does not do is refused, what it ignores is in the
//! log, and no string of the configuration holds a NUL.

mod check;
mod default;
mod features;
mod path;
mod repair;
mod schema;
mod sysctl;
#[cfg(test)]
mod tests;
mod unsupported;

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Origin, Result};

/// The runtime-spec that is implemented.
pub const VERSION: &str = "1.3.0";

pub use check::check;
pub use default::{Rootless, default_config};
pub use features::features;
pub use sysctl::{sysctl_namespace, sysctl_path};

/// Reads the text of a config.json. What was repaired or ignored is told in `log`.
///
/// In the result an empty string is an absent one wherever Go's `omitempty` means that (`namespaces[].path`,
/// `cgroupsPath`, `hostname`, `mounts[].type` and so on), so that nobody has to ask twice.
pub fn parse(text: &str, log: &mut Vec<String>) -> Result<Spec> {
    schema::walk(text, log)?;
    let mut spec = match read(text) {
        Ok(spec) => spec,
        // Only what the type refuses goes the slow way, through a tree that can be repaired.
        Err(error) => repair::reread(text, error, log)?,
    };
    refuse_nul(text)?;
    repair::absent_pids_limit(&mut spec, text);
    empty_is_absent(&mut spec);
    Ok(spec)
}

/// Parses `text`; an error names the field that it is in.
fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| explain(&path::at(text, e.line(), e.column()), &e, true))
}

/// The parser's error in one line, with the field: `process.cwd: missing (line 7, column 3)`. The place is told where the
/// text is the caller's own (`placed`).
fn explain(path: &str, error: &serde_json::Error, placed: bool) -> Error {
    let mut path = path.to_owned();
    let mut message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    if let Some(end) = message.rfind(&place) {
        message.truncate(end);
    }
    // The parser names the object; the reader looks for the field.
    if let Some(field) = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
        path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        message = "missing".to_owned();
    }
    if error.is_eof() {
        message = format!("the file ends too early: {message}");
    }
    let place = match error.line() {
        line if placed && line > 0 => format!(" (line {line}, column {})", error.column()),
        _ => String::new(),
    };
    let field = if path.is_empty() { "config.json".to_owned() } else { one_line(&path) };
    Error::new(one_line(&message) + &place).at(Origin::field(field))
}

/// Refuses a NUL in any string. JSON can write one in a single way, so most texts are only searched for that.
fn refuse_nul(text: &str) -> Result<()> {
    fn find(value: &Value, path: &str) -> Option<String> {
        match value {
            Value::String(s) => s.contains('\0').then(|| path.to_owned()),
            Value::Array(list) => list.iter().enumerate().find_map(|(i, v)| find(v, &format!("{path}[{i}]"))),
            Value::Object(map) => map.iter().find_map(|(key, v)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if key.contains('\0') { Some(path) } else { find(v, &path) }
            }),
            _ => None,
        }
    }
    if !text.contains("\\u0000") {
        return Ok(());
    }
    if text.len() > repair::LARGEST {
        return Err(bad("config.json", "contains a NUL byte"));
    }
    match find(&read::<Value>(text)?, "") {
        Some(path) => Err(bad(one_line(&path), "contains a NUL byte")),
        None => Ok(()),
    }
}

/// Go's encoder leaves out empty strings, and its readers take an empty one for an absent one.
fn empty_is_absent(spec: &mut Spec) {
    fn text(field: &mut Option<String>) {
        field.take_if(|s| s.is_empty());
    }
    fn path(field: &mut Option<PathBuf>) {
        field.take_if(|p| p.as_os_str().is_empty());
    }
    text(spec.hostname_mut());
    text(spec.domainname_mut());
    for mount in spec.mounts_mut().iter_mut().flatten() {
        text(mount.typ_mut());
        path(mount.source_mut());
    }
    if let Some(process) = spec.process_mut() {
        if process.apparmor_profile().as_deref() == Some("") {
            process.set_apparmor_profile(None);
        }
        if process.selinux_label().as_deref() == Some("") {
            process.set_selinux_label(None);
        }
    }
    let Some(linux) = spec.linux_mut() else { return };
    path(linux.cgroups_path_mut());
    text(linux.rootfs_propagation_mut());
    text(linux.mount_label_mut());
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if namespace.path().as_ref().is_some_and(|p| p.as_os_str().is_empty()) {
            namespace.set_path(None);
        }
    }
    if let Some(seccomp) = linux.seccomp_mut() {
        if seccomp.listener_path().as_ref().is_some_and(|p| p.as_os_str().is_empty()) {
            seccomp.set_listener_path(None);
        }
        if seccomp.listener_metadata().as_deref() == Some("") {
            seccomp.set_listener_metadata(None);
        }
    }
    if let Some(cpu) = linux.resources_mut().as_mut().and_then(|r| r.cpu_mut().as_mut()) {
        if cpu.cpus().as_deref() == Some("") {
            cpu.set_cpus(None);
        }
        if cpu.mems().as_deref() == Some("") {
            cpu.set_mems(None);
        }
    }
}

/// What is wrong with a field of config.json.
fn bad(field: impl Into<std::borrow::Cow<'static, str>>, why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(why).field(field)
}

/// A text of config.json as part of a message.
fn one_line(text: &str) -> String {
    crate::error::one_line(text, 200)
}
