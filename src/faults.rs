//! Test only (feature `faults`, not in the shipped binary): the environment variable TARE_FAULT kills, fails, panics or
//! leaves out at a named point. `integration/kill-steps` and `integration/mutate` go through all of them.
//!
//! A list, separated by commas, of
//! - `ACTION:PROCESS:POINT` with ACTION `kill`, `error` or `panic`; PROCESS `parent` (of `create` and `run`), `starter`, `gate`
//!   or `child`; POINT a step's index, or `before-` and `after-` a message of the protocol, or another name;
//! - `skip:KIND` leaves out all steps of a kind (`mask`);
//! - `trace` tells each point that is reached, so that nobody needs a list of them.

use std::fmt::Display;

use crate::error::Result;
use crate::plan::Op;
#[cfg(feature = "faults")]
use crate::{error::Error, sys::process};

#[cfg(feature = "faults")]
fn asked() -> String {
    std::env::var("TARE_FAULT").unwrap_or_default()
}

/// Standard error of the runtime, if there is something to tell: the child has the container's terminal there at some point.
#[cfg(feature = "faults")]
fn stderr() -> Option<&'static std::os::fd::OwnedFd> {
    static STDERR: std::sync::OnceLock<Option<std::os::fd::OwnedFd>> = std::sync::OnceLock::new();
    let copy = || rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).ok();
    let told = || asked().split(',').any(|fault| !fault.is_empty() && !fault.starts_with("skip:"));
    STDERR.get_or_init(|| told().then(copy).flatten()).as_ref()
}

/// On standard error, in one piece.
#[cfg(feature = "faults")]
fn say(what: &str, process: &str, point: &impl Display) {
    if let Some(to) = stderr() {
        let _ = rustix::io::write(to, format!("fault: {what} {process}:{point}\n").as_bytes());
    }
}

/// Where the points are told, which stays open.
#[cfg(feature = "faults")]
pub fn descriptor() -> Option<std::os::fd::RawFd> {
    stderr().map(std::os::fd::AsRawFd::as_raw_fd)
}

/// Acts if the point is one of those asked for.
#[cfg(feature = "faults")]
pub fn at(process: &str, point: impl Display) -> Result<()> {
    let _ = stderr(); // while it is the runtime's
    let suffix = format!(":{process}:{point}");
    for fault in asked().split(',') {
        if fault == "trace" {
            say("at", process, &point);
        }
        match fault.strip_suffix(&suffix) {
            None => {}
            Some("kill") => {
                // Nobody inside can kill the first process of a pid namespace, not even itself: whoever started us must.
                let first = rustix::process::getpid().is_init();
                say(if first { "kill me at" } else { "killed at" }, process, &point);
                process::kill_self();
            }
            Some("error") => return Err(Error::new(format!("injected error at {process}:{point}"))),
            Some("panic") => panic!("injected panic at {process}:{point}"),
            Some(other) => return Err(Error::new(format!("TARE_FAULT: unknown action {other:?}"))),
        }
    }
    Ok(())
}

/// Whether steps of this kind are left out.
#[cfg(feature = "faults")]
pub fn skips(op: &Op) -> bool {
    let kind = serde_json::to_value(op).ok().and_then(|v| v["do"].as_str().map(str::to_owned));
    asked().split(',').any(|fault| fault.strip_prefix("skip:").is_some_and(|k| kind.as_deref() == Some(k)))
}

/// There is none.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn descriptor() -> Option<std::os::fd::RawFd> {
    None
}

/// Does nothing: the shipped binary has no faults.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn at(_: &str, _: impl Display) -> Result<()> {
    Ok(())
}

/// Never: the shipped binary leaves nothing out.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn skips(_: &Op) -> bool {
    false
}

/// One message, sent or received: the points before and after it.
pub fn message<T>(process: &str, name: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    at(process, format_args!("before-{name}"))?;
    let done = act()?;
    at(process, format_args!("after-{name}"))?;
    Ok(done)
}
