//! A bundle with busybox, its state directory, and the checks that nothing is left: what the tests of containers share.
//!
//! They need root, cgroup v2 (a pure one or `/sys/fs/cgroup/unified`) and busybox-static, and say so where one is missing: they
//! never pass by doing nothing. The environment variable TARE chooses another binary than the one just built.

// Each file of tests is a program of its own, and none uses all of this.
#![allow(dead_code)]

pub mod running;

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

/// The ways to make the mount namespace that this kernel has.
pub fn trees() -> Vec<&'static str> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let major: u32 = release.split('.').next().unwrap().parse().unwrap();
    ["antechamber", "clone"].into_iter().chain((major >= 7).then_some("open-tree")).collect()
}

/// A bundle and the state directory for its containers; all of it goes with the value.
pub struct Bed {
    pub dir: PathBuf,
    pub config: Value,
    /// A program in front of tare, which executes it: `taskset`, `setpriv`.
    pub through: Vec<String>,
    /// Another binary than `tare()`.
    pub program: Option<PathBuf>,
    /// Keeps the mount namespace of `own_host`.
    host: Option<Child>,
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
        // By a process of its own: what another test starts meanwhile would inherit the open file, and it could not be
        // executed ("text file busy").
        let copy = Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")).status();
        assert!(copy.is_ok_and(|s| s.success()), "this test needs busybox-static at /bin/busybox");
        for applet in [
            "sh", "cat", "sleep", "id", "true", "false", "ls", "touch", "mount", "mknod", "hostname", "stat", "echo",
            "env", "yes", "head", "grep", "readlink", "mkdir", "umount", "tr", "wc",
        ] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let out = Command::new(tare()).args(["spec", "-b"]).arg(&dir).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let mut config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        Bed { dir, config, through: Vec::new(), program: None, host: None }
    }

    pub fn shell(&mut self, script: &str) -> &mut Bed {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    pub fn tare(&self, args: &[&str]) -> Output {
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        // Files, and not pipes: a container that lives on would keep a pipe open.
        let status = self
            .command(args)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }

    /// Those of `trees` that can make this container: open-tree makes no mount namespace for a user namespace.
    pub fn trees(&self) -> Vec<&'static str> {
        let users =
            self.config["linux"]["namespaces"].as_array().is_some_and(|all| all.iter().any(|n| n["type"] == "user"));
        trees().into_iter().filter(|tree| !users || *tree != "open-tree").collect()
    }

    /// Runs the container with each way to make the mount namespace, and checks that nothing is left.
    pub fn run(&self) -> Vec<(i32, String, String)> {
        let one = |tree: &&str| {
            let before = self.host_mounts();
            let option = format!("--mount-namespace={tree}");
            let out = self.tare(&["run", &option, &self.id()]);
            assert_eq!(self.host_mounts(), before, "{tree} left something behind");
            assert!(!self.dir.join("state").join(self.id()).exists(), "{tree} left the state");
            (
                out.status.code().unwrap_or(-1),
                String::from_utf8_lossy(&out.stdout).into_owned(),
                String::from_utf8_lossy(&out.stderr).into_owned(),
            )
        };
        self.trees().iter().map(one).collect()
    }

    /// Runs it in those ways, and it must end with status 0; what it prints, by way.
    pub fn prints(&self) -> Vec<String> {
        let one = |(code, out, err): (i32, String, String)| {
            assert_eq!((code, err.as_str()), (0, ""), "{out}");
            out
        };
        self.run().into_iter().map(one).collect()
    }

    /// Runs it in those ways, and each must be refused in these words; and nothing is left.
    pub fn refused(&self, words: &[&str]) {
        for (code, out, err) in self.run() {
            assert!(code == 1 && out.is_empty(), "{words:?}: {code} {out}{err}");
            assert!(words.iter().all(|w| err.contains(w)), "not {words:?} but {err}");
        }
        self.nothing_left();
    }

    /// No cgroup and no process: the commands, and whoever helped them, have the bundle as their working directory.
    pub fn nothing_left(&self) {
        assert!(!cgroup_of(&self.id()).exists(), "the cgroup is left");
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let here = |p: &PathBuf| fs::read_link(p.join("cwd")).is_ok_and(|cwd| cwd == self.dir);
        let left: Vec<_> = processes.filter(here).map(|p| fs::read_to_string(p.join("cmdline"))).collect();
        assert!(left.is_empty(), "processes are left: {left:?}");
    }

    /// Which namespaces the container has: new ones, and those that it joins.
    pub fn namespaces(&mut self, new: &[&str], joined: &[(&str, PathBuf)]) -> &mut Bed {
        let new = new.iter().map(|kind| json!({"type": kind}));
        let joined = joined.iter().map(|(kind, path)| json!({"type": kind, "path": path}));
        self.config["linux"]["namespaces"] = new.chain(joined).collect();
        self
    }

    /// A new user namespace, besides the namespaces that there are, with these mappings; the rootfs becomes its root's.
    pub fn user_namespace(&mut self, uids: &[[u32; 3]], gids: &[[u32; 3]]) -> &mut Bed {
        self.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        self.mappings(uids, gids)
    }

    pub fn mappings(&mut self, uids: &[[u32; 3]], gids: &[[u32; 3]]) -> &mut Bed {
        let list = |lines: &[[u32; 3]]| -> Value {
            lines.iter().map(|m| json!({"containerID": m[0], "hostID": m[1], "size": m[2]})).collect()
        };
        self.config["linux"]["uidMappings"] = list(uids);
        self.config["linux"]["gidMappings"] = list(gids);
        let root = |lines: &[[u32; 3]]| lines.iter().find(|m| m[0] == 0).map_or(0, |m| m[1]);
        self.own_rootfs(root(uids), root(gids))
    }

    /// Gives the rootfs to a user.
    pub fn own_rootfs(&mut self, uid: u32, gid: u32) -> &mut Bed {
        let chown = Command::new("chown").args(["-hR", &format!("{uid}:{gid}")]).arg(self.dir.join("rootfs")).status();
        assert!(chown.is_ok_and(|s| s.success()));
        self
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

    /// tare with these arguments and the bed's state directory, in the bed's directory, with the configuration written.
    pub fn command(&self, args: &[&str]) -> Command {
        fs::write(self.dir.join("config.json"), self.config.to_string()).unwrap();
        let mut words = self.enter_host();
        words.extend(self.through.iter().cloned());
        words.push(self.program.clone().unwrap_or_else(tare).to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--root").arg(self.dir.join("state")).args(args).current_dir(&self.dir);
        command
    }

    /// Adds a mount; an empty type or source is left out.
    pub fn mount(&mut self, destination: &str, typ: &str, source: impl AsRef<Path>, options: &[&str]) -> &mut Bed {
        let mut mount = json!({"destination": destination, "options": options});
        if !typ.is_empty() {
            mount["type"] = json!(typ);
        }
        if !source.as_ref().as_os_str().is_empty() {
            mount["source"] = json!(source.as_ref());
        }
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Gives the bed a copy of the host's mount namespace, in which the test may mount what it likes: tare and `on_host`
    /// run there, and it goes with the bed.
    pub fn own_host(&mut self) -> &mut Bed {
        self.own_host_by(&[])
    }

    /// The same, made by a program that executes what follows: `taskset`.
    pub fn own_host_by(&mut self, through: &[&str]) -> &mut Bed {
        let words = [through, &["unshare", "--mount", "--propagation", "private", "cat"]].concat();
        let mut unshare = Command::new(words[0]);
        unshare.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cat = unshare.spawn().expect("this test needs unshare (util-linux)");
        // What comes back tells that the namespace is there.
        cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        self.host = Some(cat);
        self
    }

    /// Runs a shell script on the host (the bed's own, if it has one) and returns what it prints.
    pub fn on_host(&self, script: &str) -> String {
        let mut words = self.enter_host();
        words.extend(["sh", "-ec", script].map(str::to_owned));
        let out = Command::new(&words[0]).args(&words[1..]).current_dir(&self.dir).output().unwrap();
        assert!(out.status.success(), "{script}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn enter_host(&self) -> Vec<String> {
        let Some(host) = &self.host else { return Vec::new() };
        let words =
            ["nsenter", "--mount", &format!("--target={}", host.id()), &format!("--wdns={}", self.dir.display())];
        words.map(str::to_owned).into()
    }

    /// The host's mounts; compared before and after.
    pub fn host_mounts(&self) -> String {
        let pid = self.host.as_ref().map_or("self".into(), |host| host.id().to_string());
        let all = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        // The antechamber is made by the first who needs it in this namespace, and stays.
        all.lines().filter(|line| !line.contains("/run/tare/@tare/antechamber")).collect::<Vec<_>>().join("\n")
    }

    /// Runs the container in the background and returns the id of its process.
    pub fn detached(&self, args: &[&str]) -> u32 {
        let out = self.tare(&[&["run", "--detach", "--pid-file", "pid"], args, &[&self.id()]].concat());
        assert!(out.status.success(), "{out:?}");
        fs::read_to_string(self.dir.join("pid")).unwrap().parse().unwrap()
    }

    /// Executes a command in the container: the exit status, standard output and standard error.
    pub fn exec(&self, options: &[&str], command: &[&str]) -> (i32, String, String) {
        let out = self.tare(&[&["exec"], options, &[&self.id()], command].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
    }

    /// Ends and removes the container.
    pub fn delete(&self) {
        let out = self.tare(&["delete", "--force", &self.id()]);
        assert!(out.status.success(), "{out:?}");
    }
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone)]
pub struct Mounted {
    pub at: String,
    /// Of the mount: `rw,nosuid,relatime`.
    pub options: String,
    /// `shared:1`, `master:2`, `unbindable`.
    pub tags: Vec<String>,
    pub fstype: String,
    pub source: String,
    /// Of the file system: `rw,size=1024k`.
    pub super_options: String,
}

/// The mounts of a mountinfo, in their order.
pub fn mounts(text: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let (mount, fs) = line.split_once(" - ")?;
        let mount: Vec<_> = mount.split(' ').collect();
        let fs: Vec<_> = fs.split(' ').collect();
        Some(Mounted {
            at: mount[4].into(),
            options: mount[5].into(),
            tags: mount[6..].iter().map(|t| (*t).to_owned()).collect(),
            fstype: fs[0].into(),
            source: fs[1].into(),
            super_options: fs[2].into(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// What is seen at a path: the mount that came last.
pub fn mounted(text: &str, at: &str) -> Mounted {
    mounts(text).into_iter().rfind(|m| m.at == at).unwrap_or_else(|| panic!("nothing is mounted on {at}:\n{text}"))
}

/// The kinds of namespaces as config.json has them, and their files in /proc/PID/ns.
pub const KINDS: [(&str, &str); 8] = [
    ("user", "user"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Prints the namespaces of who runs it, in the order of [`KINDS`].
pub const SHOW: &str = "for n in user mnt pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done";

/// The namespace of a file: `net:[4026531840]`.
pub fn namespace(file: impl AsRef<Path>) -> String {
    fs::read_link(&file).unwrap_or_else(|e| panic!("{:?}: {e}", file.as_ref())).to_string_lossy().into_owned()
}

/// A process in namespaces of its own, for containers to join; it ends with the value.
pub struct Holder(Child);

impl Holder {
    /// By the options of unshare(1), and with a user namespace among them the ids that all of it is mapped to.
    pub fn new(options: &[&str], ids: Option<[u32; 3]>) -> Holder {
        let mut unshare = Command::new("unshare");
        unshare.args(options).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().expect("this test needs unshare (util-linux)");
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        for file in ids.iter().flat_map(|_| ["uid_map", "gid_map"]) {
            let [inside, outside, count] = ids.unwrap();
            fs::write(format!("/proc/{}/{file}", child.id()), format!("{inside} {outside} {count}")).unwrap();
        }
        Holder(child)
    }

    /// The file of its namespace of this kind.
    pub fn file(&self, kind: &str) -> PathBuf {
        let (_, name) = KINDS.iter().find(|(k, _)| *k == kind).unwrap();
        // Only children get into these, and unshare(1) is the parent of who lives in them.
        let suffix = if matches!(kind, "pid" | "time") { "_for_children" } else { "" };
        format!("/proc/{}/ns/{name}{suffix}", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take()); // its end of file ends it
        let _ = self.0.wait();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.tare(&["delete", "--force", &self.id()]);
        if let Some(mut host) = self.host.take() {
            drop(host.stdin.take()); // its end of file ends it
            let _ = host.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The host's mounts; compared before and after. The antechamber's is none of them: it is made by the first who needs it, perhaps
/// in another test, and stays.
pub fn left_behind() -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (antechamber, others): (Vec<_>, Vec<_>) =
        mounts.lines().partition(|line| line.contains("/run/tare/@tare/antechamber"));
    assert!(antechamber.len() < 3, "{antechamber:#?}");
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

/// The one descriptor of a message that has come.
pub fn one_fd(stream: &UnixStream) -> OwnedFd {
    let (_, mut fds) = message(stream);
    assert_eq!(fds.len(), 1, "{fds:?}");
    fds.remove(0)
}

/// A message that has come, and all its descriptors.
pub fn message(stream: &UnixStream) -> (String, Vec<OwnedFd>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            _ => panic!("other control data"),
        }
    }
    (String::from_utf8(bytes[..got.bytes].to_vec()).unwrap(), fds)
}
