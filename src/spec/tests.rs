//! What is refused, with the field it must name; what must pass; and that no field of runtime-spec 1.3 gets lost.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::schema::{CONFIG, Node};
use super::{check, parse};
use crate::error::Result;

const FULL: &str = include_str!("../../tests/data/full-1.3.json");

/// Parse and check, as a command does.
fn load(text: &str) -> (Result<Spec>, Vec<String>) {
    let mut log = Vec::new();
    let spec = parse(text, &mut log).and_then(|spec| check(&spec, &mut log).map(|()| spec));
    (spec, log)
}

/// A small configuration that passes.
fn base() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
        "linux": {"namespaces": [
            {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}
        ]},
    })
}

/// [`base`] with some fields set (a null takes one away), each by a path such as `linux.resources.cpu`.
fn with(fields: &[(&str, Value)]) -> String {
    let mut config = base();
    for (path, value) in fields {
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = parents.split('.').filter(|p| !p.is_empty()).fold(&mut config, |at, name| &mut at[name]);
        if value.is_null() {
            parent.as_object_mut().unwrap().remove(last);
        } else {
            parent[last] = value.clone();
        }
    }
    config.to_string()
}

/// One case a line: `FIELD SET = VALUE => FIELD NAMED: REASON`.
const REFUSED: &str = include_str!("../../tests/data/refused.txt");

/// What is amiss if the message is not `FIELD: … WHY …`, in one line.
fn amiss(text: &str, field: &str, why: &str) -> Option<String> {
    let error = match load(text).0 {
        Ok(_) => return Some(format!("{field}: {why}: passed\n")),
        Err(error) => error.to_string(),
    };
    let named = error.strip_prefix(field).is_some_and(|rest| rest.starts_with([':', ' ']) && rest.contains(why));
    let short = !error.contains(char::is_control) && error.chars().count() < 1000;
    if named && short { None } else { Some(format!("{field}: {why}: not in {error:?}\n")) }
}

#[test]
fn wrong_values_name_their_field() {
    let cases = REFUSED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut wrong = String::new();
    for case in cases.clone() {
        let (set, named) = case.split_once(" => ").unwrap();
        let (path, value) = set.split_once(" = ").unwrap();
        let (field, why) = named.split_once(':').unwrap();
        wrong.extend(amiss(&with(&[(path, serde_json::from_str(value).unwrap())]), field, why.trim()));
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases.count() >= 60);
}

/// What needs a namespace of the container's own, without it.
#[test]
fn impossible_combinations() {
    let without = |kind: &str| {
        let mut list = base()["linux"]["namespaces"].clone();
        list.as_array_mut().unwrap().retain(|n| n["type"] != kind);
        ("linux.namespaces", list)
    };
    let mount = json!([{"destination": "/proc", "type": "proc"}]);
    let host = "needs a new mount namespace: it would change the host's mounts";
    for (kind, path, value, field, why) in [
        ("uts", "hostname", json!("x"), "hostname", "unable to set hostname without a private UTS namespace"),
        ("uts", "domainname", json!("x"), "domainname", "unable to set domainname without a private UTS namespace"),
        ("mount", "mounts", mount, "mounts", host),
        ("mount", "root.readonly", json!(true), "root.readonly", host),
        ("mount", "linux.maskedPaths", json!(["/a"]), "linux.maskedPaths", host),
        ("mount", "linux.readonlyPaths", json!(["/a"]), "linux.readonlyPaths", host),
        ("mount", "linux.rootfsPropagation", json!("slave"), "linux.rootfsPropagation", host),
        ("ipc", "linux.sysctl", json!({"kernel.shmmax": "1"}), "linux.sysctl (kernel.shmmax)", "ipc namespace"),
        ("ipc", "linux.sysctl", json!({"fs.mqueue.msg_max": "1"}), "linux.sysctl (fs.mqueue.msg_max)", "ipc namespace"),
        ("network", "linux.sysctl", json!({"net/core/x": "1"}), "linux.sysctl (net/core/x)", "network namespace"),
        (
            "uts",
            "linux.sysctl",
            json!({"kernel.domainname": "x"}),
            "linux.sysctl (kernel.domainname)",
            "the host's uts",
        ),
    ] {
        assert_eq!(amiss(&with(&[(path, value.clone()), without(kind)]), field, why), None);
        let (result, log) = load(&with(&[(path, value)]));
        assert!(result.is_ok() && log.is_empty(), "{path} with {kind}: {result:?} {log:?}");
    }
    assert!(load(&with(&[without("mount")])).0.is_ok());
    assert!(load(&with(&[("linux", Value::Null)])).0.is_ok());
}

#[test]
fn texts_that_are_no_config() {
    let text = with(&[]);
    let mut wrong = String::new();
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    for (text, field, why) in [
        (String::new(), "config.json", "ends too early"),
        ("null".into(), "config.json", "invalid type: null"),
        ("[]".into(), "config.json", "expected an object"),
        ("{}".into(), "ociVersion", "missing"),
        ("5".into(), "config.json", "invalid type: integer"),
        ("\u{feff}{}".into(), "config.json", "expected value"),
        (text.clone() + "}", "config.json", "trailing characters"),
        (r#"{"ociVersion": "1.0.0", }"#.into(), "config.json", "trailing comma"),
        (r#"{"process": {"args": ["sh", "#.into(), "process.args", "ends too early"),
        (r#"{"process": {"args": ["sh"#.into(), "process.args", "ends too early"),
        ("{\"hostname\": \"a\nb\"}".into(), "hostname", "control character"),
        (r#"{"hostname": "\ud800"}"#.into(), "hostname", "hex escape"),
        (r#"{"hostname": "a", "hostname": "b"}"#.into(), "hostname", "given twice"),
        (deep("[", "]"), "config.json", ""),
        (deep("{\"a\":", "}"), "a", "recursion limit"),
        (format!(r#"{{"mounts": {}}}"#, deep("[", "]")), "mounts[0]", "expected an object"),
        (format!(r#"{{"x": {}, "ociVersion": "1.0.0"}}"#, deep("[", "]")), "x", "recursion limit"),
        (format!(r#"{{"process": {{"y": {}}}}}"#, deep("[", "]")), "process.y", "recursion limit"),
        (format!(r#"{{"annotations": {{"a": {}}}}}"#, deep("[", "]")), "annotations.a", "invalid type"),
        (
            format!(r#"{{"linux": {{"namespaces": [{{"type": "a{}"}}]}}}}"#, "x".repeat(1 << 20)),
            "linux.namespaces[0].type",
            "unknown",
        ),
        ("{\"linux\": {\"namespaces\": [{\"type\": \"a\\nb\"}]}}".into(), "linux.namespaces[0].type", "a\\nb"),
        ("{\"annotations\": {\"a\\nb\": 1}}".into(), "annotations.a\\nb", "invalid type"),
    ] {
        wrong.extend(amiss(&text, field, why));
    }
    assert!(wrong.is_empty(), "{wrong}");
    // Cut at every byte: always an error, never a panic.
    for end in 0..text.len() {
        assert!(load(&text[..end]).0.is_err(), "{}", &text[..end]);
    }
}

/// The largest files cost one line as well, and no tree many times their size.
#[test]
fn fifty_megabytes() {
    // A tenth of that where the parser is not optimised.
    let size = if cfg!(debug_assertions) { 5_000_000 } else { 50_000_000 };
    let zeros = "0,".repeat(size / 2);
    let nul = format!(r#""{}\u0000""#, "x".repeat(size));
    for (text, field, why) in [
        (format!(r#"{{"x": [{zeros}"#), "x", "ends too early"),
        (format!(r#"{{"x": [{zeros}0], "process": null}}"#), "ociVersion", "missing"),
        (format!(r#"{{"process": {{"args": [{zeros}0]}}}}"#), "process.args[0]", "invalid type: integer"),
        (format!(r#"{{"hostname": {nul}}}"#), "config.json", "NUL"),
    ] {
        assert_eq!(amiss(&text, field, why), None);
    }
}

#[test]
fn what_engines_write_passes() {
    for (name, text, lines) in [
        ("docker", include_str!("../../tests/data/docker.json"), 0),
        ("ctr", include_str!("../../tests/data/ctr.json"), 0),
        ("podman", include_str!("../../tests/data/podman.json"), 0),
        ("cri", include_str!("../../tests/data/cri.json"), 0),
        ("base", &with(&[]), 0),
    ] {
        let (result, log) = load(text);
        assert!(result.is_ok(), "{name}: {result:?}");
        assert_eq!(log.len(), lines, "{name}: {log:?}");
    }
}

/// Fields that ask for nothing are not refused; some are told in the log.
#[test]
fn empty_and_ignored() {
    for (path, value, lines) in [
        ("ociVersion", json!("1.0.0-rc5+dev"), 0),
        ("ociVersion", json!("1.9.0"), 0),
        ("process.user", Value::Null, 0),
        ("process.user", json!({"uid": null, "gid": 5}), 0),
        ("process.terminal", json!(false), 0),
        ("process.apparmorProfile", json!(""), 0),
        ("process.selinuxLabel", json!(""), 0),
        ("process.execCPUAffinity", json!({}), 0),
        ("process.execCPUAffinity", json!({"initial": ""}), 0),
        ("process.capabilities", json!({"bounding": ["CAP_KILL", "CAP_FUTURE"], "ambient": ["CAP_FUTURE"]}), 1),
        ("process.capabilities", json!({"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"]}), 1),
        ("process.user.username", json!("x"), 1),
        ("process.commandLine", json!("x"), 1),
        ("hooks", json!({"prestart": [], "poststop": null}), 0),
        ("hostname", json!(""), 0),
        ("mounts", json!([{"destination": "tmp", "type": "tmpfs"}]), 1),
        ("mounts", json!([{"destination": "/a", "options": ["remount", "ro"]}]), 0),
        ("mounts", json!([{"destination": "/a", "type": "tmpfs", "uidMappings": [], "gidMappings": null}]), 0),
        ("windows", json!({"layerFolders": []}), 1),
        ("solaris", json!({}), 1),
        ("zos", json!({}), 1),
        ("freebsd", json!({}), 1),
        ("something", json!({"deep": [1, {"x": null}]}), 1),
        ("linux.somethingElse", json!(1), 1),
        ("linux.uidMappings", json!([]), 0),
        ("linux.timeOffsets", json!({"monotonic": {"secs": 0}}), 0),
        ("linux.intelRdt", json!({"enableCMT": false, "schemata": []}), 0),
        ("linux.netDevices", json!({}), 0),
        ("linux.personality", json!({"domain": "LINUX"}), 0),
        ("linux.mountLabel", json!(""), 0),
        ("linux.rootfsPropagation", json!(""), 0),
        ("linux.devices", json!([{"path": "/dev/fifo", "type": "p"}]), 0),
        ("linux.devices", json!([{"path": "/x", "type": "p"}, {"path": "/x", "type": "p", "uid": 1}]), 1),
        ("linux.sysctl", json!({"net.ipv4.conf.eth0/1.forwarding": "1", "kernel.domainname": "x"}), 0),
        ("linux.resources", json!({"devices": [{"allow": false, "type": "", "access": "rwm"}]}), 0),
        ("linux.resources", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": u64::MAX}]}), 1),
        (
            "linux.resources",
            json!({"memory": {"kernel": 1, "kernelTCP": 1, "swappiness": 60, "useHierarchy": true}}),
            4,
        ),
        ("linux.resources", json!({"memory": {"disableOOMKiller": true}, "blockIO": {"leafWeight": 10}}), 2),
        ("linux.resources", json!({"network": {"classID": 1, "priorities": [{"name": "a", "priority": 1}]}}), 2),
        ("linux.resources", json!({"memory": {"kernel": 0, "useHierarchy": false}, "cpu": {"realtimeRuntime": 0}}), 0),
        ("linux.seccomp", json!({"defaultAction": "SCMP_ACT_LOG", "listenerPath": "", "syscalls": null}), 0),
    ] {
        let (result, log) = load(&with(&[(path, value.clone())]));
        assert!(result.is_ok(), "{path} = {value}: {result:?}");
        assert_eq!(log.len(), lines, "{path} = {value}: {log:?}");
        let last = path.rsplit('.').next().unwrap();
        assert!(log.iter().all(|line| line.contains(last)), "{path}: {log:?}");
    }
}

/// A million unknown fields are not a million lines.
#[test]
fn the_log_has_an_end() {
    let many: serde_json::Map<_, _> = (0..1000).map(|i| (format!("x{i}"), json!(1))).collect();
    let (result, log) = load(&with(&[("linux", Value::Object(many))]));
    assert!(result.is_ok() && log.len() <= 21, "{}", log.len());
}

#[test]
fn empty_means_absent() {
    let mut namespaces = base()["linux"]["namespaces"].clone();
    namespaces[0]["path"] = json!("");
    let text = with(&[
        ("linux.namespaces", namespaces),
        ("linux.cgroupsPath", json!("")),
        ("mounts", json!([{"destination": "/a", "type": "", "source": "/b", "options": ["bind"]}])),
    ]);
    let spec = load(&text).0.unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.namespaces().as_ref().unwrap()[0].path(), &None);
    assert_eq!(linux.cgroups_path(), &None);
    assert_eq!(spec.mounts().as_ref().unwrap()[0].typ(), &None);
}

/// What the type cannot hold. Each is refused or told by its name.
const LOSSES: &[&str] = &["linux.intelRdt.enableCMT", "linux.intelRdt.enableMBM", "vm.hwConfig", "freebsd"];

/// What is read, but not written back as it was.
const RESPELLED: &[(&str, &str, &str)] = &[
    ("process.scheduler.flags[0]", "SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("process.scheduler.flags[2]", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
    ("linux.resources.devices[0].type", "", "a"),
];

/// Every field of the example, which has every field of runtime-spec 1.3, survives parsing or is on a list.
#[test]
fn no_field_gets_lost() {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let mut whole = full.clone();
    for name in ["enableCMT", "enableMBM"] {
        whole["linux"]["intelRdt"].as_object_mut().unwrap().remove(name);
    }
    let mut log = Vec::new();
    let spec = serde_json::to_value(parse(&whole.to_string(), &mut log).unwrap()).unwrap();
    let mut lost = Vec::new();
    compare(&full, &spec, "", &mut lost);
    lost.sort();
    let mut losses = LOSSES.to_vec();
    losses.sort();
    assert_eq!(lost, losses);
}

fn compare(before: &Value, after: &Value, path: &str, lost: &mut Vec<String>) {
    match (before, after) {
        (_, Value::Null) => lost.push(path.to_owned()),
        (Value::Object(map), _) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(value, after.get(key).unwrap_or(&Value::Null), &path, lost);
            }
        }
        (Value::Array(list), _) => {
            for (i, value) in list.iter().enumerate() {
                compare(value, after.get(i).unwrap_or(&Value::Null), &format!("{path}[{i}]"), lost);
            }
        }
        _ if before == after => {}
        _ => {
            let (b, a) = (before.as_str().unwrap_or_default(), after.as_str().unwrap_or_default());
            assert!(RESPELLED.contains(&(path, b, a)), "{path}: {before} became {after}");
        }
    }
}

/// The example has each field of the table, and the table each of the example.
#[test]
fn the_example_is_complete() {
    fn visit(node: &Node, value: &Value, path: &str) {
        match node {
            Node::Leaf | Node::Lost | Node::Foreign => assert!(!value.is_null(), "{path} is not in the example"),
            Node::List(node) => visit(node, &value[0], &format!("{path}[0]")),
            Node::Map(node) => visit(node, value.as_object().unwrap().values().next().unwrap(), path),
            Node::Object(fields) => {
                let map = value.as_object().unwrap_or_else(|| panic!("{path} is not in the example"));
                for (name, node) in *fields {
                    visit(node, &value[name], &format!("{path}.{name}"));
                }
                for name in map.keys() {
                    assert!(fields.iter().any(|(field, _)| field == name), "{path}.{name} is not in the table");
                }
            }
        }
    }
    visit(&CONFIG, &serde_json::from_str(FULL).unwrap(), "");
}

/// `cargo test --release -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let text = include_str!("../../tests/data/docker.json");
    let mut times: Vec<_> = (0..2000)
        .map(|_| {
            let start = std::time::Instant::now();
            assert!(load(text).0.is_ok());
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("{} bytes: median {:?}, least {:?}", text.len(), times[1000], times[0]);
}

#[test]
fn a_pids_object_without_a_limit_is_no_limit() {
    for (pids, want) in [
        (json!({}), None),
        (json!({"limit": null}), None),
        (json!({"limit": 0}), Some(0)),
        (json!({"limit": -1}), Some(-1)),
    ] {
        let spec = load(&with(&[("linux.resources", json!({"pids": pids}))])).0.unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert_eq!(resources.pids().as_ref().map(|p| p.limit()), want, "{pids}");
    }
}
