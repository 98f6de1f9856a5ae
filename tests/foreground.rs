//! `tare run` in the foreground and in the background: signals, exit codes, standard input and output, orphans.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};

use bed::{Bed, cgroup_of, trees};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// `tare run` with pipes for its stdio.
fn start(bed: &Bed, args: &[&str]) -> Child {
    let mut command = bed.command(&[&["run"], args, &[&bed.id()]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    // One line at a time: what a reader has buffered would be lost with it.
    let mut byte = [0];
    let out = child.stdout.as_mut().unwrap();
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0].into());
    }
    line
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The exit code, and that nothing is left.
fn end(bed: &Bed, child: Child) -> i32 {
    let out = child.wait_with_output().unwrap();
    assert!(!bed.dir.join("state").join(bed.id()).exists(), "the state is left: {out:?}");
    assert!(!cgroup_of(&bed.id()).exists(), "the cgroup is left: {out:?}");
    out.status.code().unwrap_or_else(|| panic!("{out:?}"))
}

#[test]
fn every_signal_is_passed_on() {
    let signals = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("TSTP", Signal::TSTP),
        ("TTIN", Signal::TTIN),
        ("WINCH", Signal::WINCH),
    ];
    let mut bed = Bed::new("signals-passed");
    let traps: String = signals.iter().map(|(name, _)| format!("trap 'echo {name}' {name}; ")).collect();
    // The loop is of builtins, so that the trap comes at once; and it has an end, should a signal not come.
    bed.shell(&format!("{traps}trap 'exit 42' PWR; echo ready; for i in $(busybox seq 30); do read -t 1 x; done"));
    for tree in trees() {
        let mut child = start(&bed, &[&format!("--mount-namespace={tree}")]);
        assert_eq!(line(&mut child), "ready");
        for (name, signal) in signals {
            send(&child, signal);
            assert_eq!(line(&mut child), name);
        }
        // Kept open: at the end of its input the loop might be faster than the signal.
        let _input = child.stdin.take();
        send(&child, Signal::POWER);
        assert_eq!(end(&bed, child), 42);
    }
}

#[test]
fn the_exit_code_is_the_containers() {
    let mut bed = Bed::new("exit-codes");
    // In the host's pid namespace: process 1 of another would not die of a signal of its own.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    for (script, code) in
        [("exit 0", 0), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("kill -USR1 $$", 138)]
    {
        bed.shell(script);
        assert_eq!(end(&bed, start(&bed, &[])), code, "{script}");
    }
    // A signal to the runtime that the container dies of.
    bed.shell("echo ready; exec sleep 1000");
    let mut child = start(&bed, &[]);
    assert_eq!(line(&mut child), "ready");
    send(&child, Signal::TERM);
    assert_eq!(end(&bed, child), 143);
}

#[test]
fn standard_input_and_output_are_the_callers() {
    let mut bed = Bed::new("stdio");
    bed.shell("cat; echo to stderr >&2");
    for tree in trees() {
        let mut child = start(&bed, &[&format!("--mount-namespace={tree}")]);
        let text = "line\n".repeat(100_000);
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn({
            let text = text.clone();
            move || input.write_all(text.as_bytes()).unwrap()
        });
        let mut out = String::new();
        child.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
        writer.join().unwrap();
        assert!(out == text, "{} bytes of {}", out.len(), text.len());
        let mut err = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(err, "to stderr\n");
        assert_eq!(end(&bed, child), 0);
    }
    // Closed ones are the container's /dev/null, and no descriptors of the runtime's or the host's.
    bed.through = ["sh", "-c", "exec \"$@\" <&- >&-", "sh"].map(str::to_owned).into();
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let pid = bed.detached(&[]);
    for fd in 0..2 {
        let at = format!("/proc/{pid}/fd/{fd}");
        assert_eq!(fs::read_link(&at).unwrap().to_str(), Some("/dev/null"));
        assert_ne!(fs::metadata(&at).unwrap().dev(), fs::metadata("/dev/null").unwrap().dev());
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/2")).unwrap(), bed.dir.join("err"));
}

#[test]
fn detached_it_lives_on() {
    let mut bed = Bed::new("detached");
    bed.shell("while :; do sleep 1; done");
    for flag in ["-d", "--detach"] {
        // The pipe's end is kept by the container, and not by the runtime, which is gone.
        let mut child = start(&bed, &[flag, "--pid-file", "pid"]);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(bed.status(), "running");
        let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
        assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sh\0-c\0"));
        bed.delete();
    }
}

#[test]
fn keep_leaves_it_until_delete() {
    let mut bed = Bed::new("keep");
    bed.shell("exit 3");
    let child = start(&bed, &["--keep"]);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert_eq!(bed.status(), "stopped");
    assert!(cgroup_of(&bed.id()).exists());
    let again = bed.tare(&["run", &bed.id()]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("container with given ID already exists"), "{again:?}");
    assert!(bed.tare(&["delete", &bed.id()]).status.success());
    assert!(!cgroup_of(&bed.id()).exists());
    // A program that was never there leaves nothing to keep.
    bed.config["process"]["args"] = json!(["/no/such"]);
    let child = start(&bed, &["--keep"]);
    assert_eq!(end(&bed, child), 1);
}

#[test]
fn orphans_come_to_the_runtime_unless_it_does_not_want_them() {
    let mut bed = Bed::new("orphans");
    // With a pid namespace they would come to its process 1.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    // The orphan tells who its parent is once the one that made it is gone; process 1 waits for that.
    let orphan = "while kill -0 $0 2>/dev/null; do sleep 0.02; done; cat /proc/$$/status; touch /dev/shm/told";
    bed.shell(&format!(
        "sh -c 'sh -c \"$0\" $$ &' '{orphan}'; until test -e /dev/shm/told; do sleep 0.02; done; exit 5"
    ));
    for subreaper in [true, false] {
        let flags: &[&str] = if subreaper { &[] } else { &["--no-subreaper"] };
        let mut child = start(&bed, flags);
        let parent = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .find_map(|l| l.unwrap().strip_prefix("PPid:\t").map(str::to_owned))
            .unwrap();
        assert_eq!(parent == child.id().to_string(), subreaper, "{parent}");
        // An orphan's end is not taken for the container's.
        assert_eq!(end(&bed, child), 5);
    }
}

#[test]
fn what_the_container_leaves_behind_ends_with_it() {
    let mut bed = Bed::new("left-behind");
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    bed.shell("sleep 1000 & echo $!; exit 0");
    let mut child = start(&bed, &[]);
    let pid = line(&mut child);
    assert_eq!(end(&bed, child), 0);
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}
