//! What the container's process is given, and what an image can make of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bed;
use crate::harness::Arena;

/// CVE-2016-3697: a number is never looked up as a name.
#[test]
fn a_number_is_no_name_in_the_images_passwd() {
    let mut arena = Arena::new("passwd-number");
    fs::create_dir(arena.rootfs().join("etc")).unwrap();
    fs::write(arena.rootfs().join("etc/passwd"), "1000:x:0:0::/byname:/bin/sh\n0:x:7:7::/x:/bin/sh\n").unwrap();
    fs::write(arena.rootfs().join("etc/group"), "1000:x:0:\n").unwrap();
    arena.bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [1000]});
    arena.script("id -u; id -g; id -G; echo $HOME; grep Cap /proc/self/status | grep -vE 'CapBnd|0000000000000000'");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "1000\n1000\n1000\n/"));
}

/// CVE-2016-8867: who is not root gets no capability that nobody asked for.
#[test]
fn no_ambient_capability_unasked() {
    let mut arena = Arena::new("ambient");
    let caps = json!(["CAP_NET_RAW", "CAP_CHOWN"]);
    arena.bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    arena.bed.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps});
    arena.script("grep -E 'CapEff|CapPrm|CapAmb' /proc/self/status");
    let status = |set: u32| ["CapPrm", "CapEff", "CapAmb"].map(|name| format!("{name}:\t{set:016x}")).join("\n");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), status(0)));
    // The control: asked for, it is there.
    arena.bed.config["process"]["capabilities"]["ambient"] = json!(["CAP_NET_RAW"]);
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), status(1 << 13)));
}

/// Keeps the file that it is executed for open, and hands it to a shell: what the image puts in the place of the
/// dynamic loader, so that `/proc/self/exe` as the entrypoint runs it as the runtime's own program.
const LOADER: &str = r#"
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
void _start(void) {
    static char *argv[] = {"sh", "/attack", 0}, *envp[] = {"PATH=/bin", 0};
    long fd = call(2, (long)"/proc/self/exe", 0, 0);
    call(33, fd, 9, 0); /* dup2 */
    call(3, fd, 0, 0);  /* close */
    call(59, (long)"/bin/sh", (long)argv, (long)envp);
    call(60, 1, 0, 0);
}
"#;

/// The program that the kernel loads first for this executable (PT_INTERP), none if it is static.
fn loader_of(path: &Path) -> Option<String> {
    let out = Command::new("readelf").arg("-l").arg(path).output().expect("this test needs readelf");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_once("interpreter: ").and_then(|(_, rest)| rest.split_once(']')).map(|(path, _)| path.to_owned())
}

/// CVE-2019-5736: the runtime's executable, reached through /proc/self/exe and kept until nobody executes it any more.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_runtimes_executable_cannot_be_written() {
    let mut arena = Arena::new("exe");
    // A copy, on a mount that can be written: what is sealed is not what others may run just now.
    let own = arena.bed.dir.join("bin");
    fs::create_dir(&own).unwrap();
    let tare = own.join("tare");
    fs::copy(bed::tare(), &tare).unwrap();
    let before = fs::read(&tare).unwrap();
    let source = arena.bed.dir.join("loader.c");
    fs::write(&source, LOADER).unwrap();
    let loader = arena.bed.dir.join("loader");
    let cc = Command::new("cc").args(["-nostdlib", "-static", "-O1", "-o"]).args([&loader, &source]).status();
    assert!(cc.expect("this test needs a C compiler").success());
    // Descriptor 9 is the executable, which is "busy" as long as anybody executes it.
    let attack = "echo loaded
        while :; do
            said=$(echo evil 2>&1 >> /proc/self/fd/9) && echo written && break
            case $said in *busy*) busybox usleep 10000 ;; *) echo $said; break ;; esac
        done
        echo END
        exec sleep 1000 9<&-";
    fs::write(arena.rootfs().join("attack"), attack).unwrap();
    let victim = arena.rootfs().join("victim");
    fs::copy(&tare, &victim).unwrap();
    let dynamic = loader_of(&tare);
    if let Some(path) = &dynamic {
        let at = arena.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::copy(&loader, &at).unwrap();
        fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The control: an executable of the image is written in just this way.
        arena.bed.config["process"]["args"] = json!(["/victim"]);
        arena.everywhere(|outcome| assert_eq!(outcome.ran(), "loaded\nwritten"));
        assert!(fs::read(&victim).unwrap() != before, "the control has changed nothing");
    }
    arena.with_tare(&tare);
    fs::write(arena.rootfs().join("script"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(arena.rootfs().join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for args in [json!(["/proc/self/exe"]), json!(["/proc/self/exe", "features"]), json!(["/script"])] {
        arena.bed.config["process"]["args"] = args;
        arena.everywhere(|outcome| {
            if dynamic.is_some() {
                let said = outcome.ran();
                assert!(said.starts_with("loaded\n") && said.ends_with("Read-only file system"), "{outcome}");
            } else {
                assert!(outcome.refused.is_none(), "{outcome}");
            }
        });
        assert!(fs::read(&tare).unwrap() == before, "the runtime's executable has changed");
    }
}

/// CVE-2024-21626: a working directory by way of a descriptor of the runtime's is the host's.
#[test]
fn a_working_directory_through_descriptors() {
    let mut arena = Arena::new("cwd");
    arena.script("pwd");
    let links = ["/proc/self/cwd", "/proc/self/root", "/proc/1/root/bin", "/proc/self/fd/7/../../..", "/link"];
    symlink("/proc/self/fd/8", arena.rootfs().join("link")).unwrap();
    let fds = (3..=20).map(|n| format!("/proc/self/fd/{n}"));
    for cwd in fds.chain(["/proc/thread-self/fd/5".into()]).chain(links.map(String::from)) {
        arena.bed.config["process"]["cwd"] = json!(cwd);
        arena.everywhere(|outcome| outcome.refused_with("tare: process.cwd: "));
    }
    // The control: it is not /proc that is refused, nor links.
    symlink("/proc/sys", arena.rootfs().join("sysctl")).unwrap();
    for (cwd, place) in [("/proc/self", "/proc/1"), ("/sysctl/kernel", "/proc/sys/kernel"), ("/bin/../new", "/new")] {
        arena.bed.config["process"]["cwd"] = json!(cwd);
        arena.everywhere(|outcome| assert_eq!(outcome.ran(), place));
    }
}

/// CVE-2024-21626: what the caller has open stays with the caller, but for what it says it wants to pass.
#[test]
fn descriptors_of_the_caller() {
    let mut arena = Arena::new("fds");
    arena.bed.config["process"]["args"] = json!(["sh", "-c", "ls /proc/1/fd; readlink /proc/1/fd/7; true"]);
    fs::write(arena.bed.dir.join("config.json"), arena.bed.config.to_string()).unwrap();
    let with_descriptors = |command: &str| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec 7</usr 5</; exec {command}"));
        let out = shell.current_dir(&arena.bed.dir).stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let run = |options: &str| {
        let runtime = format!("{} --root state run {options} {}", bed::tare().display(), arena.bed.id());
        with_descriptors(&runtime)
    };
    // What this test's own caller has let through as well: of `ls` itself there is 3.
    let open = with_descriptors("busybox ls /proc/self/fd");
    let open: Vec<_> = open.lines().filter(|fd| *fd != "3").collect();
    for tree in bed::trees() {
        let tree = format!("--mount-namespace={tree}");
        assert_eq!(run(&tree), "0\n1\n2\n");
        // The control: what it wants to pass is there.
        assert_eq!(run(&format!("{tree} --preserve-fds 5")), "0\n1\n2\n5\n7\n/usr\n");
        // Nothing of the runtime's own is in between.
        assert_eq!(run(&format!("{tree} --preserve-fds 4294967295")), open.join("\n") + "\n/usr\n");
    }
}

/// CVE-2025-52881, CVE-2025-62596: sysctls go to the kernel, not to what the image or a volume has in their place.
#[test]
fn sysctls_go_to_the_kernel() {
    let mut arena = Arena::new("sysctl");
    let name = "net/ipv4/ip_unprivileged_port_start";
    arena.without_mounts(&["/proc"]);
    arena.mount(json!({"destination": "/kernel", "type": "proc", "source": "proc"}));
    arena.bed.config["linux"]["maskedPaths"] = json!([]);
    arena.bed.config["linux"]["readonlyPaths"] = json!([]);
    arena.script(&format!("cat /kernel/sys/{name}; cat /proc/sys/{name}"));
    let fake = arena.rootfs().join("proc/sys").join(name);
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    let targets: [&dyn Fn(&Arena); 3] = [
        &|_| fs::write(&fake, "fake").unwrap(),
        &|arena| symlink(arena.canary().join("file"), &fake).unwrap(),
        &|_| symlink("/kernel/sys/net/ipv4/tcp_fin_timeout", &fake).unwrap(),
    ];
    for plant in targets {
        let _ = fs::remove_file(&fake);
        plant(&arena);
        let there = fs::read_to_string(&fake).unwrap_or_default();
        arena.arm();
        arena.bed.config["linux"]["sysctl"] = json!({});
        let unset = std::cell::RefCell::new(String::new());
        // The control: without it the kernel has another value, and the fake one is what the container's /proc shows.
        arena.everywhere(|outcome| *unset.borrow_mut() = outcome.stdout.clone());
        assert!(!unset.borrow().starts_with("77\n"), "{unset:?}");
        arena.bed.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
        arena.everywhere(|outcome| {
            assert!(outcome.stdout.starts_with("77\n") && outcome.refused.is_none(), "{outcome}");
            assert_eq!(outcome.stdout["77\n".len()..], unset.borrow()[unset.borrow().find('\n').unwrap() + 1..]);
        });
        assert_eq!(fs::read_to_string(&fake).unwrap_or_default(), there);
    }
    let host = fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    assert_ne!(host.trim(), "77", "the host's was written");
}

/// CVE-2026-115521: the root becomes read-only by a descriptor of the runtime's, not by the image's /proc/self/fd.
#[test]
fn a_readonly_root_with_a_fake_proc() {
    let mut arena = Arena::new("readonly");
    arena.without_mounts(&["/proc"]);
    let fds = arena.rootfs().join("proc/self/fd");
    fs::create_dir_all(&fds).unwrap();
    fs::create_dir(arena.rootfs().join("decoy")).unwrap();
    for n in 0..100 {
        symlink("/decoy", fds.join(n.to_string())).unwrap();
    }
    symlink("self", arena.rootfs().join("proc/thread-self")).unwrap();
    arena.bed.config["linux"]["maskedPaths"] = json!([]);
    arena.bed.config["linux"]["readonlyPaths"] = json!([]);
    arena.script("touch /x /decoy/x 2>&1; rm -f /x /decoy/x; touch /dev/shm/x");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "", "the control can write"));
    arena.bed.config["root"]["readonly"] = json!(true);
    let refused = "touch: /x: Read-only file system\ntouch: /decoy/x: Read-only file system";
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), refused));
}

/// CVE-2017-18367: two conditions of a rule are both to be met.
#[test]
fn both_conditions_of_a_seccomp_rule() {
    let mut arena = Arena::new("seccomp");
    // kill(pid, signal) of the shell itself: its two arguments as they come.
    let condition = |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let tries = [(1, 0), (1, 28), (2, 0), (2, 28)];
    let script: Vec<_> = tries
        .iter()
        .map(|(pid, signal)| format!("if kill -{signal} {pid} 2>/dev/null; then echo yes; else echo no; fi"))
        .collect();
    arena.script(&format!("sleep 1000 & {}; kill -9 $!", script.join("; ")));
    let profile = |conditions| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": conditions}]})
    };
    let table = [
        (json!([condition(0, 1), condition(1, 0)]), "no\nyes\nyes\nyes"),
        // The controls: each condition by itself, and two rules, either of which is enough.
        (json!([condition(0, 1)]), "no\nno\nyes\nyes"),
        (json!([condition(1, 0)]), "no\nyes\nno\nyes"),
    ];
    for (conditions, want) in table {
        arena.bed.config["linux"]["seccomp"] = profile(conditions);
        arena.everywhere(|outcome| assert_eq!(outcome.ran(), want));
    }
}

/// CVE-2026-61801: an endless line of the image's passwd is not held in memory.
#[test]
fn a_passwd_of_one_gigabyte() {
    let mut arena = Arena::new("passwd-huge");
    fs::create_dir(arena.rootfs().join("etc")).unwrap();
    for name in ["passwd", "group"] {
        let file = fs::File::create(arena.rootfs().join("etc").join(name)).unwrap();
        file.set_len(1 << 30).unwrap(); // sparse
    }
    arena.bed.config["process"]["args"] = json!(["sh", "-c", "echo $HOME"]);
    fs::write(arena.bed.dir.join("config.json"), arena.bed.config.to_string()).unwrap();
    // No more than 300 MB of address space, all of the runtime's own included.
    let limited = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v 300000; {script}"), "sh"]).arg(bed::tare());
        command.current_dir(&arena.bed.dir).stdin(Stdio::null()).output().unwrap()
    };
    for tree in bed::trees() {
        let begin = std::time::Instant::now();
        let run = format!("exec \"$1\" --root state run --mount-namespace={tree} {}", arena.bed.id());
        let out = limited(&run);
        assert_eq!((out.status.success(), out.stdout.as_slice()), (true, b"/\n".as_slice()), "{tree}: {out:?}");
        assert!(begin.elapsed().as_secs() < 5, "{tree}: {:?}", begin.elapsed());
    }
    // The control: who reads the line does not come to its end.
    assert!(!limited("exec busybox sort rootfs/etc/passwd").status.success());
}

/// What the runtime reads as the image's file must be the image's: its own environment, by way of /proc, is the host's.
#[test]
fn a_passwd_that_is_the_runtimes_own_environment() {
    let mut arena = Arena::new("passwd-proc");
    fs::create_dir(arena.rootfs().join("etc")).unwrap();
    let passwd = arena.rootfs().join("etc/passwd");
    arena.bed.config["process"]["args"] = json!(["sh", "-c", "echo $HOME"]);
    fs::write(arena.bed.dir.join("config.json"), arena.bed.config.to_string()).unwrap();
    let home = |tree: &str| {
        let mut command = Command::new(bed::tare());
        command.args(["--root", "state", "run", &format!("--mount-namespace={tree}"), &arena.bed.id()]);
        command.env("SECRET", "\nroot:x:0:0::/of-the-host:/bin/sh\n").current_dir(&arena.bed.dir);
        let out = command.stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    for tree in bed::trees() {
        for link in ["/proc/self/environ", "/proc/1/environ"] {
            let _ = fs::remove_file(&passwd);
            symlink(link, &passwd).unwrap();
            assert_eq!(home(tree), "/", "{tree}, {link}");
        }
        // The control: from a file it would be taken.
        fs::remove_file(&passwd).unwrap();
        fs::write(&passwd, "X=\nroot:x:0:0::/of-the-host:/bin/sh\n").unwrap();
        assert_eq!(home(tree), "/of-the-host", "{tree}");
    }
    // A home that cannot be one.
    fs::File::create(&passwd).unwrap().write_all(b"root:x:0:0::/a\0b:/bin/sh\n").unwrap();
    assert_eq!(home("clone"), "/");
}

/// CVE-2026-88264, CVE-2026-88265: stdio goes to the container's /dev/null only if that is one; and nothing that is
/// bound there gets another owner.
#[test]
fn a_dev_null_that_is_none() {
    let mut arena = Arena::new("null");
    let dev = arena.bed.dir.join("dev");
    fs::create_dir(&dev).unwrap();
    arena.without_mounts(&["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]).bind("dev", "/dev");
    arena.bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    arena.bed.config["linux"]["maskedPaths"] = json!([]);
    arena.script("readlink /proc/self/fd/0");
    let null = dev.join("null");
    let node = |kind, major, minor| {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, rustix::fs::makedev(major, minor)).unwrap();
    };
    use rustix::fs::FileType;
    let canary = arena.canary();
    let is_none = "/dev/null is not the device 1:3";
    let table: [(&str, &dyn Fn()); 7] = [
        (is_none, &|| fs::write(&null, "a file").unwrap()),
        (is_none, &|| node(FileType::Fifo, 0, 0)),
        (is_none, &|| node(FileType::CharacterDevice, 1, 5)),
        (is_none, &|| fs::hard_link(canary.join("file"), &null).unwrap()),
        ("ELOOP", &|| symlink(canary.join("file"), &null).unwrap()),
        ("ELOOP", &|| symlink("/proc/self/fd/0", &null).unwrap()),
        ("EISDIR", &|| fs::create_dir(&null).unwrap()),
    ];
    for (words, plant) in table {
        plant();
        arena.arm();
        let before = fs::symlink_metadata(&null).unwrap();
        arena.everywhere(|outcome| outcome.refused_with(words));
        let after = fs::symlink_metadata(&null).unwrap();
        assert_eq!((before.uid(), before.mtime(), before.mode()), (after.uid(), after.mtime(), after.mode()));
        let _ = fs::remove_file(&null).or_else(|_| fs::remove_dir(&null));
    }
    // The control: the device is taken, and keeps its owner.
    node(FileType::CharacterDevice, 1, 3);
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "/dev/null"));
    assert_eq!(fs::metadata(&null).unwrap().uid(), 0);
}

/// What an image can have in the place of the program. It never waits for one.
#[test]
fn entrypoints_that_are_none() {
    let mut arena = Arena::new("entrypoint");
    let at = arena.rootfs().join("entry");
    let executable = |text: &str| {
        fs::write(&at, text).unwrap();
        fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    let canary = arena.canary();
    let table: [(&str, &dyn Fn()); 10] = [
        ("permission denied", &|| {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("is a directory", &|| fs::create_dir(&at).unwrap()),
        ("permission denied", &|| fs::write(&at, "#!/bin/sh").unwrap()),
        ("exec format error", &|| executable("")),
        ("exec format error", &|| executable("\x7fELF and nothing more")),
        ("no such file or directory", &|| executable("#!/no/such/interpreter")),
        ("too many", &|| executable("#!/entry")),
        ("too many", &|| symlink("entry", &at).unwrap()),
        ("no such file or directory", &|| symlink(canary.join("dir/link"), &at).unwrap()),
        ("no such file or directory", &|| symlink(format!("{}/bin/busybox", "../".repeat(20) + "no"), &at).unwrap()),
    ];
    arena.bed.config["process"]["args"] = json!(["/entry"]);
    for (words, plant) in table {
        plant();
        arena.everywhere(|outcome| outcome.refused_with(words));
        let _ = fs::remove_file(&at).or_else(|_| fs::remove_dir(&at));
    }
    // The control.
    executable("#!/bin/sh\necho entered; echo END; exec sleep 1000\n");
    arena.everywhere(|outcome| assert_eq!(outcome.ran(), "entered"));
}
