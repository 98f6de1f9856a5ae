//! The features document: what this binary knows, whatever the host can do. Engines run it at their start, as any user
//! and anywhere, so nothing is probed here.

use libseccomp::ScmpVersion;
use oci_spec::runtime::Capability;
use serde_json::{Value, json};

/// What `tare features` prints. Only what is true today; each issue that brings something adds it here.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        // Empty is "none"; without the key it would be "unknown".
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": CAPABILITIES.map(|c| format!("CAP_{c}")).as_slice(),
            "cgroup": { "v1": false, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHS,
                "knownFlags": KNOWN_FLAGS,
                "supportedFlags": SUPPORTED_FLAGS,
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            // containerd reads this without asking whether it is there.
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
        },
        "annotations": annotations(),
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.systemd.property.", "org.criu.config"],
    })
}

/// Names as crun's for what is ours (`run.oci.RUNTIME.*`), and the two of runc's that other runtimes may use.
fn annotations() -> Value {
    let mut map = json!({
        "run.oci.tare.version": env!("CARGO_PKG_VERSION"),
        "run.oci.tare.checkpoint.enabled": "false",
        "org.opencontainers.runc.checkpoint.enabled": "false",
    });
    if let Some(commit) = option_env!("TARE_COMMIT") {
        map["run.oci.tare.commit"] = commit.into();
    }
    if let Ok(version) = ScmpVersion::current() {
        map["io.github.seccomp.libseccomp.version"] = version.to_string().into();
    }
    map
}

/// runc's list. Options that are data of a file system are not in it.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// By their number in linux/capability.h.
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// All but SCMP_ACT_NOTIFY.
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

const ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

const KNOWN_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// WAIT_KILLABLE_RECV means something only with a listener, which SCMP_ACT_NOTIFY will bring.
const SUPPORTED_FLAGS: &[&str] =
    &["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"];

#[cfg(test)]
mod tests {
    use super::*;

    /// What engines read (table 4 of the contract), by its path.
    #[test]
    fn what_engines_read() {
        let features = features();
        for (path, value) in [
            ("/ociVersionMin", json!("1.0.0")),
            ("/ociVersionMax", json!("1.3.0")),
            ("/linux/mountExtensions/idmap/enabled", json!(true)),
            ("/linux/cgroup/v2", json!(true)),
            ("/linux/seccomp/enabled", json!(true)),
            ("/linux/netDevices/enabled", json!(false)),
            ("/annotations/run.oci.tare.version", json!(env!("CARGO_PKG_VERSION"))),
        ] {
            assert_eq!(features.pointer(path), Some(&value), "{path}");
        }
        let options = features["mountOptions"].as_array().unwrap();
        assert!(options.contains(&json!("rro")) && options.contains(&json!("idmap")));
        assert!(features["annotations"]["io.github.seccomp.libseccomp.version"].is_string());
    }

    /// What we say we know, the parser must read.
    #[test]
    fn the_names_are_the_parsers() {
        for name in features()["linux"]["capabilities"].as_array().unwrap() {
            assert!(serde_json::from_value::<Capability>(name.clone()).is_ok(), "{name}");
        }
        let mut unique = CAPABILITIES.map(|c| c.to_string()).to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), caps::all().len());
        for (names, profile) in [
            (ACTIONS, r#"{"defaultAction": "@"}"#),
            (ARCHS, r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["@"]}"#),
            (KNOWN_FLAGS, r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["@"]}"#),
            (
                OPERATORS,
                r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                    "args": [{"index": 0, "value": 0, "op": "@"}]}]}"#,
            ),
        ] {
            for name in names {
                let text = profile.replace('@', name);
                serde_json::from_str::<oci_spec::runtime::LinuxSeccomp>(&text).unwrap();
            }
        }
    }
}
