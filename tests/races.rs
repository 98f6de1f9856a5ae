//! Two commands on one container at once: one winner, one clear error, and nothing left. The second one is started by what
//! the first has done so far (its directory, its state, its cgroup, …), a little later each time, never after a sleep.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bed::running::{Done, forced, nothing_left, spawn, wait_for};
use bed::{Bed, cgroup_of};
use serde_json::{Value, json};

/// What a `create` says that somebody else has put an end to.
const CLEAR: [&str; 2] = [
    "the container was deleted while it was created",
    "the container's process was killed while the container was created",
];

fn bed(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    fs::write(bed.dir.join("config.json"), bed.config.to_string()).unwrap();
    bed
}

/// The one that failed.
fn loser<'a>(a: &'a Done, b: &'a Done, round: &str) -> &'a Done {
    assert!(a.ok() != b.ok(), "{round}: not one winner: {} and {}", a.err, b.err);
    if a.ok() { b } else { a }
}

#[test]
fn create_against_create_and_run_against_run() {
    let bed = bed("race-create");
    let id = bed.id();
    for round in 0..20 {
        let [a, b] = ["a", "b"].map(|name| spawn(&bed, name, &["create", &id]));
        let (a, b) = (a.end(), b.end());
        let round = format!("create, round {round}");
        let lost = &loser(&a, &b, &round).err;
        assert!(lost.contains("container with given ID already exists"), "{round}: {lost}");
        assert_eq!(bed.status(), "created");
        forced(&bed, &round);
    }
    for round in 0..10 {
        let [mut a, mut b] = ["a", "b"].map(|name| spawn(&bed, name, &["run", &id]));
        while !a.is_over() && !b.is_over() {
            std::thread::yield_now();
        }
        let (lost, won) = if a.is_over() { (a, b) } else { (b, a) };
        let lost = lost.end();
        let round = format!("run, round {round}");
        assert_eq!(lost.code, Some(1));
        assert!(lost.err.contains("container with given ID already exists"), "{round}: {}", lost.err);
        while bed.status() != "running" {}
        assert!(bed.tare(&["kill", &id, "KILL"]).status.success());
        assert_eq!(won.end().code, Some(137), "{round}");
        nothing_left(&bed, &round);
    }
}

#[test]
fn forced_delete_during_create() {
    let bed = bed("race-delete-create");
    let id = bed.id();
    let dir = bed.dir.join("state").join(&id);
    let cgroup = cgroup_of(&id);
    let events: [&dyn Fn() -> bool; 6] = [
        &|| dir.exists(),
        &|| dir.join("tare.json").exists(),
        &|| cgroup.exists(),
        &|| dir.join("start").exists(),
        &|| fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty()),
        &|| fs::read_to_string(dir.join("tare.json")).is_ok_and(|state| !state.contains("\"creating\"")),
    ];
    let mut deleted = 0;
    for round in 0..120 {
        let (event, turns) = (round % events.len(), round / events.len());
        let mut create = spawn(&bed, "create", &["create", &id]);
        wait_for(&mut create, events[event], turns * 4);
        let delete = spawn(&bed, "delete", &["delete", "--force", &id]).end();
        let create = create.end();
        let round = format!("round {round} (after event {event})");
        // The directory was there, so there was something to delete.
        assert!(delete.ok(), "{round}: {}", delete.err);
        if !create.ok() {
            assert!(CLEAR.iter().any(|words| create.err.contains(words)), "{round}: {}", create.err);
            deleted += 1;
        }
        nothing_left(&bed, &round);
    }
    assert!(deleted > 10, "the delete came too late in all but {deleted} rounds");
}

#[test]
fn commands_that_make_no_sense_during_create() {
    let bed = bed("race-early");
    let id = bed.id();
    let state = bed.dir.join("state").join(&id).join("tare.json");
    let mut early = 0;
    for round in 0..30 {
        for (command, args, words) in [
            ("kill", vec!["kill", &id, "KILL"], "container not running"),
            ("start", vec!["start", &id], "cannot start a container in the creating state"),
            ("delete", vec!["delete", &id], "cannot delete container that is not stopped: creating"),
        ] {
            let mut create = spawn(&bed, "create", &["create", &id]);
            wait_for(&mut create, &|| state.exists(), round);
            let other = spawn(&bed, command, &args).end();
            let round = format!("{command}, round {round}");
            let create = create.end();
            if other.ok() {
                // It was created already: then what was asked for is done.
                assert!(create.ok() || CLEAR.iter().any(|words| create.err.contains(words)), "{round}: {}", create.err);
            } else {
                assert!(create.ok(), "{round}: {}", create.err);
                assert!(other.err.contains(words), "{round}: {}", other.err);
                early += 1;
            }
            forced(&bed, &round);
        }
    }
    assert!(early > 10, "only {early} came early enough");
}

/// Starts a created container and something else at once.
fn with_start(name: &str, rounds: usize, other: &[&str], check: impl Fn(&Bed, &Done, &Done, &str)) {
    let bed = bed(name);
    let id = bed.id();
    let args: Vec<_> =
        other.iter().copied().chain([id.as_str()]).chain((other == ["kill"]).then_some("KILL")).collect();
    for round in 0..rounds {
        let created = bed.tare(&["create", &id]);
        assert!(created.status.success(), "{created:?}");
        // Who is first changes from round to round.
        let (start, other) = if round % 2 == 0 {
            let mut start = spawn(&bed, "one", &["start", &id]);
            wait_for(&mut start, &|| true, round);
            (start, spawn(&bed, "two", &args))
        } else {
            let mut other = spawn(&bed, "two", &args);
            wait_for(&mut other, &|| true, round);
            (spawn(&bed, "one", &["start", &id]), other)
        };
        let (start, other) = (start.end(), other.end());
        let round = format!("round {round}");
        check(&bed, &start, &other, &round);
        forced(&bed, &round);
    }
}

#[test]
fn start_against_start() {
    with_start("race-start", 40, &["start"], |bed, a, b, round| {
        let lost = &loser(a, b, round).err;
        assert!(lost.contains("cannot start an already running container"), "{round}: {lost}");
        assert_eq!(bed.status(), "running", "{round}");
    });
}

#[test]
fn kill_during_start() {
    with_start("race-kill", 40, &["kill"], |bed, start, kill, round| {
        assert!(kill.ok(), "{round}: {}", kill.err);
        let words = "cannot start a container that has stopped";
        assert!(start.ok() || start.err.contains(words), "{round}: {}", start.err);
        assert_eq!(stopped(bed), "stopped", "{round}");
        assert!(bed.tare(&["delete", &bed.id()]).status.success(), "{round}");
    });
}

/// The state, once the process that was killed has ended.
fn stopped(bed: &Bed) -> String {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let status = bed.status();
        if status == "stopped" || Instant::now() > limit {
            return status;
        }
    }
}

#[test]
fn delete_during_start() {
    with_start("race-delete", 60, &["delete"], |bed, start, delete, round| {
        let lost = &loser(start, delete, round).err;
        if start.ok() {
            assert!(lost.contains("cannot delete container that is not stopped: running"), "{round}: {lost}");
            assert_eq!(bed.status(), "running", "{round}");
        } else {
            let clear = lost.contains("does not exist") || lost.contains("that has stopped");
            assert!(clear, "{round}: {lost}");
            nothing_left(bed, round);
        }
    });
}

#[test]
fn forced_delete_during_start() {
    with_start("race-force", 60, &["delete", "--force"], |bed, start, delete, round| {
        assert!(delete.ok(), "{round}: {}", delete.err);
        let clear = start.err.contains("does not exist") || start.err.contains("that has stopped");
        assert!(start.ok() || clear, "{round}: {}", start.err);
        nothing_left(bed, round);
    });
}

/// One look at the state: which of the states it was, after a check that it is whole.
fn look(bed: &Bed, name: &str) -> &'static str {
    let done = spawn(bed, name, &["state", &bed.id()]).end();
    if !done.ok() {
        assert!(done.out.is_empty() && done.err.contains("container does not exist"), "{}{}", done.out, done.err);
        return "none";
    }
    assert_eq!(done.err, "");
    let state: Value = serde_json::from_str(&done.out).expect("half a state");
    assert_eq!((&state["id"], &state["bundle"]), (&json!(bed.id()), &json!(bed.dir)));
    assert!(state["created"].is_string() && state["rootfs"].is_string() && state["ociVersion"].is_string());
    let (status, has_pid) = [("creating", false), ("created", true), ("running", true), ("stopped", false)]
        .into_iter()
        .find(|(status, _)| state["status"] == *status)
        .expect("an unknown status");
    assert_eq!(state["pid"].as_i64().unwrap() > 0, has_pid, "{}", done.out);
    status
}

#[test]
fn state_never_shows_half_a_state() {
    let bed = bed("race-state");
    let id = bed.id();
    // With a start the life is whole; without one nobody may ever have seen it running.
    for (commands, order) in [
        (
            vec![vec!["create"], vec!["start"], vec!["kill"], vec!["delete", "--force"]],
            ["none", "creating", "created", "running", "stopped", "none"],
        ),
        (vec![vec!["create"], vec!["delete"]], ["none", "creating", "created", "", "stopped", "none"]),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..25 {
            let over = AtomicBool::new(false);
            let looks = std::thread::scope(|scope| {
                let poller = |name: &'static str| {
                    let (bed, over) = (&bed, &over);
                    scope.spawn(move || {
                        let mut looks = vec!["none"];
                        while !over.load(Ordering::Relaxed) {
                            looks.push(look(bed, name));
                        }
                        looks.push(look(bed, name));
                        looks
                    })
                };
                let pollers = ["p", "q"].map(poller);
                for command in &commands {
                    let args: Vec<_> = command
                        .iter()
                        .copied()
                        .chain([id.as_str()])
                        .chain((command[0] == "kill").then_some("KILL"))
                        .collect();
                    let done = spawn(&bed, "command", &args).end();
                    // Whoever panics leaves the pollers alone with the word that it is over.
                    if !done.ok() {
                        over.store(true, Ordering::Relaxed);
                        panic!("{args:?}: {}", done.err);
                    }
                }
                over.store(true, Ordering::Relaxed);
                pollers.map(|p| p.join().unwrap())
            });
            for looks in looks {
                let mut at = 0;
                for look in &looks {
                    let next = order.iter().skip(at).position(|state| state == look);
                    at += next.unwrap_or_else(|| panic!("{look} after {}: {looks:?}", order[at]));
                    seen.insert(*look);
                }
            }
            nothing_left(&bed, "state");
        }
        assert!(seen.contains("created"), "nothing was seen of it: {seen:?}");
    }
}

#[test]
fn forced_delete_of_a_start_that_waits_for_ever() {
    let bed = bed("race-stuck");
    let id = bed.id();
    assert!(bed.tare(&["create", "--pid-file", "pid", &id]).status.success());
    let pid: i32 = fs::read_to_string(bed.dir.join("pid")).unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut start = spawn(&bed, "start", &["start", &id]);
    // It has the lock while it waits for the answer.
    let dir = fs::File::open(bed.dir.join("state").join(&id)).unwrap();
    let locked = || {
        use rustix::fs::FlockOperation::{NonBlockingLockExclusive, Unlock};
        let free = rustix::fs::flock(&dir, NonBlockingLockExclusive).is_ok();
        rustix::fs::flock(&dir, Unlock).unwrap();
        !free
    };
    wait_for(&mut start, &locked, 100);
    assert!(!start.is_over());
    assert_eq!(bed.status(), "created");
    forced(&bed, "stuck");
    let start = start.end();
    assert!(start.err.contains("cannot start a container that has stopped"), "{}", start.err);
}
