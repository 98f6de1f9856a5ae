//! What only `exec` can be attacked by: somebody is in the container already, and waits for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::bed::trees;
use crate::harness::Arena;

/// Looks at every new process as soon as it is there, and tells what it gets of one: descriptors above stderr, an executable
/// that is not the image's. At SIGTERM it tells how often it was refused.
const SPY: &str = r#"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t over;
static void end(int s) { over = 1; }

static void look(int pid, long *refused)
{
	char path[64], link[4096];
	struct stat ours, theirs;
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	n = readlink(path, link, sizeof link - 1);
	if (n < 0)
		*refused += errno == EACCES || errno == EPERM;
	else if (link[n] = 0, strcmp(link, "/bin/busybox") && strcmp(link, "/spy")) {
		printf("got exe %s\n", link);
		if (open(path, O_WRONLY) >= 0)
			printf("got exe to write\n");
	}
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	if (!stat("/", &ours) && !stat(path, &theirs) && (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino))
		printf("got another root\n");
	for (int i = 3; i < 64; i++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, i);
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
		// Its own descriptor is what it has got, whatever the other does meanwhile.
		if (fd >= 0)
			snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		n = readlink(path, link, sizeof link - 1);
		if (fd < 0 && n < 0)
			continue;
		printf("got fd %d %.*s\n", i, n < 0 ? 0 : (int)n, link);
		close(fd);
	}
}

int main(void)
{
	long refused = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGTERM, end);
	printf("READY\n");
	while (!over) {
		DIR *proc = opendir("/proc");
		for (struct dirent *e; (e = readdir(proc));)
			if (isdigit(e->d_name[0]) && atoi(e->d_name) > 1)
				look(atoi(e->d_name), &refused);
		closedir(proc);
	}
	printf("refused %ld\nEND\n", refused);
	return 0;
}
"#;

/// CVE-2016-9962: the process is not the container's before it is executed, and until then nobody inside has a hand on it.
/// The spy has all capabilities that the runtime itself has, so that it is not for the lack of one that it is refused.
#[test]
fn a_process_is_not_seen_through_before_it_is_executed() {
    spied_on("spy", false);
}

/// With CAP_SYS_PTRACE the kernel lets it see all that is in its user namespace: there must be nothing to see. What is left is
/// the way to the parent, whose messages are no secret and no danger, and an executable that cannot be written.
#[test]
fn what_is_seen_of_a_process_by_who_may_trace_it_is_of_no_use() {
    spied_on("spy-ptrace", true);
}

fn spied_on(name: &str, may_trace: bool) {
    let mut arena = Arena::new(name);
    let source = arena.bed.dir.join("spy.c");
    fs::write(&source, SPY).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-D_GNU_SOURCE", "-static", "-O1", "-o"]).arg(arena.rootfs().join("spy")).arg(&source);
    assert!(cc.status().expect("this test needs a C compiler and a static C library").success());
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("CapPrm:\t")).unwrap();
    let own = u64::from_str_radix(own, 16).unwrap();
    let own = if may_trace { own } else { own & !(1 << 19) }; // CAP_SYS_PTRACE
    let names = Command::new("setpriv").arg("--list-caps").output().expect("this test needs setpriv (util-linux)");
    let names = String::from_utf8(names.stdout).unwrap();
    let set: Vec<_> = names
        .lines()
        .enumerate()
        .filter(|(bit, _)| own & (1 << bit) != 0)
        .map(|(_, name)| format!("CAP_{}", name.to_uppercase()))
        .collect();
    for kind in ["bounding", "effective", "permitted"] {
        arena.bed.config["process"]["capabilities"][kind] = json!(set);
    }
    arena.bed.config["process"]["args"] = json!(["/spy"]);
    if !may_trace {
        arena.bed.through =
            ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"].map(str::to_owned).into();
    }
    for tree in trees() {
        arena.bed.detached(&[&format!("--mount-namespace={tree}")]);
        let mut spied = fs::File::open(arena.bed.dir.join("out")).unwrap();
        let spying = |word: &str, spied: &mut fs::File| {
            let begin = std::time::Instant::now();
            let mut text = String::new();
            while !text.contains(word) {
                assert!(begin.elapsed().as_secs() < 10, "not {word:?} but {text:?}");
                std::thread::sleep(std::time::Duration::from_millis(1));
                std::io::Read::read_to_string(spied, &mut text).unwrap();
            }
            text
        };
        // `out` is the file of each command, anew: the spy holds on to the one it was given.
        fs::rename(arena.bed.dir.join("out"), arena.bed.dir.join("spied")).unwrap();
        spying("READY\n", &mut spied);
        for _ in 0..30 {
            let (code, _, err) = arena.bed.exec(&[], &["/bin/busybox", "true"]);
            assert_eq!((code, err.as_str()), (0, ""));
        }
        // The control: an ordinary process of the container is seen through.
        let (code, _, err) = arena.bed.exec(&["-d"], &["sh", "-c", "exec 9</spy; exec sleep 1000"]);
        assert_eq!((code, err.as_str()), (0, ""));
        let text = spying("got fd 9 /spy\n", &mut spied);
        let first = text.find("got fd 9 /spy\n").unwrap();
        let early = text[..first].lines().filter(|l| l.starts_with("got ") && !l.ends_with("/spy")).collect::<Vec<_>>();
        let harmless = |line: &str| {
            let link = line.splitn(4, ' ').nth(3).unwrap_or_default();
            line.starts_with("got exe /") || link.starts_with("socket:") || link.starts_with("/memfd:tare-start")
        };
        let (seen, useful): (Vec<&str>, Vec<&str>) = early.iter().partition(|line| may_trace && harmless(line));
        assert!(useful.is_empty(), "{tree}: {useful:?}");
        assert!(!may_trace || !seen.is_empty(), "{tree}: it was never in time");
        assert!(arena.bed.tare(&["kill", &arena.bed.id(), "TERM"]).status.success());
        let text = spying("END\n", &mut spied);
        let refused: u64 = text.lines().find_map(|l| l.strip_prefix("refused ")).unwrap().parse().unwrap();
        println!("{tree}: {refused} times refused");
        assert!(may_trace || refused > 10, "{tree}: it saw a process of the runtime's {refused} times only");
        arena.bed.delete();
    }
    assert!(arena.canary_is_untouched());
}

/// CVE-2024-21626 by `--cwd`, which is no field of config.json's.
#[test]
fn a_working_directory_of_the_command_line() {
    let mut arena = Arena::new("exec-cwd");
    arena.script("true");
    symlink("/proc/self/fd/8", arena.rootfs().join("link")).unwrap();
    assert_eq!(arena.creates_a_host("--mount-namespace=antechamber"), Ok(()));
    let fds = (3..=20).map(|n| format!("/proc/self/fd/{n}"));
    for cwd in fds.chain(["/link", "/proc/self/cwd", "/proc/1/root", "/proc/self/fd/7/../../.."].map(String::from)) {
        let (code, out, err) = arena.bed.exec(&["--cwd", &cwd], &["pwd"]);
        assert!(code == 255 && out.is_empty() && err.starts_with("tare: process.cwd: "), "{cwd}: {code} {out}{err}");
    }
    let (code, out, _) = arena.bed.exec(&["--cwd=/../../proc"], &["sh", "-c", "pwd"]);
    assert_eq!((code, out.as_str()), (0, "/proc\n"));
}

/// Somebody inside has mounted over what the runtime itself needs of /proc, and has put links in the place of the rest.
#[test]
fn a_proc_that_is_the_containers_own() {
    let mut arena = Arena::new("exec-proc");
    let fake = "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/self/fd /proc/self/ns /proc/1/ns /proc/thread-self/attr && \
        for f in /proc/self/attr/exec /proc/self/oom_score_adj /proc/self/setgroups /proc/thread-self/attr/exec; do echo fake > $f; done";
    for set in ["bounding", "effective", "permitted"] {
        arena.bed.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    }
    arena.bed.config["process"]["oomScoreAdj"] = json!(500);
    arena.script("true");
    assert_eq!(arena.creates_a_host("--mount-namespace=antechamber"), Ok(()));
    let (code, _, err) = arena.bed.exec(&[], &["sh", "-c", fake]);
    assert_eq!((code, err.as_str()), (0, ""));
    let _ = fs::remove_file(arena.bed.dir.join("pid"));
    arena.bed.config["process"]["args"] = json!(["sleep", "1000"]);
    assert_eq!(arena.execs(&[]), Ok(()));
    let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", arena.pid())).unwrap();
    assert_eq!(of("oom_score_adj"), "500\n");
    assert!(of("cgroup").contains(&arena.bed.id()), "{}", of("cgroup"));
    // What lies there is as it was made, and that it is there is seen inside.
    let files = "cat /proc/self/attr/exec /proc/self/oom_score_adj /proc/self/setgroups /proc/thread-self/attr/exec";
    let (code, out, err) = arena.bed.exec(&[], &["sh", "-c", files]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "fake\nfake\nfake\nfake\n", ""));
}

/// HOME is looked up in the image's file, at the time of the exec: not in the host's, and not in the runtime's environment.
#[test]
fn a_passwd_of_the_image_at_exec() {
    let mut arena = Arena::new("exec-passwd");
    arena.script("true");
    let etc = arena.rootfs().join("etc");
    fs::create_dir(&etc).unwrap();
    assert_eq!(arena.creates_a_host("--mount-namespace=antechamber"), Ok(()));
    arena.bed.through = ["env", "SECRET=\nroot:x:0:0::/of-the-host:/bin/sh\n"].map(str::to_owned).into();
    let passwd = etc.join("passwd");
    let canary = arena.canary().join("file");
    let table: [(&dyn Fn(), &str); 6] = [
        (&|| symlink("/proc/self/environ", &passwd).unwrap(), "/"),
        (&|| symlink(&canary, &passwd).unwrap(), "/"),
        (&|| fs::create_dir(&passwd).unwrap(), "/"),
        (&|| fs::File::create(&passwd).unwrap().set_len(1 << 30).unwrap(), "/"),
        (
            &|| {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
            "/",
        ),
        // The control.
        (&|| fs::write(&passwd, "root:x:0:0::/of-the-image:/bin/sh\n").unwrap(), "/of-the-image"),
    ];
    for (plant, home) in table {
        plant();
        let (code, out, err) = arena.bed.exec(&[], &["sh", "-c", "echo $HOME"]);
        assert_eq!((code, out.trim_end(), err.as_str()), (0, home, ""));
        let _ = fs::remove_file(&passwd).or_else(|_| fs::remove_dir(&passwd));
    }
}
