//! What config.json's `mounts` become, as the container's process sees them: options, file systems, sources, targets.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use bed::{Bed, all, mounted, mounts};
use serde_json::json;

/// A flag that all mounts of the bed's own host have, or none of them: `plain` and `flagged`, each with a mount below.
fn sources(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.own_host();
    bed.on_host(
        "for s in plain flagged; do
           mkdir $s; mount -t tmpfs $s $s; mkdir $s/sub; mount -t tmpfs sub $s/sub
         done
         for m in flagged/sub flagged; do mount -o remount,bind,ro,nosuid,nodev,noexec,noatime,nodiratime $m; done",
    );
    bed
}

const FLAGGED: &str = "ro,nosuid,nodev,noexec,noatime,nodiratime";

#[test]
fn every_flag_of_a_bind_mount_and_its_opposite() {
    let without = |flag: &str| FLAGGED.split(',').filter(|f| *f != flag).collect::<Vec<_>>().join(",");
    let mut table: Vec<(&str, &[&str], String)> = vec![
        ("plain", &[], "rw,relatime".into()),
        ("plain", &["defaults"], "rw,relatime".into()),
        ("plain", &["ro"], "ro,relatime".into()),
        ("plain", &["nosuid"], "rw,nosuid,relatime".into()),
        ("plain", &["nodev"], "rw,nodev,relatime".into()),
        ("plain", &["noexec"], "rw,noexec,relatime".into()),
        ("plain", &["noatime"], "rw,noatime".into()),
        ("plain", &["strictatime"], "rw".into()),
        ("plain", &["nodiratime"], "rw,nodiratime,relatime".into()),
        ("plain", &["nosymfollow"], "rw,relatime,nosymfollow".into()),
        // The last word wins.
        ("plain", &["ro", "nosuid", "rw"], "rw,nosuid,relatime".into()),
        ("plain", &["noexec", "exec", "noexec"], "rw,noexec,relatime".into()),
        ("plain", &["nosymfollow", "symfollow", "ro"], "ro,relatime".into()),
        // Of the file system, not of a mount: without effect, as with runc.
        ("plain", &["sync", "dirsync", "mand", "lazytime", "ro"], "ro,relatime".into()),
        // A bind mount has the flags of its source but for those that are named.
        ("flagged", &[], FLAGGED.into()),
        ("flagged", &["nosymfollow"], format!("{FLAGGED},nosymfollow")),
        ("flagged", &["rw"], FLAGGED.replace("ro,", "rw,")),
        ("flagged", &["suid"], without("nosuid")),
        ("flagged", &["dev"], without("nodev")),
        ("flagged", &["exec"], without("noexec")),
        ("flagged", &["diratime"], without("nodiratime")),
        ("flagged", &["strictatime"], without("noatime")),
    ];
    for word in ["atime", "relatime"] {
        table.push(("flagged", if word == "atime" { &["atime"] } else { &["relatime"] }, {
            FLAGGED.replace("noatime,nodiratime", "nodiratime,relatime")
        }));
    }
    let mut bed = sources("flags");
    for (i, (source, words, _)) in table.iter().enumerate() {
        bed.mount(&format!("/m/{i}"), "bind", source, &[&["bind"], *words].concat());
    }
    bed.shell("cat /proc/self/mountinfo");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        for (i, (source, words, want)) in table.iter().enumerate() {
            assert_eq!(mounted(&stdout, &format!("/m/{i}")).options, *want, "{source} {words:?}");
        }
    }
}

#[test]
fn recursive_words_reach_the_mounts_below() {
    // The words, then the options of the top and of what is mounted below it.
    let table: &[(&str, &[&str], &str, &str)] = &[
        ("plain", &["ro"], "ro,relatime", "rw,relatime"),
        ("plain", &["rro"], "ro,relatime", "ro,relatime"),
        (
            "plain",
            &["rnosuid", "rnodev", "rnoexec"],
            "rw,nosuid,nodev,noexec,relatime",
            "rw,nosuid,nodev,noexec,relatime",
        ),
        ("plain", &["rnoatime", "rnodiratime"], "rw,noatime,nodiratime", "rw,noatime,nodiratime"),
        ("plain", &["rstrictatime"], "rw", "rw"),
        ("plain", &["rnosymfollow"], "rw,relatime,nosymfollow", "rw,relatime,nosymfollow"),
        // Whatever their order, the recursive word is the stronger.
        ("plain", &["rro", "rw"], "ro,relatime", "ro,relatime"),
        ("plain", &["ro", "rrw"], "rw,relatime", "rw,relatime"),
        ("flagged", &["rrw", "rsuid", "rdev", "rexec"], "rw,noatime,nodiratime", "rw,noatime,nodiratime"),
        ("flagged", &["rrelatime", "rdiratime"], "ro,nosuid,nodev,noexec,relatime", "ro,nosuid,nodev,noexec,relatime"),
        ("flagged", &["rw"], "rw,nosuid,nodev,noexec,noatime,nodiratime", FLAGGED),
    ];
    let mut bed = sources("recursive");
    for (i, (source, words, ..)) in table.iter().enumerate() {
        bed.mount(&format!("/m/{i}"), "bind", source, &[&["rbind"], *words].concat());
    }
    bed.mount("/m/alone", "bind", "plain", &["bind", "rro"]);
    bed.shell("cat /proc/self/mountinfo");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        for (i, (source, words, top, below)) in table.iter().enumerate() {
            assert_eq!(mounted(&stdout, &format!("/m/{i}")).options, *top, "{source} {words:?}");
            assert_eq!(mounted(&stdout, &format!("/m/{i}/sub")).options, *below, "{source} {words:?}");
        }
        assert_eq!(mounted(&stdout, "/m/alone").options, "ro,relatime");
        assert!(!stdout.contains("/m/alone/sub"), "bind took what is mounted below: {stdout}");
    }
}

#[test]
fn options_of_a_tmpfs() {
    let mut bed = Bed::new("tmpfs");
    fs::create_dir_all(bed.dir.join("rootfs/was")).unwrap();
    fs::set_permissions(bed.dir.join("rootfs/was"), fs::Permissions::from_mode(0o1751)).unwrap();
    bed.mount("/t/all", "tmpfs", "named", &["size=1m", "mode=0700", "nr_inodes=50", "uid=3", "gid=4", "noexec"]);
    bed.mount("/t/joined", "tmpfs", "tmpfs", &["size=64k,mode=711"]);
    bed.mount("/t/ro", "tmpfs", "tmpfs", &["ro", "nosuid"]);
    bed.mount("/t/in-ro/below", "tmpfs", "tmpfs", &[]);
    bed.mount("/t/sync", "tmpfs", "tmpfs", &["sync", "dirsync", "lazytime"]);
    bed.mount("/t/async", "tmpfs", "tmpfs", &["sync", "lazytime", "async", "nolazytime"]);
    bed.mount("/t/rro", "tmpfs", "tmpfs", &["rro", "rnosuid"]);
    bed.mount("/was", "tmpfs", "tmpfs", &[]);
    bed.shell(
        "stat -c '%n %a %u:%g' /t/all /t/joined /was; touch /t/ro/x 2>/dev/null || echo ro; cat /proc/self/mountinfo",
    );
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        let first: Vec<_> = stdout.lines().take(4).collect();
        // A tmpfs on a directory that is there has its mode.
        assert_eq!(first, ["/t/all 700 3:4", "/t/joined 711 0:0", "/was 1751 0:0", "ro"]);
        let at = |path| mounted(&stdout, path);
        assert_eq!((at("/t/all").source.as_str(), at("/t/all").options.as_str()), ("named", "rw,noexec,relatime"));
        for word in ["size=1024k", "nr_inodes=50", "mode=700"] {
            assert!(at("/t/all").super_options.split(',').any(|o| o == word), "{word}: {:?}", at("/t/all"));
        }
        assert!(at("/t/joined").super_options.contains("size=64k"), "{:?}", at("/t/joined"));
        assert_eq!(at("/t/ro").options, "ro,nosuid,relatime");
        assert_eq!(at("/t/rro").options, "ro,nosuid,relatime");
        assert!(at("/t/sync").super_options.starts_with("rw,sync,dirsync,lazytime"), "{:?}", at("/t/sync"));
        assert!(!at("/t/async").super_options.contains("sync"), "{:?}", at("/t/async"));
        assert!(!at("/t/async").super_options.contains("lazytime"), "{:?}", at("/t/async"));
    }
}

#[test]
fn a_read_only_tmpfs_takes_targets_before_it_is_read_only() {
    let mut bed = Bed::new("late");
    bed.mount("/late", "tmpfs", "tmpfs", &["ro"]);
    bed.mount("/late/deep/below", "tmpfs", "tmpfs", &[]);
    bed.mount("/late/file", "bind", "config.json", &["bind"]);
    bed.shell(
        "touch /late/x 2>/dev/null || echo ro; touch /late/deep/below/x && echo rw; grep -c ociVersion /late/file",
    );
    all(bed.run(), 0, "ro\nrw\n1");
}

#[test]
fn tmpcopyup_takes_all_that_the_image_has_there() {
    let mut bed = Bed::new("copyup");
    let image = bed.dir.join("rootfs/image");
    fs::create_dir_all(image.join("dir/deeper")).unwrap();
    fs::write(image.join("dir/deeper/file"), "text").unwrap();
    fs::write(image.join("suid"), "x").unwrap();
    fs::write(image.join("empty"), "").unwrap();
    symlink("dir/deeper/file", image.join("link")).unwrap();
    symlink("/no/where", image.join("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, image.join("fifo"), rustix::fs::FileType::Fifo, 0o604.into(), 0).unwrap();
    for (name, owner, mode) in
        [("suid", 12, 0o4755), ("dir", 13, 0o2750), ("dir/deeper/file", 14, 0o640), (".", 15, 0o1753)]
    {
        chown(image.join(name), Some(owner), Some(owner + 1)).unwrap();
        fs::set_permissions(image.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    bed.mount("/image", "tmpfs", "tmpfs", &["tmpcopyup", "nosuid"]);
    // A directory that is made for it has nothing to copy.
    bed.mount("/new", "tmpfs", "tmpfs", &["tmpcopyup"]);
    bed.shell(
        "cd /image; stat -c '%n %F %a %u:%g' . dir dir/deeper/file suid empty fifo; readlink link; readlink dangling; cat link; \
         echo more >> link && rm -f suid; ls / /new | grep -c new",
    );
    let image_is = ". directory 1753 0:0\ndir directory 2750 13:14\ndir/deeper/file regular file 640 14:15\n\
        suid regular file 4755 12:13\nempty regular empty file 644 0:0\nfifo fifo 604 0:0\n\
        dir/deeper/file\n/no/where\ntext";
    symlink("busybox", bed.dir.join("rootfs/bin/rm")).unwrap();
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    }
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.starts_with(image_is), "{stdout}{stderr}");
    }
    assert_eq!(fs::read_to_string(image.join("link")).unwrap(), "text", "the image itself was written");
    assert!(image.join("suid").exists());
}

#[test]
fn kernel_file_systems() {
    let mut bed = Bed::new("kernel-fs");
    bed.mount("/p", "proc", "proc", &["hidepid=2", "nosuid"]);
    bed.shell(
        "cat /proc/self/mountinfo; stat -c '%a %g' /dev/pts/ptmx; readlink /dev/ptmx; ls /proc | grep -c '^[0-9]'; ls /sys/class/net; \
         touch /sys/x 2>/dev/null || echo ro; touch /dev/mqueue/q && ls /dev/mqueue",
    );
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        let at = |path: &str| {
            let m = mounted(&stdout, path);
            (m.fstype, m.source, m.options, m.super_options)
        };
        let (proc, pts, mqueue, sys) = (at("/proc"), at("/dev/pts"), at("/dev/mqueue"), at("/sys"));
        assert_eq!((proc.0.as_str(), proc.1.as_str(), proc.2.as_str()), ("proc", "proc", "rw,relatime"));
        assert_eq!((pts.0.as_str(), pts.2.as_str()), ("devpts", "rw,nosuid,noexec,relatime"));
        for word in ["gid=5", "mode=620", "ptmxmode=666"] {
            assert!(pts.3.split(',').any(|o| o == word), "{pts:?}");
        }
        assert_eq!((mqueue.0.as_str(), mqueue.2.as_str()), ("mqueue", "rw,nosuid,nodev,noexec,relatime"));
        assert_eq!((sys.0.as_str(), sys.2.as_str()), ("sysfs", "ro,nosuid,nodev,noexec,relatime"));
        assert_eq!(at("/dev").0, "tmpfs");
        assert_eq!(at("/dev/shm").0, "tmpfs");
        assert!(at("/p").3.contains("hidepid="), "{:?}", at("/p"));
        let rest: Vec<_> = stdout.lines().filter(|l| !l.contains(" - ")).collect();
        // The shell, and the programs of the pipe; nobody of the host.
        assert_eq!((rest[0], rest[1]), ("666 0", "pts/ptmx"));
        assert!((1..=4).contains(&rest[2].parse::<u32>().unwrap()), "{rest:?}");
        assert_eq!(&rest[3..], ["lo", "ro", "q"]);
    }
}

#[test]
fn cgroup_with_and_without_a_namespace() {
    for namespace in [true, false] {
        for access in ["ro", "rw"] {
            let mut bed = Bed::new(&format!("cgroup-{namespace}-{access}"));
            let list = bed.config["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|n| namespace || n["type"] != "cgroup");
            for mount in bed.config["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", access]);
                }
            }
            let own = if namespace { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{}", bed.id()) };
            bed.shell(&format!(
                "grep ' /sys/fs/cgroup ' /proc/self/mountinfo; grep '^0::' /proc/self/cgroup; cat {own}/cgroup.procs | head -n 1; \
                 mkdir {own}/sub 2>/dev/null && echo made; true"
            ));
            bed.config["process"]["args"][2] =
                json!(bed.config["process"]["args"][2].as_str().unwrap().to_owned() + "; true");
            for (code, stdout, stderr) in bed.run() {
                assert_eq!(code, 0, "{stderr}");
                let mount = mounted(&stdout, "/sys/fs/cgroup");
                assert_eq!(
                    (mount.fstype.as_str(), mount.options),
                    ("cgroup2", format!("{access},nosuid,nodev,noexec,relatime"))
                );
                let rest: Vec<_> = stdout.lines().skip(1).collect();
                let path = if namespace { "0::/".to_owned() } else { format!("0::/{}", bed.id()) };
                let mut want = vec![path.as_str(), "1"];
                want.extend((access == "rw").then_some("made"));
                assert_eq!(rest, want, "{namespace} {access}: {stderr}");
            }
        }
    }
}

#[test]
fn targets_are_made_as_the_source_is() {
    let mut bed = Bed::new("targets");
    fs::create_dir_all(bed.dir.join("dir")).unwrap();
    fs::write(bed.dir.join("dir/f"), "from dir").unwrap();
    fs::write(bed.dir.join("file"), "from file").unwrap();
    fs::create_dir_all(bed.dir.join("rootfs/there")).unwrap();
    fs::write(bed.dir.join("rootfs/covered"), "image").unwrap();
    bed.mount("/made/by/tare", "bind", "dir", &["bind"]);
    bed.mount("/made/as/file", "bind", "file", &["bind", "ro"]);
    bed.mount("/covered", "bind", "file", &["bind"]);
    // Without a type the option says what it is; a destination without a slash counts from the root.
    bed.mount("there", "", "dir", &["rbind"]);
    bed.mount("/there/../up", "none", "dir", &["rbind"]);
    bed.shell("cat /made/by/tare/f /made/as/file /covered /there/f /up/f; stat -c %a /made /made/by; stat -c '%F' /made/as/file");
    all(bed.run(), 0, "from dirfrom filefrom filefrom dirfrom dir755\n755\nregular file");
    let kind = fs::metadata(bed.dir.join("rootfs/made/as/file")).unwrap();
    assert!(kind.is_file() && kind.len() == 0, "{kind:?}");
}

#[test]
fn what_cannot_be_mounted_is_told_with_its_place() {
    // Destination, type, source, options; the words.
    let table: &[(&str, &str, &str, &[&str], &str)] = &[
        ("/image/dir", "bind", "file", &["bind"], "not a directory"),
        ("/image/file", "bind", "dir", &["bind"], "not a directory"),
        ("/x", "bind", "no-such", &["bind"], "no such file or directory"),
        ("/x", "nosuchfs", "nosuchfs", &[], "no such device"),
        ("/x", "tmpfs", "tmpfs", &["size=many"], "invalid argument"),
        ("/x", "tmpfs", "tmpfs", &["nonsense"], "unknown option \"nonsense\" of tmpfs"),
        ("/x", "bind", "dir", &["bind", "size=1m"], "unknown option \"size\""),
        ("/proc/sys", "bind", "dir", &["bind"], "/proc/sys cannot be mounted because it is inside /proc"),
        ("/proc", "tmpfs", "tmpfs", &[], "/proc cannot be mounted because it is not of type proc"),
        ("/proc", "bind", "dir", &["bind"], "/proc cannot be mounted because it is not of type proc"),
        ("/", "tmpfs", "tmpfs", &[], "cannot cover the root"),
    ];
    let mut bed = Bed::new("wrong");
    fs::create_dir_all(bed.dir.join("dir")).unwrap();
    fs::write(bed.dir.join("file"), "").unwrap();
    fs::create_dir_all(bed.dir.join("rootfs/image/dir")).unwrap();
    fs::write(bed.dir.join("rootfs/image/file"), "").unwrap();
    bed.shell("true");
    let usual = bed.config["mounts"].clone();
    for (destination, typ, source, options, words) in table {
        bed.config["mounts"] = usual.clone();
        bed.mount(destination, typ, source, options);
        let place = format!("mounts[{}]", usual.as_array().unwrap().len());
        for (code, stdout, stderr) in bed.run() {
            assert_eq!(code, 1, "{destination} {options:?}: {stdout}");
            assert!(stderr.contains(words) && stderr.contains(&place), "{destination} {options:?}: {stderr}");
            if words.contains("not a directory") {
                assert!(stderr.contains("hint: a file"), "{stderr}");
            }
        }
    }
}

#[test]
fn links_as_source_and_target() {
    let mut bed = Bed::new("links");
    fs::create_dir_all(bed.dir.join("dir")).unwrap();
    fs::write(bed.dir.join("dir/f"), "d").unwrap();
    fs::write(bed.dir.join("file"), "f").unwrap();
    symlink("dir", bed.dir.join("to-dir")).unwrap();
    symlink("somewhere/else", bed.dir.join("to-nothing")).unwrap();
    let rootfs = bed.dir.join("rootfs");
    fs::create_dir_all(rootfs.join("real")).unwrap();
    symlink("real", rootfs.join("link")).unwrap();
    symlink("real", rootfs.join("covered")).unwrap();
    symlink("nothing", rootfs.join("dangling")).unwrap();
    symlink("somewhere/else", rootfs.join("same")).unwrap();
    // Ordinary: both are followed, the target's inside the rootfs.
    bed.mount("/link/a", "bind", "to-dir", &["bind"]);
    // The link itself, mounted on a link.
    bed.mount("/covered", "bind", "to-nothing", &["bind", "src-nofollow", "dest-nofollow"]);
    // A target that is no link is an ordinary one.
    bed.mount("/plain", "bind", "file", &["bind", "dest-nofollow"]);
    // A link is made anew; what is no link is mounted.
    bed.mount("/copied/link", "bind", "to-nothing", &["bind", "copy-symlink"]);
    bed.mount("/same", "bind", "to-nothing", &["bind", "copy-symlink"]);
    bed.mount("/copied/file", "bind", "file", &["bind", "copy-symlink"]);
    bed.shell(
        "cat /real/a/f; readlink /covered; cat /plain; readlink /copied/link; readlink /same; cat /copied/file; echo; \
         grep -E ' /(real/a|covered|plain|copied/file|copied/link|same) ' /proc/self/mountinfo | busybox wc -l",
    );
    all(bed.run(), 0, "dsomewhere/else\nfsomewhere/else\nsomewhere/else\nf\n4");
    assert!(rootfs.join("real/a").is_dir(), "the target was not made behind the link");
    // Another link in its place is not taken for it.
    symlink("elsewhere", rootfs.join("other")).unwrap();
    bed.mount("/other", "bind", "to-nothing", &["bind", "copy-symlink"]);
    for (code, _, stderr) in bed.run() {
        assert_eq!(code, 1);
        assert!(stderr.contains("(/other)") && stderr.contains("file exists"), "{stderr}");
    }
}

#[test]
fn overlay_by_name() {
    let mut bed = Bed::new("overlay");
    bed.own_host();
    // An overlay cannot be the upper layer of another one, and /tmp may be one.
    bed.on_host("mkdir layers; mount -t tmpfs layers layers; mkdir layers/upper layers/work");
    let layers: Vec<String> = (0..20).map(|i| format!("{}/layers/lower-{i:02}", bed.dir.display())).collect();
    bed.on_host(&format!(
        "for l in {}; do mkdir $l; echo $l > $l/name; echo $l > $l/${{l##*-}}; done",
        layers.join(" ")
    ));
    let lower = |n: usize| format!("lowerdir={}", layers[..n].join(":"));
    assert!(lower(2).len() < 255 && lower(20).len() > 255, "{}", lower(2).len());
    let (upper, work) =
        (format!("upperdir={}/layers/upper", bed.dir.display()), format!("workdir={}/layers/work", bed.dir.display()));
    // What fsconfig(2) takes, and what only mount(2) does.
    for n in [2, 20] {
        bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "overlay");
        bed.mount("/o", "overlay", "overlay", &[&lower(n), &upper, &work, "nosuid"]);
        bed.mount("/ro", "overlay", "named", &[&lower(n), "ro"]);
        bed.shell("ls /o | grep -c '^[0-9]'; echo new > /o/new && cat /o/new; touch /ro/x 2>/dev/null || echo ro; grep -E ' /(o|ro) ' /proc/self/mountinfo");
        // A long option needs the host's paths in the container's process, so it cannot be had in the antechamber.
        let runs = if n == 2 { bed.run() } else { vec![once(&bed)] };
        for (code, stdout, stderr) in runs {
            assert_eq!(code, 0, "{n}: {stderr}");
            assert!(stdout.starts_with(&format!("{n}\nnew\nro\n")), "{n}: {stdout}{stderr}");
            assert_eq!(mounted(&stdout, "/o").options, "rw,nosuid,relatime");
            assert_eq!(
                (mounted(&stdout, "/ro").options.as_str(), mounted(&stdout, "/ro").source.as_str()),
                ("ro,relatime", "named")
            );
        }
        assert_eq!(bed.on_host("cat layers/upper/new"), "new\n");
    }
}

/// One run with the way to make the mount namespace left to tare.
fn once(bed: &Bed) -> (i32, String, String) {
    let before = bed.host_mounts();
    let out = bed.tare(&["run", &bed.id()]);
    assert_eq!(bed.host_mounts(), before, "something was left behind");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

#[test]
fn later_mounts_lie_on_earlier_ones() {
    let mut bed = Bed::new("order");
    for dir in ["one", "two"] {
        fs::create_dir_all(bed.dir.join(dir).join("sub")).unwrap();
        fs::write(bed.dir.join(dir).join("sub/name"), dir).unwrap();
    }
    bed.mount("/a", "bind", "one", &["bind", "ro"]);
    bed.mount("/a/sub", "bind", "two", &["bind"]);
    // The target of the second is hidden by the first, and is looked for in it.
    bed.mount("/b/sub", "bind", "one", &["bind"]);
    bed.mount("/b", "bind", "two", &["bind"]);
    bed.mount("/c", "bind", "one", &["bind"]);
    bed.mount("/c", "bind", "two", &["bind"]);
    bed.shell("ls /a /a/sub; cat /b/sub/name /c/sub/name");
    all(bed.run(), 0, "/a:\nsub\n\n/a/sub:\nsub\ntwotwo");
}

#[test]
fn remount_changes_what_is_there() {
    let mut bed = Bed::new("remount");
    bed.mount("/t", "tmpfs", "tmpfs", &["nosuid", "size=1m"]);
    bed.mount("/t", "", "", &["remount", "bind", "ro", "nosuid"]);
    bed.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = json!("/t");
    bed.shell("grep ' /t ' /proc/self/mountinfo");
    for (code, stdout, stderr) in bed.run() {
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(mounts(&stdout).len(), 1, "{stdout}");
        assert_eq!(mounted(&stdout, "/t").options, "ro,nosuid,relatime");
        assert!(mounted(&stdout, "/t").super_options.starts_with("rw,size=1024k"), "{stdout}");
    }
}

#[test]
fn read_only_root_and_paths() {
    let mut bed = Bed::new("readonly");
    fs::create_dir_all(bed.dir.join("rootfs/paths/below")).unwrap();
    fs::write(bed.dir.join("rootfs/paths/file"), "").unwrap();
    bed.mount("/mounted", "tmpfs", "tmpfs", &[]);
    bed.mount("/paths/below", "tmpfs", "tmpfs", &["mode=700"]);
    bed.config["linux"]["readonlyPaths"] = json!(["/paths", "/paths/file", "/mounted/none"]);
    let script = "for f in /x /mounted/x /paths/x /paths/below/x; do touch $f 2>/dev/null && echo $f; done; stat -c %a /paths/below";
    bed.shell(script);
    // A read-only path is so itself; what is mounted below stays as it was.
    all(bed.run(), 0, "/mounted/x\n/paths/below/x\n700");
    bed.config["root"]["readonly"] = json!(false);
    all(bed.run(), 0, "/x\n/mounted/x\n/paths/below/x\n700");
    fs::remove_file(bed.dir.join("rootfs/x")).unwrap();
    // Whatever names the root.
    for root in ["/", "/paths/..", "//."] {
        bed.config["linux"]["readonlyPaths"] = json!([root]);
        all(bed.run(), 0, "/mounted/x\n/paths/below/x\n700");
    }
}

#[test]
fn masked_paths_of_every_kind() {
    let mut bed = Bed::new("masks");
    let rootfs = bed.dir.join("rootfs");
    fs::create_dir_all(rootfs.join("dir/sub")).unwrap();
    fs::write(rootfs.join("dir/sub/file"), "secret").unwrap();
    fs::write(rootfs.join("file"), "secret").unwrap();
    symlink("file", rootfs.join("link")).unwrap();
    fs::write(rootfs.join("behind"), "secret").unwrap();
    bed.mount("/mounted", "tmpfs", "tmpfs", &[]);
    bed.config["linux"]["maskedPaths"] =
        json!(["/dir", "/file", "/none", "/none/below", "/file/below", "/link", "/mounted", "/dir"]);
    bed.shell(
        "ls -a /dir; cat /file /link; ls /mounted; touch /dir/x 2>&1; stat -c '%F %t:%T' /file; stat -c %a /dir; ls / | grep -c none; \
         grep -E ' /(dir|mounted) ' /proc/self/mountinfo | grep -c 'ro,'",
    );
    all(bed.run(), 0, ".\n..\ntouch: /dir/x: Read-only file system\ncharacter special file 1:3\n755\n0\n3");
    assert_eq!(fs::read_to_string(rootfs.join("file")).unwrap(), "secret");
}

#[test]
fn without_pivot_root() {
    let mut bed = Bed::new("no-pivot");
    fs::create_dir_all(bed.dir.join("data")).unwrap();
    bed.mount("/data", "bind", "data", &["bind"]);
    bed.shell("touch /data/x /y 2>&1; ls -d /data/x; readlink /proc/self/root; busybox wc -l < /proc/self/mountinfo; cat /etc/hostname 2>&1");
    let before = bed.host_mounts();
    let out = bed.tare(&["run", "--no-pivot", &bed.id()]);
    assert_eq!(bed.host_mounts(), before);
    let stdout = String::from_utf8_lossy(&out.stdout);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[..3], ["touch: /y: Read-only file system", "/data/x", "/"], "{out:?}");
    assert!(lines[4].contains("No such file"), "the old root is in sight: {out:?}");
    let named = bed.tare(&["run", "--no-pivot", "--mount-namespace=antechamber", &bed.id()]);
    assert!(
        String::from_utf8_lossy(&named.stderr).contains("--mount-namespace: this container needs a copy"),
        "{named:?}"
    );
}

/// What monitors of a host ask for. The antechamber, which is kept below /run, is in no copy of it.
#[test]
fn all_of_the_host() {
    let mut bed = Bed::new("mounts-host");
    bed.own_host();
    bed.shell("true").prints(); // makes the antechamber
    assert!(bed.on_host("cat /proc/self/mountinfo").contains("/run/tare/@tare/antechamber/mnt"));
    bed.mount("/host", "bind", "/", &["rbind", "ro"]);
    bed.mount("/run", "bind", "/run", &["rbind"]);
    bed.shell("ls -d /host/proc/self/ns /run/tare; grep antechamber /proc/self/mountinfo; true");
    all(bed.run(), 0, "/host/proc/self/ns\n/run/tare");
    bed.nothing_left();
}

#[test]
fn nothing_is_mounted_without_a_mount_namespace() {
    let mut bed = Bed::new("no-namespace");
    bed.config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    bed.config.as_object_mut().unwrap().remove("hostname");
    let full = bed.config.clone();
    for field in ["mounts", "root.readonly", "linux.maskedPaths", "linux.readonlyPaths", "linux.rootfsPropagation"] {
        bed.config["mounts"] = json!([]);
        bed.config["root"]["readonly"] = json!(false);
        bed.config["linux"]["maskedPaths"] = json!([]);
        bed.config["linux"]["readonlyPaths"] = json!([]);
        let pointer = format!("/{}", field.replace('.', "/"));
        match full.pointer(&pointer) {
            Some(value) => *bed.config.pointer_mut(&pointer).unwrap() = value.clone(),
            None => bed.config["linux"]["rootfsPropagation"] = json!("slave"),
        }
        let before = bed.host_mounts();
        let out = bed.tare(&["run", &bed.id()]);
        assert_eq!((out.status.code(), bed.host_mounts()), (Some(1), before));
        let words = format!("{field}: needs a new mount namespace");
        assert!(String::from_utf8_lossy(&out.stderr).contains(&words), "{field}: {out:?}");
    }
}
