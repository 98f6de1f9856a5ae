//! One hostile bundle, lived through in every way that there is to start a process in a container, and what must be true
//! each time: the canary and the host's mounts are as they were, the process holds no descriptor but its stdio, and
//! `delete --force` leaves nothing.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::bed::{self, Bed, cgroup_of, trees};
use crate::canary::{self, Snapshot};

/// Nothing may take longer, and nothing may hang: a fifo has no other end.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts the container; an error is what the runtime said.
pub type Way = fn(&Arena, &str) -> Result<(), String>;

/// The ways to come to a running process. What brings another one (update, restore) adds its line.
pub const WAYS: [(&str, Way); 3] = [
    ("run", |arena, tree| arena.creates("run", &["--detach", "--pid-file", "pid", tree])),
    ("create", |arena, tree| {
        arena.creates("create", &["--pid-file", "pid", tree])?;
        arena.waits_cleanly();
        arena.command("start", &[])
    }),
    ("exec", |arena, tree| {
        arena.creates_a_host(tree)?;
        arena.execs(&[])
    }),
];

/// A bundle, and the canary next to its rootfs.
pub struct Arena {
    pub bed: Bed,
    tare: PathBuf,
    before: Snapshot,
}

/// What came of one life.
pub struct Outcome {
    /// The way and the kind of mount namespace.
    pub label: String,
    /// What the runtime said, if it refused.
    pub refused: Option<String>,
    /// Standard output of the container.
    pub stdout: String,
    /// Standard error of the container.
    pub stderr: String,
}

impl Outcome {
    /// The container's output; it must have run to its script's end.
    #[track_caller]
    pub fn ran(&self) -> &str {
        assert_eq!(self.refused, None, "{}", self.label);
        let output = self.stdout.strip_suffix("END\n");
        output.unwrap_or_else(|| panic!("{}: {:?}, {:?}", self.label, self.stdout, self.stderr)).trim_end()
    }

    /// The runtime must have refused, with these words.
    #[track_caller]
    pub fn refused_with(&self, words: &str) {
        let Some(said) = &self.refused else { panic!("{}: not refused: {:?}", self.label, self.stdout) };
        assert!(said.contains(words), "{}: {said}", self.label);
        self.is_clear();
    }

    /// A refusal is one line that names a field, and a line with a hint at most.
    #[track_caller]
    pub fn is_clear(&self) {
        let Some(said) = &self.refused else { return };
        let mut lines = said.lines();
        let first = lines.next().unwrap_or_default();
        let fields = [
            "mounts",
            "root",
            "process",
            "linux",
            "cgroup",
            "hostname",
            "domainname",
            "default devices",
            "default links",
        ];
        let names = first.strip_prefix("tare: ").is_some_and(|rest| fields.iter().any(|f| rest.starts_with(f)));
        assert!(names && !first.contains("panic"), "{}: names no field: {said}", self.label);
        let rest: Vec<_> = lines.collect();
        assert!(rest.len() <= 1 && rest.iter().all(|l| l.starts_with("  hint: ")), "{}: {said}", self.label);
    }
}

impl Arena {
    pub fn new(name: &str) -> Arena {
        thread_local!(static HOST: Cell<bool> = const { Cell::new(false) });
        if !HOST.replace(true) {
            take_the_hosts_mounts();
            make_the_antechamber();
        }
        let mut bed = Bed::new(&format!("hostile-{name}"));
        for applet in ["find", "kill", "dd", "ln", "wc", "rm", "chmod"] {
            let link = bed.dir.join("rootfs/bin").join(applet);
            if !link.is_symlink() {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        bed.config["root"]["readonly"] = json!(false);
        canary::make(&bed.dir.join("canary"));
        let mut arena = Arena { bed, tare: bed::tare(), before: Snapshot::new() };
        arena.script("true");
        arena.arm();
        arena
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bed.dir.join("rootfs")
    }

    pub fn canary(&self) -> PathBuf {
        self.bed.dir.join("canary")
    }

    /// The process: a script, which says when it has come to its end and then stays to be looked at.
    pub fn script(&mut self, script: &str) -> &mut Arena {
        self.bed.shell(&format!("{script}\necho END; exec sleep 1000"));
        self
    }

    pub fn mount(&mut self, mount: Value) -> &mut Arena {
        self.bed.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn bind(&mut self, source: impl AsRef<Path>, destination: &str) -> &mut Arena {
        self.mount(json!({
            "destination": destination, "type": "bind", "source": source.as_ref(), "options": ["rbind"],
        }))
    }

    /// The mounts whose destination is none of these.
    pub fn without_mounts(&mut self, destinations: &[&str]) -> &mut Arena {
        let mounts = self.bed.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !destinations.contains(&m["destination"].as_str().unwrap()));
        self
    }

    /// Removes from the rootfs all but its programs.
    pub fn empty_rootfs(&self) {
        for entry in fs::read_dir(self.rootfs()).unwrap().flatten().filter(|e| e.file_name() != "bin") {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
    }

    /// Another copy of the runtime.
    pub fn with_tare(&mut self, tare: &Path) {
        self.tare = tare.to_owned();
    }

    /// From here on the canary must not change.
    pub fn arm(&mut self) {
        self.before = canary::snapshot(&self.canary());
    }

    pub fn canary_is_untouched(&self) -> bool {
        canary::snapshot(&self.canary()) == self.before
    }

    /// Every way with every kind of mount namespace.
    #[track_caller]
    pub fn everywhere(&self, check: impl Fn(&Outcome)) {
        for tree in trees() {
            for (way, start) in WAYS {
                check(&self.live(tree, way, start));
            }
        }
    }

    /// One life, and what must be true after every life.
    #[track_caller]
    pub fn live(&self, tree: &str, way: &str, start: Way) -> Outcome {
        let label = format!("{way}, {tree}, {}", self.bed.id());
        let mounts = host_mounts();
        fs::write(self.bed.dir.join("config.json"), self.bed.config.to_string()).unwrap();
        let _ = fs::remove_file(self.bed.dir.join("pid"));
        let refused = start(self, &format!("--mount-namespace={tree}")).err();
        if refused.is_none() {
            self.wait_for_end(way);
            self.holds_stdio_only(&label);
        }
        let outcome = Outcome { label, refused, stdout: self.said(way, "out"), stderr: self.said(way, "err") };
        let label = &outcome.label;
        let deleted = self.command("delete", &["--force"]);
        assert_eq!(deleted, Ok(()), "{label}");
        self.nothing_is_left(label);
        assert!(self.canary_is_untouched(), "{label}: the canary has changed: {outcome}");
        assert_eq!(host_mounts(), mounts, "{label}: the host's mounts have changed");
        outcome
    }

    fn said(&self, command: &str, what: &str) -> String {
        let text = fs::read(self.bed.dir.join(format!("{command}.{what}"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A command that makes the container. A refusal has cleaned up before anybody asks.
    pub fn creates(&self, name: &str, options: &[&str]) -> Result<(), String> {
        let made = self.command(name, options);
        if made.is_err() {
            self.nothing_is_left(&format!("{name} {options:?}"));
        }
        made
    }

    /// The container of config.json with another process, which is nothing but there: what is refused of config.json's own
    /// is refused to `exec`.
    pub fn creates_a_host(&self, tree: &str) -> Result<(), String> {
        let mut config = self.bed.config.clone();
        let process = &mut config["process"];
        (process["args"], process["cwd"]) = (json!(["/bin/sleep", "1000"]), json!("/"));
        process["user"] = json!({"uid": 0, "gid": 0});
        fs::write(self.bed.dir.join("config.json"), config.to_string()).unwrap();
        self.creates("run", &["--detach", "--pid-file", "init", tree])
    }

    /// The process of config.json, in a container that is there and stays, whatever comes of it.
    pub fn execs(&self, options: &[&str]) -> Result<(), String> {
        fs::write(self.bed.dir.join("process.json"), self.bed.config["process"].to_string()).unwrap();
        let usual = ["--detach", "--pid-file", "pid", "--process", "process.json"];
        let made = self.command("exec", &[&usual, options].concat());
        assert_eq!(self.bed.status(), "running", "{made:?}");
        assert_eq!(made.is_ok(), self.bed.dir.join("pid").exists(), "a pid file is the sign that it runs: {made:?}");
        made
    }

    /// One command of the runtime's, with an end.
    pub fn command(&self, name: &str, options: &[&str]) -> Result<(), String> {
        let file = |what| fs::File::create(self.bed.dir.join(format!("{name}.{what}"))).unwrap();
        let mut command = Command::new(&self.tare);
        command.arg("--root").arg(self.bed.dir.join("state")).arg(name).args(options).arg(self.bed.id());
        command.current_dir(&self.bed.dir).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let mut child = command.spawn().unwrap();
        let begin = Instant::now();
        loop {
            match child.try_wait().unwrap() {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return Err(self.said(name, "err")),
                None if begin.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(1)),
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{name} hangs: {:?}", self.bed.id());
                }
            }
        }
    }

    pub fn pid(&self) -> String {
        fs::read_to_string(self.bed.dir.join("pid")).unwrap()
    }

    /// Until the script has said that it is at its end, or has died.
    fn wait_for_end(&self, way: &str) {
        let begin = Instant::now();
        let dead = || fs::read_to_string(format!("/proc/{}/stat", self.pid())).map_or(true, |s| s.contains(") Z "));
        // "sleep" is what the script ends as; its stdio is all that it inherits.
        let asleep = || fs::read_to_string(format!("/proc/{}/comm", self.pid())).is_ok_and(|c| c == "sleep\n");
        while !(dead() || self.said(way, "out").ends_with("END\n") && asleep()) {
            assert!(
                begin.elapsed() < LIMIT,
                "the script hangs: {:?} {:?}",
                self.said(way, "out"),
                self.said(way, "err")
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// CVE-2024-21626, seen from the host. A process that has ended holds nothing.
    fn holds_stdio_only(&self, label: &str) {
        let held = descriptors(&self.pid());
        assert!(held.is_empty() || held == ["0", "1", "2"], "{label}: the process holds {held:?}");
    }

    /// What waits for `start` holds descriptors of the host's still, none of which may survive execve.
    fn waits_cleanly(&self) {
        let pid = self.pid();
        for fd in descriptors(&pid).iter().filter(|fd| !["0", "1", "2"].contains(&fd.as_str())) {
            // It may be closing one just now.
            let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { continue };
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim();
            let flags = u32::from_str_radix(flags, 8).unwrap();
            let link = fs::read_link(format!("/proc/{pid}/fd/{fd}"));
            assert!(flags & libc::O_CLOEXEC as u32 != 0, "descriptor {fd} stays open over execve: {link:?}");
        }
    }

    fn nothing_is_left(&self, label: &str) {
        let id = self.bed.id();
        assert!(!cgroup_of(&id).exists(), "{label}: the cgroup is left");
        assert!(!self.bed.dir.join("state").join(id).exists(), "{label}: the state is left");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: refused {:?}, said {:?} {:?}", self.label, self.refused, self.stdout, self.stderr)
    }
}

/// Gives this thread, and so its test, the host's mounts as its own: nobody else changes them meanwhile. All of them are
/// shared, as systemd has them, so that whatever a container's namespace lets out is seen. What others mounted for
/// themselves is left out: it goes when they remove the directory.
pub fn take_the_hosts_mounts() {
    // Deprecated since it is unsound for UnshareFlags::FILES, and for that alone.
    #[expect(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
    let used = [bed::tare(), std::env::temp_dir(), "/usr/bin/busybox".into(), "/bin/busybox".into()];
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    for at in host_mounts().lines().map(|l| PathBuf::from(l.split(' ').nth(4).unwrap())) {
        let kernels = ["/proc", "/sys", "/dev", "/run"].iter().any(|k| at.starts_with(k));
        if !kernels && !used.iter().any(|u| u.starts_with(&at)) {
            let _ = rustix::mount::unmount(&at, UnmountFlags::DETACH); // gone already, with what it was on
        }
    }
    rustix::mount::mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
}

/// The antechamber is made by the first who needs it, and stays: not a change of any test's here.
fn make_the_antechamber() {
    let mut bed = Bed::new(&format!("hostile-warm-{}", rustix::thread::gettid().as_raw_nonzero()));
    bed.shell("true");
    let out = bed.tare(&["run", "--mount-namespace=antechamber", &bed.id()]);
    assert!(out.status.success(), "{out:?}");
}

fn descriptors(pid: &str) -> Vec<String> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut fds: Vec<_> =
        dir.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    fds.sort();
    fds
}

/// The mounts of this test's host.
pub fn host_mounts() -> String {
    // Not /proc/self: that is the main thread's.
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}
