//! The machine: the runtimes side by side, the files of a container's cgroup, a disk, swap, units.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::bed::{self, Bed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    Tare,
    Runc,
    Crun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Driver {
    Fs,
    Systemd,
}

pub const DRIVERS: [Driver; 2] = [Driver::Fs, Driver::Systemd];

impl Driver {
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Driver::Fs => &[],
            Driver::Systemd => &["--systemd-cgroup"],
        }
    }

    /// A cgroupsPath in its form.
    pub fn place(self, name: &str) -> String {
        match self {
            Driver::Fs => format!("/resources/{name}"),
            Driver::Systemd => format!("resources.slice:t:{name}"),
        }
    }
}

/// Runs a runtime in the bed's directory, with a state directory of its own.
pub fn runtime(bed: &Bed, runtime: Runtime, args: &[&str]) -> Output {
    fs::write(bed.dir.join("config.json"), bed.config.to_string()).unwrap();
    let program = match runtime {
        Runtime::Tare => bed::tare(),
        Runtime::Runc => "runc".into(),
        Runtime::Crun => "crun".into(),
    };
    let mut command = Command::new(program);
    let state = match runtime {
        Runtime::Tare => "state".to_owned(),
        other => format!("state-{other:?}"),
    };
    command.arg("--root").arg(bed.dir.join(state)).args(args).current_dir(&bed.dir);
    quiet(&mut command)
}

/// Runs a command with files for its output: a container that lives on would keep a pipe open.
pub fn quiet(command: &mut Command) -> Output {
    let dir = command.get_current_dir().unwrap().to_owned();
    let (out, err) = (dir.join("out"), dir.join("err"));
    let status = command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .status()
        .unwrap();
    Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
}

/// The cgroup of a process.
pub fn cgroup(pid: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
    Path::new("/sys/fs/cgroup").join(text.trim().trim_start_matches("0::/"))
}

pub fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", dir.display())).trim().to_owned()
}

/// The number behind a word in a file of words and numbers: `oom_kill` in memory.events.
pub fn count(dir: &Path, file: &str, key: &str) -> u64 {
    let text = read(dir, file);
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {key} in {file}:\n{text}"))
}

/// The settings of a cgroup: every file of a controller that can be written and holds a value.
pub fn settings(dir: &Path) -> BTreeMap<String, String> {
    let ends = [".max", ".high", ".low", ".min", ".weight", ".idle", ".burst", ".group", ".cpus", ".mems"];
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let wanted = |name: &String| !name.starts_with("cgroup.") && ends.iter().any(|end| name.ends_with(end));
    names.filter(wanted).map(|name| (name.clone(), read(dir, &name).replace('\n', "; "))).collect()
}

/// Whether the machine has a controller.
pub fn has(controller: &str) -> bool {
    read(Path::new("/sys/fs/cgroup"), "cgroup.controllers").split(' ').any(|c| c == controller)
}

/// Runs a shell script on the machine and returns what it prints.
pub fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{script}: {out:?}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A disk (a loop device on a file in memory), made by the first who asks: its path and its number.
pub fn disk() -> (String, String) {
    let script = "modprobe loop; f=/run/resources-disk; [ -e $f ] || { truncate -s 64M $f; losetup -f $f; }; \
                  losetup -n -O NAME,MAJ:MIN -j $f";
    let line = sh(script);
    let mut words = line.split_whitespace();
    (words.next().unwrap().into(), words.next().unwrap().into())
}

/// Swap in compressed memory, made by the first who asks.
pub fn swap() {
    sh("grep -q zram0 /proc/swaps || { modprobe zram; echo 256M >/sys/block/zram0/disksize; mkswap /dev/zram0; \
        swapon /dev/zram0; }");
}

/// A property of a unit, as systemctl shows it.
pub fn show(unit: &str, property: &str) -> String {
    sh(&format!("systemctl show --value -p {property} -- '{unit}'"))
}

/// Waits for what must come soon.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited 20 s until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a command says that must fail.
pub fn refused(out: &Output) -> String {
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "it should have failed: {words}");
    words
}

/// What a command prints that must succeed.
#[track_caller]
pub fn good(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
