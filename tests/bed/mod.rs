//! A bundle with busybox, its state directory, and the checks that nothing is left: what the tests of containers share.
//!
//! They need root, cgroup v2 (a pure one or `/sys/fs/cgroup/unified`) and busybox-static, and say so where one is missing: they
//! never pass by doing nothing. The environment variable TARE chooses another binary than the one just built.

// Each file of tests is a program of its own, and none uses all of this.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

pub const TREES: [&str; 2] = ["antechamber", "clone"];

/// The ways to make the mount namespace that this kernel has.
pub fn trees() -> Vec<&'static str> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let major: u32 = release.split('.').next().unwrap().parse().unwrap();
    TREES.into_iter().chain((major >= 7).then_some("open-tree")).collect()
}

/// A bundle and the state directory for its containers; all of it goes with the value.
pub struct Bed {
    pub dir: PathBuf,
    pub config: Value,
}

pub fn tare() -> PathBuf {
    std::env::var_os("TARE").map_or_else(|| env!("CARGO_BIN_EXE_tare").into(), Into::into)
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = std::env::temp_dir().join(format!("tare-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).expect("this test needs busybox-static at /bin/busybox");
        for applet in [
            "sh", "cat", "sleep", "id", "true", "false", "ls", "touch", "mount", "mknod", "hostname", "stat", "echo",
            "env", "yes", "head", "grep", "readlink", "mkdir",
        ] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let out = Command::new(tare()).args(["spec", "-b"]).arg(&dir).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        Bed { dir, config }
    }

    pub fn shell(&mut self, script: &str) -> &mut Bed {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    pub fn tare(&self, args: &[&str]) -> Output {
        fs::write(self.dir.join("config.json"), self.config.to_string()).unwrap();
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        // Files, and not pipes: a container that lives on would keep a pipe open.
        let status = Command::new(tare())
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    /// Runs the container with each way to make the mount namespace, and checks that nothing is left.
    pub fn run(&self) -> Vec<(i32, String, String)> {
        let one = |tree: &&str| {
            let before = left_behind();
            let option = format!("--mount-namespace={tree}");
            let out = self.tare(&["run", &option, &self.id()]);
            assert_eq!(left_behind(), before, "{tree} left something behind");
            assert!(!self.dir.join("state").join(self.id()).exists(), "{tree} left the state");
            (
                out.status.code().unwrap_or(-1),
                String::from_utf8_lossy(&out.stdout).into_owned(),
                String::from_utf8_lossy(&out.stderr).into_owned(),
            )
        };
        trees().iter().map(one).collect()
    }

    pub fn id(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub fn status(&self) -> String {
        let out = self.tare(&["state", &self.id()]);
        if !out.status.success() {
            return String::from_utf8_lossy(&out.stderr).into_owned();
        }
        assert!(out.stderr.is_empty(), "state printed on stderr");
        let state: Value = serde_json::from_slice(&out.stdout).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.tare(&["delete", "--force", &self.id()]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The host's mounts; compared before and after. The antechamber's is none of them: it is made by the first who needs it, perhaps
/// in another test, and stays.
pub fn left_behind() -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (antechamber, others): (Vec<_>, Vec<_>) =
        mounts.lines().partition(|line| line.contains("/run/tare/@tare/antechamber/"));
    assert!(antechamber.len() < 2, "{antechamber:#?}");
    others.join("\n")
}

pub fn cgroup_of(id: &str) -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    let root = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
    root.join(id)
}

pub fn all(results: Vec<(i32, String, String)>, status: i32, out: &str) {
    for (i, (code, stdout, stderr)) in results.into_iter().enumerate() {
        assert_eq!((code, stdout.trim()), (status, out), "{}: {stderr}", trees()[i]);
    }
}
