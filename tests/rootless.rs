//! Containers of an ordinary user, who has no capability on the host.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use bed::{Bed, cgroup_of, left_behind};
use serde_json::json;

const USER: u32 = 1000;

/// A bundle of the user's own, with what `tare spec --rootless` writes; tare is executed by the user.
fn bed_of_user(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    // Where the tests were built the user may have no access.
    let program = bed.dir.join("tare");
    fs::copy(bed::tare(), &program).unwrap();
    bed.program = Some(program);
    chown(&bed.dir, Some(USER), Some(USER)).unwrap();
    bed.own_rootfs(USER, USER);
    let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
    bed.through = ["setpriv", &user, &group, "--clear-groups"].map(str::to_owned).into();
    fs::remove_file(bed.dir.join("config.json")).unwrap();
    let out = Command::new("setpriv")
        .args(&bed.through[1..])
        .arg(bed.program.as_ref().unwrap())
        .args(["spec", "--rootless"])
        .current_dir(&bed.dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    bed.config = serde_json::from_slice(&fs::read(bed.dir.join("config.json")).unwrap()).unwrap();
    bed.config["process"]["terminal"] = json!(false);
    bed
}

#[test]
fn a_life_step_by_step_and_exec() {
    let before = left_behind();
    let mut bed = bed_of_user("user-life");
    for set in ["bounding", "effective", "permitted"] {
        bed.config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_CHOWN"]);
    }
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed.config["process"]["oomScoreAdj"] = json!(500);
    let id = bed.id();
    let ok = |args: &[&str]| {
        let out = bed.tare(args);
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    ok(&["create", "--pid-file", "pid", &id]);
    assert_eq!(bed.status(), "created");
    ok(&["start", &id]);
    assert_eq!(bed.status(), "running");
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), USER);
    assert_eq!(file("oom_score_adj"), "500\n");
    assert!(!cgroup_of(&id).exists(), "it has no right to make one");
    let status = |text: &str| {
        let wanted = |line: &&str| ["Uid", "Gid", "Groups", "Cap", "NoNew"].iter().any(|name| line.starts_with(name));
        text.lines().filter(wanted).map(str::to_owned).collect::<Vec<_>>()
    };
    let seen = ok(&["exec", &id, "sh", "-c", "cat /proc/1/status; echo ==; cat /proc/self/status"]);
    let (init, process) = seen.split_once("==").unwrap();
    assert_eq!(status(init), status(process));
    assert!(init.contains("CapPrm:\t0000000000000021") && init.contains("CapBnd:\t0000000000000021"), "{init}");
    assert_eq!(ok(&["exec", &id, "sh", "-c", "touch /dev/shm/x; stat -c %u:%g /dev/shm/x; id -u"]), "0:0\n0\n");
    let out = bed.tare(&["pause", &id]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("the container has no cgroup"), "{out:?}");
    ok(&["kill", &id, "KILL"]);
    bed.delete();
    assert_eq!(left_behind(), before);
    bed.nothing_left();
}

#[test]
fn one_id_that_is_root_inside() {
    let mut bed = bed_of_user("user-one");
    let home = bed.dir.join("data");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    bed.mount("/data", "bind", home.to_str().unwrap(), &["rbind"]);
    bed.config["root"]["readonly"] = json!(false);
    bed.shell(
        "id -u; cat /proc/self/uid_map /proc/self/setgroups; touch /data/new /file; stat -c %u:%g /data/new; \
         mount -t tmpfs none /data 2>&1; echo x > /dev/null; ls /proc/sys/kernel >/dev/null && hostname; \
         cat /etc/shadow 2>&1; ls -d /proc/[0-9]*",
    );
    let out = bed.tare(&["run", &bed.id()]);
    assert!(out.stderr.is_empty(), "{out:?}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let denied = "mount: permission denied (are you root?)";
    assert_eq!(seen[..6], ["0", "0 1000 1", "deny", "0:0", denied, "tare"], "{seen:#?}");
    assert_eq!(seen[seen.len() - 1].matches("/proc/").count(), 1, "{seen:#?}");
    assert_eq!(fs::metadata(home.join("new")).unwrap().uid(), USER);
    bed.nothing_left();
}

/// newuidmap and newgidmap, whose files are the test's own.
#[test]
fn subordinate_ids() {
    let helper = Path::new("/usr/bin/newuidmap");
    assert!(helper.exists(), "this test needs newuidmap and newgidmap (uidmap)");
    let mut bed = bed_of_user("user-many");
    bed.own_host();
    bed.on_host(
        "mkdir etc; cp /etc/passwd /etc/group etc; grep -q '^[^:]*:[^:]*:1000:' etc/passwd || \
         echo someone:x:1000:1000::/:/bin/sh >> etc/passwd; \
         name=$(sed -n 's/^\\([^:]*\\):[^:]*:1000:.*/\\1/p' etc/passwd); echo $name:400000:1000 > etc/subuid; \
         echo $name:500000:1000 > etc/subgid; for f in passwd subuid subgid; do touch /etc/$f; mount --bind etc/$f /etc/$f; done",
    );
    let mapped = |uid: u32, gid: u32| {
        let ids = |own: u32, first: u32| json!([{"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000}]);
        (ids(USER, uid), ids(USER, gid))
    };
    let map = |bed: &mut Bed, (uids, gids)| {
        bed.config["linux"]["uidMappings"] = uids;
        bed.config["linux"]["gidMappings"] = gids;
    };
    map(&mut bed, mapped(400_000, 500_000));
    bed.config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    bed.shell("id -u; id -G; cat /proc/self/uid_map /proc/self/gid_map; touch /dev/shm/x; stat -c %u:%g /dev/shm/x");
    let out = bed.tare(&["run", &bed.id()]);
    assert!(out.stderr.is_empty(), "{out:?}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(seen, ["7", "8 9", "0 1000 1", "1 400000 1000", "0 1000 1", "1 500000 1000", "7:8"]);

    map(&mut bed, mapped(400_001, 500_000));
    let out = bed.tare(&["run", &bed.id()]);
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(words.contains("linux.uidMappings: ") && words.contains("newuidmap"), "{words}");
    assert!(words.contains("/etc/subuid"), "{words}");
    map(&mut bed, mapped(400_000, 500_001));
    let words = String::from_utf8_lossy(&bed.tare(&["run", &bed.id()]).stderr).into_owned();
    assert!(words.contains("linux.gidMappings: ") && words.contains("newgidmap"), "{words}");
    bed.nothing_left();
}

#[test]
fn what_cannot_be_had_is_told() {
    let mut bed = bed_of_user("user-refused");
    bed.shell("true");
    let usual = bed.config.clone();
    let refused = |bed: &Bed, words: &[&str]| {
        let out = bed.tare(&["run", &bed.id()]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && words.iter().all(|w| text.contains(w)), "{words:?}: {text}");
        assert!(!bed.dir.join("state").join(bed.id()).exists(), "the state is left");
        bed.nothing_left();
    };
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "user");
    for list in ["uidMappings", "gidMappings"] {
        bed.config["linux"].as_object_mut().unwrap().remove(list);
    }
    refused(
        &bed,
        &[
            "linux.namespaces: ",
            "without CAP_SYS_ADMIN the container needs a new user namespace",
            "tare spec --rootless",
        ],
    );

    bed.config = usual.clone();
    bed.config["linux"]["uidMappings"][0]["hostID"] = json!(0);
    refused(&bed, &["linux.uidMappings: "]);

    // Nobody here has given the user a cgroup.
    bed.config = usual.clone();
    bed.config["linux"]["resources"] = json!({"pids": {"limit": 10}});
    refused(&bed, &["linux.cgroupsPath", "EACCES"]);
    bed.config = usual.clone();
    bed.config["linux"]["cgroupsPath"] = json!("/of-the-host");
    refused(&bed, &["linux.cgroupsPath", "EACCES"]);

    bed.config = usual;
    bed.config["process"]["oomScoreAdj"] = json!(-500);
    refused(&bed, &["process.oomScoreAdj: ", "EACCES"]);
}

/// As systemd gives one to a user's manager.
#[test]
fn in_a_cgroup_that_is_the_users() {
    let mut bed = bed_of_user("user-cgroup");
    let (slice, own) = (cgroup_of("tare-test-user-slice"), cgroup_of("tare-test-user-slice/session"));
    fs::create_dir_all(&own).unwrap();
    for dir in [&slice, &own] {
        chown(dir, Some(USER), Some(USER)).unwrap();
        for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(dir.join(file), Some(USER), Some(USER)).unwrap();
        }
    }
    let enter = format!("echo 0 > {}/cgroup.procs && exec \"$@\"", own.display());
    bed.through.splice(0..0, ["sh", "-c", &enter, "sh"].map(str::to_owned));
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed.config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let id = bed.id();
    bed.detached(&[]);
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let place = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
    assert!(place.contains(&format!("0::/tare-test-user-slice/{id}\n")), "{place}");
    for (command, status) in [("pause", "paused"), ("resume", "running")] {
        let out = bed.tare(&[command, &id]);
        assert!(out.status.success(), "{out:?}");
        assert_eq!(bed.status(), status);
    }
    let out = bed.tare(&["exec", &id, "cat", "/proc/self/cgroup"]);
    let inside = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(inside.contains(&format!("0::/tare-test-user-slice/{id}\n")) || inside.contains("0::/\n"), "{out:?}");
    let out = bed.tare(&["ps", &id]);
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 2, "{out:?}");
    bed.delete();
    assert!(!slice.join(&id).exists(), "the cgroup is left");
    fs::remove_dir(&own).unwrap();
    fs::remove_dir(&slice).unwrap();
    bed.nothing_left();
    assert_eq!(fs::metadata(&bed.dir).unwrap().permissions().mode() & 0o777, 0o755);
}
