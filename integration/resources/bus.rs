//! A bus that is absent, refuses, or does not answer; and a runtime that is killed in the middle of the conversation.
//!
//! Between tare and the bus is a go-between of ours, which passes everything on until it hears a word.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bed::Bed;
use crate::machine::{good, quiet, refused, sh, show, wait_until};

const UNIT: &str = "b-x.scope";
const BUS: &str = "/run/dbus/system_bus_socket";

/// A bundle whose container is in the unit.
fn bed(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["linux"]["cgroupsPath"] = json!(":b:x");
    bed.shell("exec sleep 1000");
    bed
}

fn by(bed: &Bed, address: &str) -> Command {
    let mut command = bed.command(&["--systemd-cgroup", "create", &bed.id()]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
    command
}

/// The words of the failure, after which nothing is left, and how long it took.
fn fails(bed: &Bed, mut command: Command) -> (String, Duration) {
    let start = Instant::now();
    let out: Output = quiet(&mut command);
    let time = start.elapsed();
    let words = refused(&out);
    assert!(words.contains("--systemd-cgroup") && words.contains(UNIT), "{words}");
    assert!(bed.status().contains("does not exist"), "{words}");
    nothing_is_left();
    (words, time)
}

fn nothing_is_left() {
    wait_until("the unit is gone", || show(UNIT, "LoadState") == "not-found");
    assert!(!Path::new("/sys/fs/cgroup/system.slice").join(UNIT).exists());
}

#[test]
fn no_bus() {
    let bed = bed("no-bus");
    let (words, time) = fails(&bed, by(&bed, "unix:path=/run/no-such-socket"));
    assert!(words.contains("/run/no-such-socket") && time < Duration::from_secs(2), "{time:?}: {words}");
}

#[test]
fn no_bus_at_its_usual_place() {
    let bed = bed("usual");
    fs::rename(BUS, "/run/dbus/away").unwrap();
    let out = bed.tare(&["--systemd-cgroup", "create", &bed.id()]);
    fs::rename("/run/dbus/away", BUS).unwrap();
    let words = refused(&out);
    assert!(words.contains(BUS) && words.contains("systemd and its D-Bus must run here"), "{words}");
    nothing_is_left();
}

#[test]
fn a_bus_that_hangs_up() {
    let bed = bed("hangs-up");
    let path = bed.dir.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || drop(listener.accept()));
    let (words, time) = fails(&bed, by(&bed, &format!("unix:path={}", path.display())));
    assert!(time < Duration::from_secs(2), "{time:?}: {words}");
    server.join().unwrap();
}

#[test]
fn a_bus_that_does_not_know_us() {
    let bed = bed("rejected");
    let path = bed.dir.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        while client.read(&mut [0; 512]).is_ok_and(|n| n > 0) && client.write_all(b"REJECTED\r\n").is_ok() {}
    });
    let (words, time) = fails(&bed, by(&bed, &format!("unix:path={}", path.display())));
    assert!(time < Duration::from_secs(2), "{time:?}: {words}");
    server.join().unwrap();
}

#[test]
fn a_bus_that_is_silent() {
    let bed = bed("silent");
    let path = bed.dir.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        while client.read(&mut [0; 512]).is_ok_and(|n| n > 0) {}
    });
    let (words, time) = fails(&bed, by(&bed, &format!("unix:path={}", path.display())));
    assert!(words.contains("no answer for 30 s"), "{words}");
    assert!((30..40).contains(&time.as_secs()), "{time:?}");
    server.join().unwrap();
}

/// Passes everything on between its socket and the bus, until `word` comes from the bus: what came with it and after it is
/// kept back, and it says so.
fn between(path: PathBuf, word: &'static str) -> mpsc::Receiver<()> {
    let listener = UnixListener::bind(path).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut bus) = (client.unwrap(), UnixStream::connect(BUS).unwrap());
            let (mut from, mut to) = (client.try_clone().unwrap(), bus.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let tell = tell.clone();
            thread::spawn(move || {
                let mut buffer = [0; 65536];
                let mut heard = false;
                while let Ok(n @ 1..) = bus.read(&mut buffer) {
                    let now = !heard && buffer[..n].windows(word.len()).any(|w| w == word.as_bytes());
                    heard |= now;
                    if now {
                        let _ = tell.send(());
                    } else if !heard && client.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    told
}

#[test]
fn systemd_starts_the_unit_and_the_answer_is_lost() {
    let bed = bed("lost");
    let path = bed.dir.join("socket");
    let heard = between(path.clone(), "JobRemoved");
    let (words, time) = fails(&bed, by(&bed, &format!("unix:path={}", path.display())));
    heard.try_recv().unwrap();
    assert!(words.contains("no answer for 30 s") && time < Duration::from_secs(65), "{time:?}: {words}");
}

#[test]
fn a_runtime_killed_between_the_start_of_the_unit_and_its_own_end() {
    for stopped in [false, true] {
        let bed = bed("killed");
        let path = bed.dir.join("socket");
        let heard = between(path.clone(), "JobRemoved");
        let mut command = by(&bed, &format!("unix:path={}", path.display()));
        let mut tare = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        heard.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(show(UNIT, "ActiveState"), "active");
        if stopped {
            // So that its process does not see the end of it.
            sh(&format!("echo 1 >/sys/fs/cgroup/system.slice/{UNIT}/cgroup.freeze"));
        }
        tare.kill().unwrap();
        tare.wait().unwrap();
        if stopped {
            assert_eq!(show(UNIT, "ActiveState"), "active", "the process should be in it still");
        }
        let again = refused(&bed.tare(&["--systemd-cgroup", "create", &bed.id()]));
        assert!(again.contains("already exists"), "{again}");
        good(&bed.tare(&["delete", "--force", &bed.id()]));
        nothing_is_left();
        good(&bed.tare(&["--systemd-cgroup", "create", &bed.id()]));
        assert_eq!(show(UNIT, "ActiveState"), "active");
        bed.delete();
        nothing_is_left();
    }
}

#[test]
fn a_delete_without_the_bus_says_so_and_can_be_done_again() {
    let bed = bed("delete");
    good(&bed.tare(&["--systemd-cgroup", "create", &bed.id()]));
    let mut delete = bed.command(&["delete", "--force", &bed.id()]);
    let words = refused(&quiet(delete.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/no-such-socket")));
    assert!(words.contains("/run/no-such-socket"), "{words}");
    good(&bed.tare(&["delete", "--force", &bed.id()]));
    nothing_is_left();
}
