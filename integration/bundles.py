#!/usr/bin/env python3
"""Makes bundles as engines make them: config.json, and a root file system of busybox.

    integration/bundles.py KIND FOLDER [COMMAND...]         (default command: true)

    minimal       a mount and a pid namespace, /proc and /dev, nothing else
    docker        what Docker sends: six namespaces, its mounts, masked paths, capabilities, sysctls, devices, default seccomp
    kubernetes    docker with the mounts of a pod: twenty in all
    binds         docker with 100 bind mounts more
    host-cgroup   docker without a cgroup namespace
    failing       docker, failing at its last step: a program of no format that the kernel executes
    terminal      docker with a terminal
    hooks         docker with hooks of all six kinds
    userns        docker with a new user namespace, as with its userns-remap
    joined        kubernetes in a pod with a user namespace (hostUsers: false): that, the network, ipc and uts are joined, the pid
                  namespace is new. The environment variable HOLDER is the pid of a process that has them: see `holder()`
    rootless      minimal in the namespaces of `tare spec --rootless`, of an ordinary user (uid 1000), with a bind mount
    idmapped      userns with idmapped mounts: of mappings of their own, and of the container's; one is a new file system

Limits are in none of them, since which controllers there are is the host's affair. `config(...)` is for other scripts to
import: change what they like in the result and write it.
"""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

SECCOMP = pathlib.Path(__file__).resolve().parent.parent / "seccomp-profiles/default.json"
# What Docker asks for besides the machine's own architecture; others would only be compiled for nothing.
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
CAPABILITIES = [
    f"CAP_{name}"
    for name in "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT KILL AUDIT_WRITE".split()
]
MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def mount(destination, kind, source, *options):
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


# Also in the smallest bundle: without a /dev of its own the runtime's links in it would be left in the root file system.
PROC_AND_DEV = [
    mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
]


def device(allow, *numbers, kind="c", access="rwm"):
    rule = {"allow": allow, "access": access}
    if numbers or kind != "c":
        rule["type"] = kind
    return rule | dict(zip(("major", "minor"), numbers))


def bind(folder, destination, *options, file=False):
    """A bind mount whose source is made below FOLDER/sources."""
    source = folder / "sources" / destination.strip("/").replace("/", "-")
    if file:
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("")
    else:
        source.mkdir(parents=True, exist_ok=True)
    return mount(destination, "bind", str(source), "rbind", "rprivate", *options)


def minimal(args):
    return {
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": list(PROC_AND_DEV),
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }


def docker(folder, args):
    seccomp = json.loads(SECCOMP.read_text())
    seccomp["architectures"] = ARCHITECTURES[os.uname().machine]
    return {
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=bundle", "HOME=/root"],
            "cwd": "/",
            "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs"},
        "hostname": "bundle",
        "mounts": [
            *PROC_AND_DEV,
            mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=67108864"),
            *(bind(folder, f"/etc/{name}", file=True) for name in ("resolv.conf", "hostname", "hosts")),
        ],
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
            "resources": {
                "devices": [
                    device(False),
                    *(device(True, 1, minor) for minor in (5, 3, 9, 8)),
                    device(True, 5, 0),
                    device(True, 5, 1),
                    device(False, 10, 229),
                ]
            },
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup")],
            "seccomp": seccomp,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }


def kubernetes(folder, args):
    spec = docker(folder, args)
    spec["mounts"] += [
        bind(folder, "/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
        bind(folder, "/dev/termination-log", file=True),
        *(bind(folder, f"/etc/config-{n}", "ro") for n in range(4)),
        *(bind(folder, f"/etc/secret-{n}", "ro") for n in range(2)),
        *(bind(folder, f"/var/data-{n}") for n in range(2)),
    ]
    spec["root"]["readonly"] = True
    spec["process"]["noNewPrivileges"] = True
    return spec


def binds(folder, args):
    spec = docker(folder, args)
    spec["mounts"] += [bind(folder, f"/binds/{n}", *(["ro"] if n % 2 else [])) for n in range(100)]
    return spec


def host_cgroup(folder, args):
    spec = docker(folder, args)
    spec["linux"]["namespaces"].remove({"type": "cgroup"})
    return spec


def failing(folder, args):
    return docker(folder, ["/bin/broken"])


def terminal(folder, args):
    spec = docker(folder, args)
    spec["process"]["terminal"] = True
    return spec


def hooks(folder, args):
    kinds = "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
    return docker(folder, args) | {"hooks": {kind: [{"path": "/bin/true"}] for kind in kinds}}


# Of nobody on the host.
MAPPINGS = [{"containerID": 0, "hostID": 200000, "size": 65536}]


def in_user_namespace(spec, folder):
    """The root file system is root's in there."""
    spec["linux"] |= {"uidMappings": MAPPINGS, "gidMappings": MAPPINGS}
    rootfs(folder)
    for path in [folder / "rootfs", *(folder / "rootfs").rglob("*")]:
        os.lchown(path, *[MAPPINGS[0]["hostID"]] * 2)
    return spec


def userns(folder, args):
    spec = docker(folder, args)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["sysctl"]["net.ipv4.ping_group_range"] = "0 65535"  # groups that are mapped
    return in_user_namespace(spec, folder)


@contextlib.contextmanager
def holder():
    """A process as a pod's sandbox: in a user, network, ipc and uts namespace of its own. Yields its pid."""
    command = ["unshare", "--user", "--net", "--ipc", "--uts", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)  # it is there
        for file in "uid_map", "gid_map":
            pathlib.Path(f"/proc/{process.pid}/{file}").write_text("{containerID} {hostID} {size}".format(**MAPPINGS[0]))
        yield process.pid


def joined(folder, args):
    spec = kubernetes(folder, args)
    files = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts"}
    spec["linux"]["namespaces"] = [
        *({"type": kind, "path": f"/proc/{os.environ['HOLDER']}/ns/{file}"} for kind, file in files.items()),
        *({"type": kind} for kind in ("mount", "pid", "cgroup")),
    ]
    # The pod's, which its sandbox has set.
    del spec["hostname"], spec["linux"]["sysctl"]
    return in_user_namespace(spec, folder)


ORDINARY = 1000


def rootless(folder, args):
    spec = minimal(args)
    own = [{"containerID": 0, "hostID": ORDINARY, "size": 1}]
    spec["linux"] |= {"uidMappings": own, "gidMappings": own}
    spec["linux"]["namespaces"] = [{"type": kind} for kind in ("user", "mount", "pid", "network", "ipc", "uts")]
    spec["mounts"].append(bind(folder, "/data"))
    return spec


def idmapped(folder, args):
    spec = userns(folder, args)
    own = {"uidMappings": MAPPINGS, "gidMappings": MAPPINGS}
    spec["mounts"] += [
        bind(folder, "/mapped/own") | own,
        bind(folder, "/mapped/file", "ro", file=True) | own,
        bind(folder, "/mapped/container", "idmap"),
        bind(folder, "/mapped/all", "ridmap=uids=0-200000-10;gids=@0-0-10"),
        mount("/mapped/new", "tmpfs", "tmpfs", "idmap"),
    ]
    return spec


KINDS = {
    "minimal": lambda folder, args: minimal(args),
    "docker": docker,
    "kubernetes": kubernetes,
    "binds": binds,
    "host-cgroup": host_cgroup,
    "failing": failing,
    "terminal": terminal,
    "hooks": hooks,
}
# Apart, since containerd and the other runtimes have ways of their own with these.
USER_NAMESPACES = {"userns": userns, "joined": joined, "rootless": rootless, "idmapped": idmapped}


def config(kind, folder, args=("true",)):
    return (KINDS | USER_NAMESPACES)[kind](pathlib.Path(folder).absolute(), list(args))


def rootfs(folder):
    """A root file system of busybox and its applets' names, as FOLDER/rootfs."""
    root = pathlib.Path(folder) / "rootfs"
    if root.exists():
        return
    for name in "bin dev etc proc root run sys tmp var".split():
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "bin/broken").write_text("no program\n")
    (root / "bin/broken").chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    # What bind mounts of files cover: made here, so that also a read-only root has them.
    for name in "resolv.conf", "hostname", "hosts":
        (root / "etc" / name).touch()


def make(kind, folder, args=("true",)):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rootfs(folder)
    (folder / "config.json").write_text(json.dumps(config(kind, folder, args), indent=1))
    return folder


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in KINDS | USER_NAMESPACES:
        sys.exit(__doc__)
    make(sys.argv[1], sys.argv[2], sys.argv[3:] or ["true"])
