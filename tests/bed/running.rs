//! Commands that run at the same time, and what is left of them.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bed, cgroup_of, left_behind, tare};

/// A command at work.
pub struct Running {
    pub child: Child,
    place: std::path::PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// Starts a command; `name` tells its files from those of the others.
pub fn spawn(bed: &Bed, name: &str, args: &[&str]) -> Running {
    let place = bed.dir.join(name);
    let file = |end: &str| fs::File::create(place.with_extension(end)).unwrap();
    let child = Command::new(tare())
        .arg("--root")
        .arg(bed.dir.join("state"))
        .args(args)
        .current_dir(&bed.dir)
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap();
    Running { child, place }
}

impl Running {
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn end(mut self) -> Done {
        let limit = Instant::now() + Duration::from_secs(30);
        while !self.is_over() {
            assert!(Instant::now() < limit, "{:?} hangs", self.place);
            std::thread::yield_now();
        }
        let read = |end: &str| fs::read_to_string(self.place.with_extension(end)).unwrap();
        Done { code: self.child.wait().unwrap().code(), out: read("out"), err: read("err") }
    }
}

/// Waits until one of the things that a command does has happened, or the command is over; then `turns` more.
pub fn wait_for(command: &mut Running, event: &dyn Fn() -> bool, turns: usize) {
    while !event() && !command.is_over() {
        std::hint::spin_loop();
    }
    for _ in 0..turns {
        std::thread::yield_now();
    }
}

/// No state, cgroup or mount, and no process whose command line names the bed.
pub fn nothing_left(bed: &Bed, round: &str) {
    assert!(!bed.dir.join("state").join(bed.id()).exists(), "{round}: the state is left");
    assert!(!cgroup_of(&bed.id()).exists(), "{round}: the cgroup is left");
    let dir = bed.dir.to_str().unwrap();
    assert!(!left_behind().contains(dir), "{round}: a mount is left");
    let processes = || {
        let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|p| fs::read(p.path().join("cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).find(|line| line.contains(dir))
    };
    // A child of a command that was ended leaves a moment after it.
    let limit = Instant::now() + Duration::from_secs(5);
    while let Some(line) = processes() {
        assert!(Instant::now() < limit, "{round}: a process is left: {line:?}");
        std::thread::yield_now();
    }
}

pub fn forced(bed: &Bed, round: &str) {
    let out = bed.tare(&["delete", "--force", &bed.id()]);
    assert!(out.status.success(), "{round}: {out:?}");
    nothing_left(bed, round);
}
