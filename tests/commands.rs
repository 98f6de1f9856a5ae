//! The command line as engines and people use it: output, words, exit codes, the log.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use bed::{Bed, cgroup_of, tare};
use serde_json::{Value, json};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A call that must fail with status 1 and these words, and print nothing to standard output.
fn fails(bed: &Bed, args: &[&str], words: &str) {
    let out = bed.tare(args);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), ""), "{args:?}: {out:?}");
    assert!(text(&out.stderr).contains(words), "{args:?}: not {words:?} but {}", text(&out.stderr));
}

fn succeeds(bed: &Bed, args: &[&str]) -> String {
    let out = bed.tare(args);
    assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
    text(&out.stdout)
}

fn sleeping(name: &str) -> Bed {
    let mut bed = Bed::new(name);
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    bed
}

/// Waits until `state` tells this status.
fn until(bed: &Bed, status: &str) {
    let found = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        bed.status() == status
    });
    assert!(found, "{} and not {status}", bed.status());
}

#[test]
fn state_has_the_fields_of_runc_in_their_order() {
    let mut bed = sleeping("state");
    bed.config["annotations"] = json!({"a.b": "c"});
    let id = bed.id();
    assert_eq!(succeeds(&bed, &["create", "--pid-file", "pid", &id]), "");
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let state = succeeds(&bed, &["state", &id]);
    let created = serde_json::from_str::<Value>(&state).unwrap()["created"].as_str().unwrap().to_owned();
    let dir = bed.dir.display();
    let want = |pid: &str, status: &str| {
        format!(
            "{{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"{id}\",\n  \"pid\": {pid},\n  \"status\": \"{status}\",\n  \
             \"bundle\": \"{dir}\",\n  \"rootfs\": \"{dir}/rootfs\",\n  \"created\": \"{created}\",\n  \
             \"annotations\": {{\n    \"a.b\": \"c\"\n  }},\n  \"owner\": \"\"\n}}\n"
        )
    };
    assert_eq!(state, want(&pid, "created"));
    // Not even with --debug anything on standard error: callers read it as one text with the output.
    assert_eq!(succeeds(&bed, &["--debug", "state", &id]), state);
    // RFC 3339 in UTC: 2026-01-02T03:04:05.678Z
    assert!(created.len() > 20 && created.as_bytes()[10] == b'T' && created.ends_with('Z'), "{created}");
    assert_eq!(succeeds(&bed, &["start", &id]), "");
    assert_eq!(succeeds(&bed, &["state", &id]), want(&pid, "running"));
    succeeds(&bed, &["kill", &id, "KILL"]);
    until(&bed, "stopped");
    assert_eq!(succeeds(&bed, &["state", &id]), want("0", "stopped"));
    // The configuration as it was at create.
    bed.config["annotations"] = json!({"a.b": "later"});
    assert_eq!(succeeds(&bed, &["state", &id]), want("0", "stopped"));
    bed.delete();
    bed.config.as_object_mut().unwrap().remove("annotations");
    bed.detached(&[]);
    assert!(!succeeds(&bed, &["state", &id]).contains("annotations"));
}

#[test]
fn list_in_every_form() {
    let bed = sleeping("list");
    let (one, two) = (format!("{}-one", bed.id()), format!("{}-two", bed.id()));
    let heads = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
    assert_eq!(succeeds(&bed, &["list"]), heads);
    assert_eq!(succeeds(&bed, &["list", "--format=json"]), "null\n");
    assert_eq!(succeeds(&bed, &["list", "-q"]), "");
    succeeds(&bed, &["create", &two]);
    succeeds(&bed, &["run", "-d", &one]);
    // What other runtimes keep in the same root, and what is no directory at all.
    let state = bed.dir.join("state");
    fs::create_dir(state.join("foreign")).unwrap();
    fs::write(state.join("foreign/state.json"), "{}").unwrap();
    fs::write(state.join("file"), "").unwrap();
    assert_eq!(succeeds(&bed, &["list", "-q"]), format!("{one}\n{two}\n"));
    let objects: Vec<Value> = serde_json::from_str(&succeeds(&bed, &["list", "-f", "json"])).unwrap();
    let fields = |key: &str| objects.iter().map(|o| o[key].clone()).collect::<Vec<_>>();
    assert_eq!(fields("id"), [json!(one), json!(two)]);
    assert_eq!(fields("status"), [json!("running"), json!("created")]);
    assert_eq!(fields("owner"), [json!("root"), json!("root")]);
    let mut of_state: Value = serde_json::from_str(&succeeds(&bed, &["state", &one])).unwrap();
    of_state["owner"] = json!("root");
    assert_eq!(objects[0], of_state);
    let table = succeeds(&bed, &["list"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let pid = objects[0]["pid"].to_string();
    let (dir, created) = (bed.dir.display().to_string(), objects[0]["created"].as_str().unwrap());
    assert_eq!(rows[1], [one.as_str(), &pid, "running", &dir, created, "root"]);
    assert_eq!((rows.len(), rows[2][0], rows[2][2]), (3, two.as_str(), "created"));
    // Columns three spaces apart.
    let column = |line: &str| line.find(if line.starts_with("ID") { "PID" } else { pid.as_str() });
    let lines: Vec<_> = table.lines().collect();
    assert_eq!((column(lines[0]), column(lines[1])), (Some(one.len() + 3), Some(one.len() + 3)), "{table}");
    // The foreign one is left alone, whatever is asked.
    for args in [&["state", "foreign"][..], &["kill", "foreign", "9"], &["delete", "foreign"], &["start", "foreign"]] {
        fails(&bed, args, "container does not exist");
    }
    fails(&bed, &["delete", "--force", "foreign"], "holds files that are not tare's");
    fails(&bed, &["create", "foreign"], "container with given ID already exists");
    assert_eq!(fs::read_to_string(state.join("foreign/state.json")).unwrap(), "{}");
    for id in [&one, &two] {
        succeeds(&bed, &["delete", "-f", id]);
    }
}

#[test]
fn kill_in_every_form() {
    let mut bed = Bed::new("kill");
    let id = bed.id();
    bed.shell("for s in TERM USR1 HUP; do trap \"echo $s\" $s; done; echo ready; while :; do sleep 0.02; done");
    let output = bed.dir.join("log-of-container");
    let file = fs::File::create(&output).unwrap();
    assert!(bed.command(&["run", "--detach", &id]).stdout(file).stderr(Stdio::null()).status().unwrap().success());
    let wait_for = |lines: &str| {
        for _ in 0..500 {
            if fs::read_to_string(&output).unwrap() == lines {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{:?} and not {lines:?}", fs::read_to_string(&output).unwrap());
    };
    let mut lines = "ready\n".to_owned();
    wait_for(&lines);
    // The default, names in every form, numbers, and all processes of the container.
    for (args, name) in [
        (&["kill", &id][..], "TERM"),
        (&["kill", &id, "USR1"], "USR1"),
        (&["kill", &id, "SIGUSR1"], "USR1"),
        (&["kill", &id, "sighup"], "HUP"),
        (&["kill", &id, "1"], "HUP"),
        (&["kill", "-a", &id, "HUP"], "HUP"),
        (&["kill", "--all", &id, "15"], "TERM"),
    ] {
        assert_eq!(succeeds(&bed, args), "");
        lines += &format!("{name}\n");
        wait_for(&lines);
    }
    succeeds(&bed, &["kill", &id, "0"]);
    for bad in ["BOGUS", "99", "-9", "", "SIG", "9x"] {
        fails(&bed, &["kill", &id, bad], &format!("unknown signal {bad:?}"));
    }
    // After the id everything is an argument.
    fails(&bed, &["kill", &id, "--all"], "unknown signal \"--all\"");
    fails(&bed, &["kill", &id, "9", "9"], "error: ");
    fails(&bed, &["kill", "nobody", "9"], "container does not exist");
    wait_for(&lines);
    succeeds(&bed, &["kill", "--all", &id, "KILL"]);
    until(&bed, "stopped");
    for signal in ["KILL", "0", "TERM"] {
        fails(&bed, &["kill", &id, signal], "container not running");
    }
    // What is left of a container, if anything, is signalled.
    succeeds(&bed, &["kill", "--all", &id, "KILL"]);
    succeeds(&bed, &["delete", &id]);
    fails(&bed, &["kill", "--all", &id, "KILL"], "container does not exist");
}

#[test]
fn delete_in_every_form() {
    let bed = sleeping("delete");
    let id = bed.id();
    fails(&bed, &["delete", &id], "container does not exist");
    for flag in ["-f", "--force"] {
        assert_eq!(succeeds(&bed, &["delete", flag, &id]), "");
    }
    // Created: without force. Running: with.
    succeeds(&bed, &["create", &id]);
    succeeds(&bed, &["delete", &id]);
    bed.detached(&[]);
    fails(&bed, &["delete", &id], "cannot delete container that is not stopped: running");
    assert_eq!(bed.status(), "running");
    succeeds(&bed, &["delete", &id, "--force"]);
    fails(&bed, &["state", &id], "container does not exist");
    bed.detached(&[]);
    succeeds(&bed, &["kill", &id, "9"]);
    until(&bed, "stopped");
    succeeds(&bed, &["delete", &id]);
    assert!(!cgroup_of(&id).exists() && !bed.dir.join("state").join(&id).exists());
    for bad in ["..", ".", "a/b", "../x", "", "a b", "@tare", &"x".repeat(256)] {
        for args in
            [&["delete", "--force", bad][..], &["state", bad], &["start", bad], &["kill", bad], &["create", bad]]
        {
            fails(
                &bed,
                args,
                if bad.is_empty() { "container id cannot be empty" } else { "invalid container id format" },
            );
        }
    }
}

#[test]
fn words_that_engines_look_for() {
    let mut bed = sleeping("engine-words");
    let id = bed.id();
    for args in [&["state", &id][..], &["start", &id], &["kill", &id], &["delete", &id]] {
        fails(&bed, args, "container does not exist");
    }
    succeeds(&bed, &["create", &id]);
    fails(&bed, &["create", &id], "container with given ID already exists");
    succeeds(&bed, &["start", &id]);
    fails(&bed, &["start", &id], "cannot start an already running container");
    fails(&bed, &["delete", &id], "cannot delete container that is not stopped");
    succeeds(&bed, &["kill", &id, "KILL"]);
    until(&bed, "stopped");
    fails(&bed, &["start", &id], "cannot start a container that has stopped");
    fails(&bed, &["kill", &id, "KILL"], "container not running");
    bed.delete();
    let rootfs = bed.dir.join("rootfs");
    fs::write(rootfs.join("data"), "").unwrap();
    fs::write(rootfs.join("script"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(rootfs.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, words) in [
        ("nothing-of-this-name", "exec: \"nothing-of-this-name\": executable file not found in $PATH"),
        ("/no/such", "no such file or directory"),
        ("/data", "permission denied"),
        ("/bin", "is a directory"),
        ("/data/below", "not a directory"),
        ("/script", "no such file or directory"),
    ] {
        bed.config["process"]["args"] = json!([program]);
        fails(&bed, &["run", &id], words);
        // What can be known before start is known at create; what is not leaves a stopped container.
        if program != "/script" {
            fails(&bed, &["create", &id], words);
        } else {
            succeeds(&bed, &["create", &id]);
            fails(&bed, &["start", &id], words);
            assert_eq!(bed.status(), "stopped");
            bed.delete();
        }
    }
    bed.config["process"]["args"] = json!(["true"]);
    bed.mount("/data", "bind", "rootfs", &["bind"]);
    fails(&bed, &["create", &id], "not a directory");
    // Of no command or mount of the user's, so the words for those must not be in it.
    for args in [&["create", "--bundle", "/no/such", &id][..], &["create", "--bundle", "rootfs", &id]] {
        let out = bed.tare(args);
        assert!(text(&out.stderr).contains("ENOENT") && !text(&out.stderr).contains("no such file"), "{out:?}");
    }
}

#[test]
fn flags_and_arguments_in_any_order() {
    let bed = sleeping("order-of-flags");
    let id = bed.id();
    let dir = bed.dir.to_str().unwrap();
    let bundle = format!("--bundle={dir}");
    for args in [
        &["create", "--bundle", dir, "--pid-file", "p", &id][..],
        &["create", &id, &bundle, "--pid-file=p"],
        &["create", "--pid-file=p", &id, "-b", dir],
        // One dash for a long flag, as Go's programs have it.
        &["create", "-bundle", dir, "-pid-file=p", &id],
    ] {
        let _ = fs::remove_file(bed.dir.join("p"));
        succeeds(&bed, args);
        assert!(bed.dir.join("p").exists(), "{args:?}");
        succeeds(&bed, &["delete", &id, "-force"]);
    }
    succeeds(&bed, &["run", &id, "-d", "--no-subreaper", "--keep"]);
    bed.delete();
    succeeds(&bed, &["run", "-no-subreaper", "-detach", &id]);
    bed.delete();
    for args in [
        &["create"][..],
        &["create", &id, "more"],
        &["state"],
        &["kill"],
        &["list", "more"],
        &["bogus"],
        &["--bogus", "list"],
    ] {
        fails(&bed, args, "error: ");
    }
}

#[test]
fn root_may_be_relative() {
    let bed = sleeping("relative-root");
    let at = |dir: &str, args: &[&str]| -> Output {
        Command::new(tare()).args(args).current_dir(bed.dir.join(dir)).output().unwrap()
    };
    fs::write(bed.dir.join("config.json"), bed.config.to_string()).unwrap();
    let id = bed.id();
    // No output to wait for: the container keeps it open.
    let made = Command::new(tare())
        .args(["--root", "state", "create", &id])
        .current_dir(&bed.dir)
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    assert_eq!(text(&at("rootfs", &["--root", "../state", "list", "-q"]).stdout), format!("{id}\n"));
    assert_eq!(text(&at("rootfs", &["--root=state", "list", "-q"]).stdout), "");
    assert!(at("", &["--root", "./state/../state", "delete", &id]).status.success());
    // An empty $XDG_RUNTIME_DIR, or another one, is not real root's.
    let out = Command::new(tare()).args(["state", &id]).env("XDG_RUNTIME_DIR", &bed.dir).output().unwrap();
    assert!(text(&out.stderr).contains("container does not exist"), "{out:?}");
    assert!(!bed.dir.join("tare").exists());
}

#[test]
fn the_log_gets_one_line_for_every_failure() {
    let bed = sleeping("logs");
    let log = bed.dir.join("log");
    let (file, other) = (log.to_str().unwrap(), bed.dir.join("no/log"));
    for args in [
        &["state", "nobody"][..],                 // of the state
        &["create", "--bundle", "/no/such", "x"], // of the bundle
        &["create", "a/b"],
        &["create", "--console-socket", "s", "x"], // of a flag that does not fit
        &["bogus"],                                // of the command line
        &["create", "--preserve-fds=many", "x"],
        &["state"],
    ] {
        for form in ["json", "text"] {
            let _ = fs::remove_file(&log);
            let out = bed.tare(&[&["--log", file, "--log-format", form], args].concat());
            assert_eq!(out.status.code(), Some(1), "{args:?}");
            assert!(!out.stderr.is_empty());
            let line = fs::read_to_string(&log).unwrap();
            assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
            if form == "text" {
                assert!(line.starts_with("time=\"2") && line.contains("\" level=error msg=\""), "{line}");
                continue;
            }
            let object: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(object.as_object().unwrap().keys().collect::<Vec<_>>(), ["level", "msg", "time"]);
            assert_eq!(object["level"], "error");
            // The same words as for people.
            let first = object["msg"].as_str().unwrap().lines().next().unwrap();
            assert!(text(&out.stderr).contains(first), "{first}: {out:?}");
        }
    }
    // It is appended to, and it is there after a success, too.
    fs::write(&log, "before\n").unwrap();
    succeeds(&bed, &["--log", file, "list"]);
    bed.tare(&["--log", file, "state", "nobody"]);
    let lines = fs::read_to_string(&log).unwrap();
    assert!(lines.starts_with("before\n") && lines.lines().count() == 2, "{lines}");
    fs::remove_file(&log).unwrap();
    succeeds(&bed, &["--log", file, "list"]);
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    fails(&bed, &["--log", other.to_str().unwrap(), "list"], "--log: open the log");
    // Without a file, JSON goes to standard error.
    let out = bed.tare(&["--log-format=json", "state", "nobody"]);
    assert_eq!(serde_json::from_slice::<Value>(&out.stderr).unwrap()["msg"], "container does not exist");
    fails(&bed, &["--log-format", "xml", "list"], "invalid value 'xml'");
}

#[test]
fn warnings_are_in_the_log_only() {
    let mut bed = Bed::new("warnings");
    bed.config["process"]["args"] = json!(["true"]);
    bed.config["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    let id = bed.id();
    // Nothing on standard error: some callers read it together with the output.
    assert_eq!(succeeds(&bed, &["--log", "log", "--log-format", "json", "run", &id]), "");
    let log = fs::read_to_string(bed.dir.join("log")).unwrap();
    let levels: Vec<_> = log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["level"].clone()).collect();
    assert!(!levels.is_empty() && levels.iter().all(|l| l == "warning"), "{log}");
    // A failing create leaves its error alone: Podman reads the file as one object.
    fs::remove_file(bed.dir.join("log")).unwrap();
    bed.config["process"]["args"] = json!(["/no/such"]);
    fails(&bed, &["--log", "log", "--log-format", "json", "create", &id], "/no/such");
    let log = fs::read_to_string(bed.dir.join("log")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&log).unwrap()["level"], "error");
    // Less is written on demand.
    bed.config["process"]["args"] = json!(["true"]);
    fs::remove_file(bed.dir.join("log")).unwrap();
    succeeds(&bed, &["--log", "log", "--log-level=error", "run", &id]);
    assert_eq!(fs::read_to_string(bed.dir.join("log")).unwrap(), "");
}

#[test]
fn what_is_not_supported_is_said() {
    let bed = sleeping("not-yet");
    fails(&bed, &["create", "--console-socket", "s", &bed.id()], "cannot use console socket if tare will not detach");
    assert!(!bed.dir.join("state").join(bed.id()).exists());
}

#[test]
fn systemd_that_is_not_there() {
    let mut bed = sleeping("no-systemd");
    let id = bed.id();
    let listener = std::os::unix::net::UnixListener::bind(bed.dir.join("deaf")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop)); // hangs up on everybody
    for (flag, socket) in [("--systemd-cgroup", "none"), ("--cgroup-manager=systemd", "deaf")] {
        let address = format!("unix:path={}", bed.dir.join(socket).display());
        let out = bed.command(&[flag, "create", &id]).env("DBUS_SYSTEM_BUS_ADDRESS", &address).output().unwrap();
        let words = text(&out.stderr);
        assert!(!out.status.success());
        for part in
            ["--systemd-cgroup: start the unit tare-", &format!("connect to {address}"), "hint: systemd and its"]
        {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(!bed.dir.join("state").join(&id).exists(), "the state is left");
    }
    bed.config["linux"]["cgroupsPath"] = json!("/a/b");
    fails(&bed, &["--systemd-cgroup", "create", &id], "linux.cgroupsPath (/a/b): expected cgroupsPath to be of format");
    assert!(!bed.dir.join("state").join(&id).exists());
}

#[test]
fn without_cgroups() {
    let mut bed = sleeping("cgroup-none");
    let id = bed.id();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find(|l| l.starts_with("0::")).unwrap();
    succeeds(&bed, &["--cgroup-manager=disabled", "run", "-d", "--pid-file", "pid", &id]);
    let pid = fs::read_to_string(bed.dir.join("pid")).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.lines().any(|l| l == own), "{cgroup}");
    assert!(!cgroup_of(&id).exists());
    fails(&bed, &["kill", "--all", &id, "KILL"], "--all: the container has no cgroup");
    // Later calls know it without the flag.
    succeeds(&bed, &["kill", &id, "KILL"]);
    until(&bed, "stopped");
    succeeds(&bed, &["delete", &id]);
    bed.detached(&[]);
    assert!(cgroup_of(&id).exists());
    bed.config["process"]["args"] = json!(["true"]);
    for flag in ["--cgroup-manager=cgroupfs", "--rootless=true", "--rootless=false", "--rootless=auto", "--rootless"] {
        bed.delete();
        succeeds(&bed, &[flag, "run", &id]);
    }
}

#[test]
fn version_features_and_help() {
    let versions: [&[&str]; 5] =
        [&["--version"], &["-v"], &["-version"], &["--debug", "--root", "/x", "--version"], &["--root=/x", "-v"]];
    for flags in versions {
        let out = Command::new(tare()).args(flags).env_clear().output().unwrap();
        let lines = text(&out.stdout);
        let lines: Vec<_> = lines.lines().collect();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        assert_eq!(lines[0], format!("tare version {}", env!("CARGO_PKG_VERSION")));
        assert!(lines[1].starts_with("commit: ") && lines[2].starts_with("spec: 1."), "{lines:?}");
    }
    // Not a flag, but what the container is to be sent.
    let out = Command::new(tare()).args(["--root=/no/such", "kill", "x", "-v"]).output().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty(), "{out:?}");
    let out = Command::new(tare()).arg("features").env_clear().output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let features: Value = serde_json::from_slice(&out.stdout).unwrap();
    for pointer in [
        "/ociVersionMin",
        "/ociVersionMax",
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/cgroup/v2",
        "/linux/mountExtensions/idmap",
    ] {
        assert!(features.pointer(pointer).is_some(), "{pointer} is missing: {features}");
    }
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
    for command in ["create", "start", "run", "state", "list", "kill", "delete", "spec", "features", "plan"] {
        let out = Command::new(tare()).args([command, "--help"]).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty() && text(&out.stdout).contains("Usage: tare "), "{out:?}");
    }
}

#[test]
fn spec_writes_a_file_once() {
    let bed = Bed::new("spec");
    fails(&bed, &["spec"], "config.json exists. Remove it first");
    fs::remove_file(bed.dir.join("config.json")).unwrap();
    let spec = || Command::new(tare()).arg("spec").current_dir(&bed.dir).output().unwrap();
    assert!(spec().status.success());
    let written = fs::read_to_string(bed.dir.join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap()["process"]["args"], json!(["sh"]));
    assert_eq!(spec().status.code(), Some(1));
    assert_eq!(fs::read_to_string(bed.dir.join("config.json")).unwrap(), written);
    fails(&bed, &["spec", "--bundle", "/no/such"], "--bundle: write config.json");
}

#[test]
fn plan_needs_no_root_and_changes_nothing() {
    let bed = sleeping("plan");
    fs::write(bed.dir.join("config.json"), bed.config.to_string()).unwrap();
    fs::set_permissions(&bed.dir, fs::Permissions::from_mode(0o755)).unwrap();
    // The binary may lie where nobody else may go.
    let copy = bed.dir.join("tare");
    fs::copy(tare(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let plan = |args: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
        Command::new("setpriv").args(nobody).arg(&copy).arg("plan").args(args).current_dir(&bed.dir).output().unwrap()
    };
    let mounts = bed.host_mounts();
    let out = plan(&["some-id"]);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let steps = text(&out.stdout);
    for words in
        ["container some-id\n", "clone3(", "mounts[0] (/proc)", "linux.maskedPaths[0]", "pivot_root", "execve()"]
    {
        assert!(steps.contains(words), "{words}: {steps}");
    }
    let out = plan(&["--json", "some-id"]);
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["id"], "some-id");
    let last = json["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["by"], &last["op"]["do"]), (&json!("child"), &json!("exec")), "{last}");
    // The same steps.
    assert!(steps.matches(" — ").count() >= json["steps"].as_array().unwrap().len());
    assert_eq!(bed.host_mounts(), mounts);
    assert!(!cgroup_of("some-id").exists() && !bed.dir.join("state").exists());
    let out = plan(&["--bundle", "/no/such"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}
