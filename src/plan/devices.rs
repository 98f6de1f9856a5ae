//! Device nodes and the links in /dev.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, Spec};

use super::{DeviceKind, Facts, Namespaces, Op, SourceKind, Steps, clean};
use crate::error::{Error, Origin, Result};
use crate::sys::mount::Attr;

/// Supplied by the runtime (config-linux.md, "Default Devices"); numbers as in the kernel's devices.txt.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Nothing is made in a /dev that is bind mounted: it is somebody else's.
fn is_bound(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|m| {
        let options = m.options().as_deref().unwrap_or_default();
        let bind = m.typ().as_deref() == Some("bind") || options.iter().any(|o| o == "bind" || o == "rbind");
        bind && clean(m.destination()) == Path::new("/dev")
    })
}

/// The default devices, then those of config.json, which replace a default one of the same path; then the links.
pub fn plan(spec: &Spec, facts: &Facts, steps: &mut Steps) -> Result<()> {
    if is_bound(spec) {
        return Ok(());
    }
    let namespaces = Namespaces::of(spec, false);
    let user = namespaces.user() || !facts.privileged;
    // Nobody may bind them where the mounts are the host's.
    let none = user && !namespaces.mount();
    let node = |op: Op, origin: Origin, steps: &mut Steps| match op {
        // Nobody in a user namespace can make a device: the host's is bound (a fifo anybody can make).
        Op::Device { path, kind, major, minor, .. } if user && kind != DeviceKind::Fifo => {
            let slot = steps.slot();
            let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
            steps.before(
                origin.clone(),
                Op::OpenSource {
                    slot,
                    path: path.clone(),
                    recursive: false,
                    nofollow: false,
                    copy_symlink: false,
                    attrs: vec![(private, false)],
                    kind: SourceKind::Device(kind, major, minor),
                },
            );
            steps.child(origin, Op::Attach { slot, target: path, nofollow: false, copy_symlink: false });
        }
        op => steps.child(origin, op),
    };
    let own = spec.linux().as_ref().and_then(|l| l.devices().as_deref()).unwrap_or_default();
    let own_paths: Vec<PathBuf> = own.iter().map(|d| clean(d.path())).collect();
    for (path, major, minor) in DEFAULT.into_iter().filter(|(p, ..)| !own_paths.iter().any(|o| o == Path::new(p))) {
        let (path, kind) = (PathBuf::from(path), DeviceKind::Char);
        let origin = Origin::new("default devices", path.display().to_string());
        let (mode, uid, gid) = (0o666, 0, 0);
        if none {
            continue; // those of the image, if it has any
        }
        node(Op::Device { path, kind, major, minor, mode, uid, gid }, origin, steps);
    }
    for (i, (device, path)) in own.iter().zip(own_paths).enumerate() {
        let origin = Origin::new(format!("linux.devices[{i}]"), path.display().to_string());
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => return Err(Error::new("type must be c, u, b or p").at(origin)),
        };
        if none && kind != DeviceKind::Fifo {
            let error = Error::new("in a user namespace a device needs a new mount namespace: it is the host's, bound");
            return Err(error.at(origin));
        }
        let number = |n: i64, what: &str| {
            u32::try_from(n).map_err(|_| Error::new(format!("{what} {n} is not a device number")).at(origin.clone()))
        };
        let (major, minor) = match kind {
            DeviceKind::Fifo => (0, 0),
            _ => (number(device.major(), "major")?, number(device.minor(), "minor")?),
        };
        // Only permission bits: a file type in fileMode is of no meaning here.
        let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
        let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        node(Op::Device { path, kind, major, minor, mode, uid, gid }, origin, steps);
    }
    let origin = |path: &str| Origin::new("default links", path);
    for (path, target) in LINKS {
        steps.child(origin(path), Op::Link { path: path.into(), target, replace: false });
    }
    if facts.kcore {
        steps.child(origin("/dev/core"), Op::Link { path: "/dev/core".into(), target: "/proc/kcore", replace: false });
    }
    steps.child(origin("/dev/ptmx"), Op::Link { path: "/dev/ptmx".into(), target: "pts/ptmx", replace: true });
    Ok(())
}
