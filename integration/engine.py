"""What integration/engines and its modules share: a set-up of an engine, what it leaves, and the list of scenarios."""
import itertools
import os
import pathlib
import re

from scenarios import CGROUP, processes_mounts_cgroups, run, wait_for

WORK = pathlib.Path("/run/engines")
AT_ONCE = 20
MB = 1 << 20
# Root's command that uses memory until it is stopped.
EAT = ["tail", "/dev/zero"]
# By name; filled when the run begins.
RUNTIMES = {}
# No leftovers of a container: an engine's daemons, which scenarios restart, the parents of all its containers, and what it makes
# at the first use and keeps.
OTHERS = re.compile(r"^process \d+ (containerd|dockerd)$|/netns/default$|^mount /run/netns$|intermediate-mountpoint|^(cgroup .*/|unit )(default|docker|buildkit|libpod_parent|kubepods(\.slice)?|(machine|user|system-modprobe)\.slice)$")
# What runtimes keep beside their containers: tare below /run/tare, crun in the root that it is given.
KEPT = "@tare", ".cache", ".empty-directory"


def state_folders():
    yield from (pathlib.Path("/run") / name for name in ("runc", "crun", "tare"))
    yield from pathlib.Path("/run/containerd/runc").glob("*")
    yield from WORK.glob("*/runtime-runc/moby")
    yield from WORK.rglob("io.containerd.runtime.v2.task/*")
    # Of CRI: the runtimes' own, its own of pods and containers, and a pod network's.
    yield from WORK.glob("cri*/roots/*/k8s.io")
    for folder in WORK / "cri", WORK / "cri-cgroupfs", pathlib.Path("/var/lib/containerd/cri"):
        yield from folder.glob("io.containerd.grpc.v1.cri/*")
    yield pathlib.Path("/var/lib/cni/results")
    yield from map(pathlib.Path, ("/tmp", "/var/tmp"))


class Engine:
    """One set-up of an engine, and the runtime whose turn it is."""

    def __init__(self):
        self.runtime = self.path = None
        self.numbers = itertools.count()

    def use(self, name, path):
        self.runtime, self.path = name, path

    def new_name(self):
        return f"{self.runtime}-{next(self.numbers)}"

    def group(self, name):
        """The container's cgroup, wherever the driver has put it. crun keeps processes in one below its scope."""
        text = pathlib.Path(f"/proc/{self.pid(name)}/cgroup").read_text()
        return CGROUP / re.sub(r"/container$", "", text.strip().split("::/")[1])

    def files(self, name, *files):
        return [(self.group(name) / file).read_text().strip() for file in files]

    def gone(self, pid, what):
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), f"{what} ends")

    def traces(self):
        found = processes_mounts_cgroups()
        for line in run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=scope,slice,service,timer").out.splitlines():
            unit = line.split()[0]
            if not unit.startswith(("systemd-", "user-runtime-dir@", "modprobe@")):
                found.add(f"unit {unit}")
        for folder in state_folders():
            if folder.is_dir():
                found.update(f"state {entry}" for entry in folder.iterdir() if entry.name not in KEPT)
        found.update(f"container {name}" for name in self.containers())
        return {trace for trace in found if not OTHERS.search(trace)}


SCENARIOS = []


def scenario(*where):
    """Which set-ups a scenario is for."""

    def add(function):
        SCENARIOS.append((function.__name__.strip("_").replace("_", "-"), function, where))
        return function

    return add
