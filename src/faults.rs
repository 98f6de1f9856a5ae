//! Test only (feature `faults`, not in the shipped binary): the environment variable TARE_FAULT kills, fails, panics or
//! leaves out at a named point. `integration/kill-steps` and `integration/mutate` go through all of them.
//!
//! `TARE_FAULT=ACTION:PROCESS:POINT` with ACTION `kill`, `error` or `panic`, PROCESS `parent` or `child`, POINT a step's
//! index or the name of a message; `TARE_FAULT=skip:KIND` leaves out all steps of a kind (`mask`).

#[cfg(feature = "faults")]
use crate::error::Error;
use crate::error::Result;
use crate::plan::Op;

/// Acts if the point is the one asked for.
#[cfg(feature = "faults")]
pub fn at(process: &str, point: &str) -> Result<()> {
    let Ok(fault) = std::env::var("TARE_FAULT") else { return Ok(()) };
    let Some(action) = fault.strip_suffix(&format!(":{process}:{point}")) else { return Ok(()) };
    match action {
        "kill" => crate::sys::process::exit_now(137),
        "error" => Err(Error::new(format!("injected error at {process}:{point}"))),
        "panic" => panic!("injected panic at {process}:{point}"),
        other => Err(Error::new(format!("TARE_FAULT: unknown action {other:?}"))),
    }
}

/// Whether steps of this kind are left out.
#[cfg(feature = "faults")]
pub fn skips(op: &Op) -> bool {
    let Ok(fault) = std::env::var("TARE_FAULT") else { return false };
    let kind = serde_json::to_value(op).ok().and_then(|v| v["do"].as_str().map(str::to_owned));
    fault.strip_prefix("skip:").is_some_and(|k| kind.as_deref() == Some(k))
}

/// Does nothing: the shipped binary has no faults.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn at(_: &str, _: &str) -> Result<()> {
    Ok(())
}

/// Never: the shipped binary leaves nothing out.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn skips(_: &Op) -> bool {
    false
}
