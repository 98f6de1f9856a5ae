//! Whether a configuration makes sense, before anything is touched: a list of small functions, some strict, some that
//! only warn. What the kernel or the host must be asked about is not here.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    Mount, Process, Spec,
};

use super::{bad, one_line, sysctl, unsupported};
use crate::error::{Error, Origin, Result};

/// Checks a configuration for `create`, `run` and `plan`. What is ignored is told in `log`.
pub fn check(spec: &Spec, log: &mut Vec<String>) -> Result<()> {
    for strict in STRICT {
        strict(spec)?;
    }
    for warning in WARNINGS {
        warning(spec, log);
    }
    Ok(())
}

/// The first that fails gives the message, so what explains most comes first.
const STRICT: &[fn(&Spec) -> Result<()>] = &[
    version,
    root,
    process,
    unsupported::platform,
    unsupported::process,
    hooks,
    unsupported::namespaces,
    unsupported::linux,
    unsupported::seccomp,
    env,
    rlimits,
    oom_score_adj,
    ids,
    capabilities,
    namespaces,
    mappings,
    time_offsets,
    names,
    host_mounts,
    mounts,
    paths,
    propagation,
    devices,
    sysctl::check,
    resources,
    annotations,
];

const WARNINGS: &[fn(&Spec, &mut Vec<String>)] =
    &[relative_paths, repeated_devices, ambient, unsupported::ignored_on_v2];

/// The version of the specification: any 1.x, since those are compatible by their own rule.
fn version(spec: &Spec) -> Result<()> {
    let version = spec.version();
    if version.is_empty() {
        return Err(bad("ociVersion", "missing"));
    }
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (core, extra) = match version.find(['-', '+']) {
        Some(at) => (&version[..at], &version[at + 1..]),
        None => (version.as_str(), "0"),
    };
    let parts: Vec<&str> = core.split('.').collect();
    if parts.len() != 3 || !parts.iter().all(|p| number(p)) || extra.is_empty() {
        return Err(bad("ociVersion", format!("{:?} is no semantic version, such as 1.3.0", one_line(version))));
    }
    if parts[0] != "1" {
        return Err(bad("ociVersion", format!("{:?} is not supported, only 1.x is", one_line(version))));
    }
    Ok(())
}

fn root(spec: &Spec) -> Result<()> {
    let Some(root) = spec.root() else { return Err(bad("root", "missing")) };
    if root.path().as_os_str().is_empty() { Err(bad("root.path", "must not be empty")) } else { Ok(()) }
}

fn process(spec: &Spec) -> Result<()> {
    let Some(process) = spec.process() else {
        return Err(bad("process", "missing: create and run need one"));
    };
    // A name that is empty is one that is not found: so Go's LookPath has it, and engines know those words.
    if process.args().as_ref().is_none_or(|args| args.is_empty()) {
        return Err(bad("process.args", "must not be empty"));
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(bad("process.cwd", "must not be empty"));
    }
    if !cwd.is_absolute() {
        return Err(bad("process.cwd", format!("must be an absolute path, not {:?}", shown(cwd))));
    }
    Ok(())
}

#[allow(deprecated)] // prestart: Docker's networks use it still
fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (kind, list) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (i, hook) in list.iter().flatten().enumerate() {
            if !hook.path().is_absolute() {
                return Err(bad(format!("hooks.{kind}[{i}].path"), "must be absolute"));
            }
            if hook.timeout().is_some_and(|t| t <= 0) {
                return Err(bad(format!("hooks.{kind}[{i}].timeout"), "must be greater than 0"));
            }
        }
    }
    Ok(())
}

fn env(spec: &Spec) -> Result<()> {
    for (i, entry) in spec.process().iter().flat_map(|p| p.env().iter().flatten()).enumerate() {
        let why = match entry.split_once('=') {
            None => "has no '='",
            Some(("", _)) => "has an empty name",
            Some(_) => continue,
        };
        return Err(bad(format!("process.env[{i}]"), format!("{:?} {why}", one_line(entry))));
    }
    Ok(())
}

fn rlimits(spec: &Spec) -> Result<()> {
    let limits = spec.process().as_ref().and_then(|p| p.rlimits().as_deref()).unwrap_or_default();
    for (i, limit) in limits.iter().enumerate() {
        let origin = || Origin::new(format!("process.rlimits[{i}]"), limit.typ().to_string());
        if limits[..i].iter().any(|other| other.typ() == limit.typ()) {
            return Err(Error::new("this limit is set twice").at(origin()));
        }
        if limit.soft() > limit.hard() {
            return Err(
                Error::new(format!("soft limit {} is above hard limit {}", limit.soft(), limit.hard())).at(origin())
            );
        }
    }
    Ok(())
}

fn oom_score_adj(spec: &Spec) -> Result<()> {
    match spec.process().as_ref().and_then(Process::oom_score_adj) {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(bad("process.oomScoreAdj", format!("{score} is not within -1000..1000")))
        }
        _ => Ok(()),
    }
}

/// All ones is no id: setresuid(2) and chown(2) take it for "as it was", which would be root.
fn ids(spec: &Spec) -> Result<()> {
    let mut ids = Vec::new();
    if let Some(user) = spec.process().as_ref().map(Process::user) {
        ids.extend([("process.user.uid".to_owned(), user.uid()), ("process.user.gid".to_owned(), user.gid())]);
        let groups = user.additional_gids().iter().flatten().enumerate();
        ids.extend(groups.map(|(i, gid)| (format!("process.user.additionalGids[{i}]"), *gid)));
    }
    let devices = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
    for (i, device) in devices.iter().enumerate() {
        ids.extend(device.uid().map(|uid| (format!("linux.devices[{i}].uid"), uid)));
        ids.extend(device.gid().map(|gid| (format!("linux.devices[{i}].gid"), gid)));
    }
    match ids.into_iter().find(|(_, id)| *id == u32::MAX) {
        Some((field, id)) => Err(bad(field, format!("{id} is no id"))),
        None => Ok(()),
    }
}

/// The kernel refuses an effective capability that is not permitted, with a bare EPERM.
fn capabilities(spec: &Spec) -> Result<()> {
    let Some(sets) = spec.process().as_ref().and_then(|p| p.capabilities().as_ref()) else { return Ok(()) };
    match missing(sets.effective(), sets.permitted()) {
        Some(name) => Err(bad("process.capabilities.effective", format!("{name} is not in the permitted set"))),
        None => Ok(()),
    }
}

/// The kernel refuses an ambient capability that is not permitted and inheritable; engines send such sets, and runc
/// goes on without it.
fn ambient(spec: &Spec, log: &mut Vec<String>) {
    let Some(sets) = spec.process().as_ref().and_then(|p| p.capabilities().as_ref()) else { return };
    for (set, name) in [(sets.permitted(), "permitted"), (sets.inheritable(), "inheritable")] {
        if let Some(capability) = missing(sets.ambient(), set) {
            log.push(format!(
                "process.capabilities.ambient: {capability} is not in the {name} set, so it has no effect"
            ));
        }
    }
}

/// The first name, in alphabetical order, of `these` that is not in `those`.
fn missing(these: &Option<Capabilities>, those: &Option<Capabilities>) -> Option<String> {
    let known = |capability| those.as_ref().is_some_and(|set| set.contains(capability));
    these.iter().flatten().filter(|c| !known(c)).map(|c| format!("CAP_{c}")).min()
}

fn namespaces(spec: &Spec) -> Result<()> {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    for (i, namespace) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.typ() == namespace.typ()) {
            let name = word(namespace.typ());
            return Err(bad(
                format!("linux.namespaces[{i}]"),
                format!("malformed spec file: duplicated ns \"{name}\""),
            ));
        }
    }
    Ok(())
}

/// The clocks of a time namespace (time_namespaces(7)); the words are runc's.
fn time_offsets(spec: &Spec) -> Result<()> {
    let offsets = spec.linux().as_ref().and_then(|l| l.time_offsets().as_ref());
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    let time = namespaces.iter().find(|n| n.typ() == LinuxNamespaceType::Time);
    for (clock, offset) in offsets.into_iter().flatten() {
        if !["boottime", "monotonic"].contains(&clock.as_str()) {
            return Err(bad(
                format!("linux.timeOffsets[{}]", one_line(clock)),
                "unknown clock: there are boottime and monotonic",
            ));
        }
        if offset.nanosecs().unwrap_or(0) >= 1_000_000_000 {
            return Err(bad(format!("linux.timeOffsets.{clock}.nanosecs"), "must be less than a second"));
        }
        match time {
            // It asks for nothing.
            None if offset.secs().unwrap_or(0) == 0 && offset.nanosecs().unwrap_or(0) == 0 => {}
            None => {
                return Err(bad(
                    "linux.timeOffsets",
                    "time namespace offsets specified, but time namespace isn't enabled in the config",
                ));
            }
            Some(n) if n.path().is_some() => {
                return Err(bad(
                    "linux.timeOffsets",
                    "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one",
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// In runc's words.
fn mappings(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let user = |n: &&LinuxNamespace| n.typ() == LinuxNamespaceType::User;
    let user = linux.namespaces().iter().flatten().find(user);
    let there = |list: &Option<Vec<LinuxIdMapping>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let (uids, gids) = (there(linux.uid_mappings()), there(linux.gid_mappings()));
    match user {
        None if uids || gids => {
            let field = if uids { "linux.uidMappings" } else { "linux.gidMappings" };
            Err(bad(field, "user namespace mappings specified, but user namespace isn't enabled in the config"))
        }
        Some(namespace) if namespace.path().is_none() && !(uids && gids) => {
            let field = if uids { "linux.gidMappings" } else { "linux.uidMappings" };
            Err(bad(field, "user namespaces enabled, but no namespace path to join nor mappings to apply specified"))
        }
        _ => {
            for (field, list) in
                [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
            {
                // What the runtime makes in there is root's.
                let new = user.is_some_and(|n| n.path().is_none());
                if new && !list.iter().flatten().any(|m| m.container_id() == 0) {
                    return Err(bad(field, "id 0 must be mapped"));
                }
                for (i, map) in list.iter().flatten().enumerate() {
                    let end = |start: u32| start.checked_add(map.size());
                    if map.size() == 0 || end(map.container_id()).is_none() || end(map.host_id()).is_none() {
                        return Err(bad(format!("{field}[{i}]"), "the range is empty, or beyond the last id"));
                    }
                }
            }
            Ok(())
        }
    }
}

/// The host's name must not change.
fn names(spec: &Spec) -> Result<()> {
    // __NEW_UTS_LEN of linux/utsname.h, for both.
    const LONGEST: usize = 64;
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|n| !n.is_empty()) else { continue };
        if !has_own(spec, LinuxNamespaceType::Uts) {
            return Err(bad(field, format!("unable to set {field} without a private UTS namespace")));
        }
        if name.len() > LONGEST {
            return Err(bad(field, format!("{:?} is longer than {LONGEST} bytes", one_line(name))));
        }
    }
    Ok(())
}

/// Without a mount namespace of its own the container would change what the whole host sees.
fn host_mounts(spec: &Spec) -> Result<()> {
    if has_own(spec, LinuxNamespaceType::Mount) {
        return Ok(());
    }
    let linux = spec.linux().as_ref();
    let some = |list: Option<&Vec<String>>| list.is_some_and(|l| !l.is_empty());
    let asked = [
        ("mounts", spec.mounts().as_ref().is_some_and(|m| !m.is_empty())),
        ("root.readonly", spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true))),
        ("linux.maskedPaths", some(linux.and_then(|l| l.masked_paths().as_ref()))),
        ("linux.readonlyPaths", some(linux.and_then(|l| l.readonly_paths().as_ref()))),
        ("linux.rootfsPropagation", linux.is_some_and(|l| filled(l.rootfs_propagation()))),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(bad(*field, "needs a new mount namespace: it would change the host's mounts")),
        None => Ok(()),
    }
}

fn mounts(spec: &Spec) -> Result<()> {
    for (i, mount) in spec.mounts().iter().flatten().enumerate() {
        let at = |field: &str| Origin::new(format!("mounts[{i}].{field}"), shown(mount.destination()));
        if mount.destination().as_os_str().is_empty() {
            return Err(bad(format!("mounts[{i}].destination"), "must not be empty"));
        }
        if is_bind(mount) {
            if mount.source().as_ref().is_none_or(|s| s.as_os_str().is_empty()) {
                return Err(Error::new("missing: a bind mount needs one").at(at("source")));
            }
        } else if !filled(mount.typ()) && !has_option(mount, &["remount"]) {
            return Err(Error::new("missing, and there is no bind option").at(at("type")));
        }
    }
    Ok(())
}

/// Where an empty path would mean the root directory.
fn paths(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (field, list) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        if let Some(i) = list.iter().flatten().position(String::is_empty) {
            return Err(bad(format!("linux.{field}[{i}]"), "must not be empty"));
        }
    }
    Ok(())
}

/// The specification wants these absolute; runc takes them from the root.
fn relative_paths(spec: &Spec, log: &mut Vec<String>) {
    let mut warn = |field: String, path: &Path| {
        if !path.is_absolute() {
            log.push(format!("{field}: relative path {:?} is deprecated, taken from /", shown(path)));
        }
    };
    for (i, mount) in spec.mounts().iter().flatten().enumerate() {
        warn(format!("mounts[{i}].destination"), mount.destination());
    }
    let Some(linux) = spec.linux() else { return };
    for (field, list) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        for (i, path) in list.iter().flatten().enumerate() {
            warn(format!("linux.{field}[{i}]"), Path::new(path));
        }
    }
    for (i, device) in linux.devices().iter().flatten().enumerate() {
        warn(format!("linux.devices[{i}].path"), device.path());
    }
}

fn propagation(spec: &Spec) -> Result<()> {
    let Some(word) = spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref()) else { return Ok(()) };
    match word {
        "" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable" | "runbindable" => {
            Ok(())
        }
        _ => Err(bad("linux.rootfsPropagation", format!("{:?} is not supported", one_line(word)))),
    }
}

fn devices(spec: &Spec) -> Result<()> {
    // The kernel's dev_t: 12 bits and 20 bits.
    const MAJOR: i64 = (1 << 12) - 1;
    const MINOR: i64 = (1 << 20) - 1;
    let list = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
    let mut seen: HashMap<&Path, &LinuxDevice> = HashMap::new();
    for (i, device) in list.iter().enumerate() {
        let at = |field: &str| Origin::new(format!("linux.devices[{i}].{field}"), shown(device.path()));
        if device.path().as_os_str().is_empty() {
            return Err(bad(format!("linux.devices[{i}].path"), "must not be empty"));
        }
        match device.typ() {
            LinuxDeviceType::A => {
                return Err(Error::new("\"a\" is no type of a device: c, u, b or p is").at(at("type")));
            }
            LinuxDeviceType::P => {}
            LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {
                for (field, number, most) in [("major", device.major(), MAJOR), ("minor", device.minor(), MINOR)] {
                    if !(0..=most).contains(&number) {
                        return Err(Error::new(format!("{number} is not within 0..{most}")).at(at(field)));
                    }
                }
            }
        }
        // The same device twice is a habit of engines; two devices at one path is a mistake.
        if seen.insert(device.path(), device).is_some_and(|other| !same(other, device)) {
            return Err(Error::new("another device has this path").at(at("path")));
        }
    }
    Ok(())
}

/// Whether both are the same node, whatever its owner and mode.
fn same(a: &LinuxDevice, b: &LinuxDevice) -> bool {
    (a.typ(), a.major(), a.minor()) == (b.typ(), b.major(), b.minor())
}

fn repeated_devices(spec: &Spec, log: &mut Vec<String>) {
    let list = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
    for (i, device) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.path() == device.path()) {
            log.push(format!("linux.devices[{i}] ({}): listed twice", shown(device.path())));
        }
    }
}

fn resources(spec: &Spec) -> Result<()> {
    match spec.linux().as_ref().and_then(|l| l.resources().as_ref()) {
        Some(resources) => unified(resources).and_then(|()| device_rules(resources)),
        None => Ok(()),
    }
}

/// The keys are names of files in the container's cgroup, and must not lead out of it.
fn unified(resources: &LinuxResources) -> Result<()> {
    for key in resources.unified().iter().flat_map(HashMap::keys) {
        if key.is_empty() || key.contains('/') {
            return Err(bad(
                "linux.resources.unified",
                format!("{:?} must be a file name (no slashes)", one_line(key)),
            ));
        }
    }
    Ok(())
}

fn device_rules(resources: &LinuxResources) -> Result<()> {
    for (i, rule) in resources.devices().iter().flatten().enumerate() {
        if let Some(kind @ (LinuxDeviceType::U | LinuxDeviceType::P)) = rule.typ() {
            return Err(bad(
                format!("linux.resources.devices[{i}].type"),
                format!("{:?} is no type of a rule: a, b or c is", kind.as_str()),
            ));
        }
        let access = rule.access().as_deref().unwrap_or_default();
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(bad(
                format!("linux.resources.devices[{i}].access"),
                format!("{:?} is not made of r, w and m", one_line(access)),
            ));
        }
    }
    Ok(())
}

fn annotations(spec: &Spec) -> Result<()> {
    if spec.annotations().as_ref().is_some_and(|a| a.contains_key("")) {
        return Err(bad("annotations", "a key must not be empty"));
    }
    Ok(())
}

/// Whether the container has a namespace of that kind beside the host's: a new one, or one that it joins.
pub(super) fn has_own(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default();
    list.iter().any(|n| n.typ() == kind)
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, &["bind", "rbind"])
}

fn has_option(mount: &Mount, names: &[&str]) -> bool {
    mount.options().iter().flatten().any(|option| names.contains(&option.as_str()))
}

/// Whether there is a text, and not an empty one.
pub(super) fn filled(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|t| !t.is_empty())
}

/// A path as part of a message.
pub(super) fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// The word that config.json has for it (oci-spec's Display has the kernel's).
pub(super) fn word(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}
