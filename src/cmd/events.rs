//! `events`: what the container uses, and when it runs out of memory.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::pause::cgroup;
use crate::cgroup::{Cgroup, Stats};
use crate::cli::Events;
use crate::error::{Doing, Error, Result};
use crate::state::{Action, Store};
use crate::sys::socket;

/// `tare events`: one line of JSON an event, until the container has ended; with `--stats` one line.
pub fn events(args: &Events, store: &Store) -> Result<i32> {
    let interval = interval(&args.interval)?;
    let container = store.open(&args.id)?;
    let state = container.load()?;
    container.status(&state)?.allows(Action::Events)?;
    let cgroup = cgroup(&state)?;
    if args.stats {
        return stats(&args.id, &cgroup).map(|()| 0);
    }
    let Some(init) = container.init(&state)? else { return Err(Error::new("container not running")) };
    let memory = cgroup.watch_memory()?;
    let mut kills = cgroup.oom_kills();
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let ended = match &memory {
            Some(memory) => memory.wait(init.as_fd(), left),
            None => socket::wait_for([init.as_fd()], left).map(|[ended]| ended),
        };
        let ended = ended.doing("wait for the container's events")?;
        // Also at the end: the process that was killed may have been the container's first.
        let now = cgroup.oom_kills();
        for _ in kills..now {
            print(&args.id, "oom", None)?;
        }
        kills = kills.max(now);
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            stats(&args.id, &cgroup)?;
            next += interval;
        }
    }
}

fn stats(id: &str, cgroup: &Cgroup) -> Result<()> {
    print(id, "stats", Some(cgroup.stats()?))
}

/// One event, in runc's order.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

fn print(id: &str, kind: &str, data: Option<Stats>) -> Result<()> {
    let event = serde_json::to_string(&Event { kind, id, data });
    super::print(&event.map_err(|e| Error::new(format!("print the event: {e}")))?)
}

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`.
fn interval(text: &str) -> Result<Duration> {
    let bad = || {
        Error::new(format!("invalid duration {text:?}"))
            .field("--interval")
            .hint("a number with a unit, such as 5s, 1m30s or 500ms")
    };
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        sum += number.parse::<f64>().map_err(|_| bad())? * seconds;
        rest = tail;
    }
    match Duration::try_from_secs_f64(sum) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Error::new("duration interval must be greater than 0").field("--interval")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("5s", 5000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(interval(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "5 s", "5x", "1e3s"] {
            assert!(interval(text).is_err(), "{text:?}");
        }
    }
}
