"""containerd's CRI for integration/engines: a small client that does what a kubelet does, and the scenarios for it.

The API's file is Debian's; its messages are made of it when the run begins, and a request is a dict in the API's own names. A pod
has a cgroup that the client makes, as a kubelet's is, and must leave it empty. Streams are WebSockets, which containerd's
streaming server has beside SPDY: they cannot close stdin alone.
"""
import base64
import contextlib
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from engine import AT_ONCE, EAT, MB, RUNTIMES, WORK, Engine, scenario
from scenarios import CGROUP, IMAGE, Result, expect, image_archive, run, wait_for

PROTO = pathlib.Path("/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto")
PAUSE = "example.org/pause:latest"
BRIDGE = "cri-bridge"
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
# What a pod of its own users has as its root.
FIRST_ID, IDS = 655360, 65536


def load_api():
    folder = WORK / "api"
    folder.mkdir(exist_ok=True)
    # An option that Debian's compiler is too old for, and that is for logs only.
    (folder / "api.proto").write_text(re.sub(r"\[\s*debug_redact = true\s*\]", "", PROTO.read_text()))
    done = run("protoc", "-I", folder, "--python_out", folder, "api.proto")
    expect(done.code == 0, done)
    sys.path.insert(0, str(folder))
    return importlib.import_module("api_pb2")


class Stream:
    """An exec or attach: a WebSocket of the protocol v4.channel.k8s.io, whose messages begin with the number of their channel."""

    def __init__(self, url):
        url = urllib.parse.urlsplit(url)
        self.got = {channel: b"" for channel in (STDOUT, STDERR, ERROR)}
        self.socket = socket.create_connection((url.hostname, url.port), 15)
        self.file = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode()
        )
        head = b"".join(iter(self.file.readline, b"\r\n"))
        expect(head.startswith(b"HTTP/1.1 101 ") and b"v4.channel.k8s.io" in head, f"no WebSocket: {head}")

    def send(self, channel, data):
        payload = bytes([channel]) + (data if isinstance(data, bytes) else data.encode())
        # A client's messages are masked; a mask of zeros changes nothing.
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack(">BQ", 0x80 | 127, len(payload))
        self.socket.sendall(b"\x82" + size + bytes(4) + payload)

    def resize(self, rows, columns):
        self.send(RESIZE, json.dumps({"Width": columns, "Height": rows}))

    def receive(self):
        """One message; False at the end."""
        head = self.file.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return False
        size = head[1]
        if size > 125:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        data = self.file.read(size)
        if data:
            self.got[data[0]] += data[1:]
        return True

    @property
    def out(self):
        return self.got[STDOUT].decode(errors="replace")

    @property
    def err(self):
        return self.got[STDERR].decode(errors="replace")

    def wait_for(self, text, seconds=15):
        self.socket.settimeout(seconds)
        try:
            while text not in self.out:
                expect(self.receive(), f"the end before {text!r}: {self.got}")
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {text!r} in {self.got}")

    def shows(self, text, seconds):
        with contextlib.suppress(AssertionError):
            self.wait_for(text, seconds)
        return text in self.out

    def close(self):
        self.file.close()
        self.socket.close()

    def end(self, seconds=30):
        """The status: an exit code, or a message where there is none."""
        self.socket.settimeout(seconds)
        try:
            while self.receive():
                pass
        except TimeoutError:
            raise AssertionError(f"no end within {seconds} s: {self.got}")
        finally:
            self.close()
        expect(self.got[ERROR], f"no status: {self.got}")
        status = json.loads(self.got[ERROR])
        if status["status"] == "Success":
            return 0
        causes = (status.get("details") or {}).get("causes", [])
        return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), status["message"])


class Container:
    def __init__(self, pod, identity):
        self.pod, self.engine, self.id = pod, pod.engine, identity

    def do(self, method, **fields):
        return self.engine.call(method, container_id=self.id, **fields)

    def status(self):
        return self.do("ContainerStatus").status

    def state(self):
        status = self.status()
        return type(status).DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[status.state].name.removeprefix("CONTAINER_")

    def pid(self):
        return json.loads(self.do("ContainerStatus", verbose=True).info["info"])["pid"]

    def wait(self):
        wait_for(lambda: self.state() == "EXITED", "the container ends", 30)
        return self.status().exit_code

    def lines(self):
        """Of its log: (stream, F for a whole line or P for a part, text)."""
        lines = pathlib.Path(self.status().log_path).read_text().splitlines()
        return [tuple(line.split(" ", 3)[1:]) for line in lines]

    def log(self, stream):
        return "".join(text + "\n" * (tag == "F") for name, tag, text in self.lines() if name == stream)

    def exec(self, *command, timeout=30):
        answer = self.do("ExecSync", cmd=command, timeout=timeout)
        return Result(subprocess.CompletedProcess(command, answer.exit_code, answer.stdout.decode(), answer.stderr.decode()))

    def good(self, *command):
        done = self.exec(*command)
        expect(done.code == 0, f"{command}: {done}")
        return done.out

    def exec_stream(self, *command, stdin=True, tty=False):
        return Stream(self.do("Exec", cmd=command, stdin=stdin, stdout=True, stderr=not tty, tty=tty).url)

    def attach(self, tty=False):
        # Without stdin containerd ends a WebSocket at once.
        return Stream(self.do("Attach", stdin=True, stdout=True, stderr=not tty, tty=tty).url)

    def stop(self, timeout=0):
        self.do("StopContainer", timeout=timeout)
        return self.status().exit_code

    def remove(self):
        self.do("RemoveContainer")


class Pod:
    def __init__(self, engine, handler=None, network="NODE", pid="CONTAINER", ipc="POD", users=None, memory=None, **linux):
        self.engine, self.name, self.parts = engine, engine.new_name(), 0
        self.parent, self.unit = engine.pod_group(self.name, memory)
        self.namespaces = {"network": network, "pid": pid, "ipc": ipc}
        if users:
            ids = [{"host_id": users, "container_id": 0, "length": IDS}]
            self.namespaces["userns_options"] = {"mode": "POD", "uids": ids, "gids": ids}
        security = {"namespace_options": self.namespaces, "seccomp": {"profile_type": "RuntimeDefault"}} | linux.pop("security_context", {})
        self.config = {
            "metadata": {"name": self.name, "uid": self.name, "namespace": "bed"},
            "log_directory": str(engine.folder / "logs" / self.name),
            "linux": {"cgroup_parent": self.parent, "security_context": security, **linux},
        }
        if network != "NODE":
            self.config["hostname"] = self.name
        self.id = engine.call("RunPodSandbox", config=self.config, runtime_handler=handler or engine.runtime).pod_sandbox_id

    def info(self):
        return json.loads(self.engine.call("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True).info["info"])

    def status(self):
        return self.engine.call("PodSandboxStatus", pod_sandbox_id=self.id).status

    def ready(self):
        return self.status().state == self.engine.api.SANDBOX_READY

    def pid(self):
        return self.info()["pid"]

    def create(self, *command, attempt=0, name=None, security={}, resources=None, **config):
        self.parts += 1
        name = name or f"part-{self.parts}"
        security = {"namespace_options": self.namespaces, "seccomp": {"profile_type": "RuntimeDefault"}} | security
        config = {
            "metadata": {"name": name, "attempt": attempt}, "image": {"image": IMAGE}, "command": command,
            "log_path": f"{name}-{attempt}.log", "linux": {"security_context": security, "resources": resources or {}}, **config,
        }  # fmt: skip
        (self.engine.folder / "logs" / self.name).mkdir(parents=True, exist_ok=True)
        answer = self.engine.call("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return Container(self, answer.container_id)

    def start(self, *command, **config):
        container = self.create(*command, **config)
        container.do("StartContainer")
        return container

    def run(self, *command, **config):
        container = self.start(*command, **config)
        code = container.wait()
        done = Result(subprocess.CompletedProcess(command, code, container.log("stdout"), container.log("stderr")))
        container.remove()
        return done

    def good(self, *command, **config):
        done = self.run(*command, **config)
        expect(done.code == 0, f"{command}: {done}")
        return done.out

    def fields(self, *fields, **config):
        """Lines of /proc/self/status in a container."""
        text = self.good("cat", "/proc/self/status", **config)
        return [re.search(rf"^{field}:\s*(\S+)", text, re.M).group(1) for field in fields]

    def stop(self):
        self.engine.call("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self):
        self.stop()
        self.engine.call("RemovePodSandbox", pod_sandbox_id=self.id)
        self.engine.remove_pod_group(self.parent, self.unit)


class Cri(Engine):
    drivers = {"cri": True, "cri-cgroupfs": False}

    def __init__(self, name):
        super().__init__()
        self.name, self.systemd, self.folder = name, self.drivers[name], WORK / name

    @contextlib.contextmanager
    def running(self):
        # Only in the machine are they there.
        import grpc

        self.grpc, self.api = grpc, load_api()
        self.methods = {
            method.name: (f"/{service.full_name}/{method.name}", method)
            for service in self.api.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
        self.folder.mkdir()
        (self.folder / "net").mkdir()
        (self.folder / "net/bed.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "bed",
            "plugins": [{"type": "bridge", "bridge": BRIDGE, "isGateway": True,
                         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]]}}],
        }))  # fmt: skip
        plugin = "[plugins.'io.containerd.cri.v1.runtime'"
        config = (
            f"version = 3\nroot = '/var/lib/containerd/cri'\nstate = '{self.folder}'\n[grpc]\naddress = '{self.folder}/socket'\n"
            f"[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n"
            f"{plugin}.cni]\nconf_dir = '{self.folder}/net'\n"
        )
        # A root for each of them shows which one a pod is of.
        for name, path in RUNTIMES.items():
            config += (
                f"{plugin}.containerd.runtimes.{name}]\nruntime_type = 'io.containerd.runc.v2'\n"
                f"{plugin}.containerd.runtimes.{name}.options]\nBinaryName = '{path}'\nRoot = '{self.folder}/roots/{name}'\n"
                f"SystemdCgroup = {str(self.systemd).lower()}\n"
            )
        (self.folder / "config.toml").write_text(config)
        self.channel = grpc.insecure_channel(f"unix:{self.folder}/socket")
        self.start_daemon()
        image_archive(WORK / "pause.tar", PAUSE, ["sleep", "2147483647"])
        for file, image in (WORK / "pause.tar", PAUSE), (WORK / "image.tar", IMAGE):
            done = run("ctr", "-a", f"{self.folder}/socket", "-n", "k8s.io", "image", "import", file)
            expect(done.code == 0, done)
            wait_for(lambda: self.call("ImageStatus", image={"image": image}).image.id, f"CRI has {image}")
        yield
        self.channel.close()
        self.stop_daemon()

    def start_daemon(self):
        with open(self.folder / "log", "a") as log:
            self.daemon = subprocess.Popen(["containerd", "--config", self.folder / "config.toml"], stdout=log, stderr=log)
        wait_for(lambda: not self.error("Version"), "CRI answers", 30)

    def stop_daemon(self):
        self.daemon.terminate()
        self.daemon.wait()

    def answer(self, method, fields):
        path, description = self.methods[method]
        request = description.input_type._concrete_class(**fields)
        call = self.channel.unary_unary(
            path, request_serializer=type(request).SerializeToString,
            response_deserializer=description.output_type._concrete_class.FromString,
        )  # fmt: skip
        return call(request, timeout=60)

    def call(self, method, **fields):
        try:
            return self.answer(method, fields)
        except self.grpc.RpcError as error:
            raise AssertionError(f"{method}: {error.code().name}: {error.details()}") from None

    def error(self, method, **fields):
        """The words of a request's failure, or none."""
        try:
            self.answer(method, fields)
        except self.grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    def pid(self, subject):
        return subject.pid()

    def pod(self, **options):
        return Pod(self, **options)

    def pod_group(self, name, memory):
        """A pod's cgroup, which is the kubelet's to make, and its unit."""
        if not self.systemd:
            folder = CGROUP / "kubepods" / f"pod{name}"
            folder.mkdir(parents=True)
            for above in CGROUP, folder.parent, folder:
                (above / "cgroup.subtree_control").write_text("+cpu +memory +pids")
            if memory:
                (folder / "memory.max").write_text(str(memory))
            return f"/kubepods/{folder.name}", None
        # A dash would be one more slice.
        unit = f"kubepods-pod{name.replace('-', '_')}.slice"
        limits = ["1", "MemoryMax", "t", memory] if memory else ["0"]
        done = run("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                   "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", *limits, "0")  # fmt: skip
        expect(done.code == 0, done)
        wait_for((CGROUP / "kubepods.slice" / unit).exists, f"{unit} is there")
        return f"/kubepods.slice/{unit}", unit

    def remove_pod_group(self, parent, unit):
        folder = CGROUP / parent.lstrip("/")
        # Before it is removed, which would take along what is in it.
        wait_for(lambda: not [entry for entry in folder.iterdir() if entry.is_dir()], f"nothing is left in {folder}")
        run("systemctl", "stop", unit) if unit else folder.rmdir()

    def containers(self):
        pods = [f"pod {pod.id}" for pod in self.call("ListPodSandbox").items]
        return pods + [container.id for container in self.call("ListContainers").containers]

    def traces(self):
        links = set(os.listdir("/sys/class/net")) - {BRIDGE}
        return super().traces() | {f"link {link}" for link in links}

    def sweep(self):
        for pod in self.call("ListPodSandbox").items:
            self.error("StopPodSandbox", pod_sandbox_id=pod.id)
            self.error("RemovePodSandbox", pod_sandbox_id=pod.id)
        for folder in CGROUP.glob("kubepods*/*pod*"):
            if folder.is_dir():
                run("systemctl", "stop", folder.name) if self.systemd else (folder / "cgroup.kill").write_text("1")
        for folder in reversed(list(CGROUP.glob("kubepods/**/"))):
            with contextlib.suppress(OSError):
                folder.rmdir()


ALL = tuple(Cri.drivers)


def mount(source, target, **fields):
    return {"host_path": str(source), "container_path": target, **fields}


def namespace(subject, kind):
    return os.readlink(f"/proc/{subject.pid()}/ns/{kind}")


@contextlib.contextmanager
def folder_with_mount(name):
    """A folder that is new, and in it another file system."""
    source = WORK / name
    shutil.rmtree(source, ignore_errors=True)
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("from the host\n")
    run("mount", "-t", "tmpfs", "sub", source / "sub")
    try:
        yield source
    finally:
        run("umount", source / "sub")


# --- life ----------------------------------------------------------------------------------------------------------------


@scenario(*ALL)
def cri_life(e):
    """A pod and its containers, from the request to nothing, in a network of its own."""
    pod = e.pod(network="POD")
    expect(pod.ready() and pod.status().runtime_handler == e.runtime, pod.status())
    first = pod.create("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    expect(first.state() == "CREATED", first.status())
    first.do("StartContainer")
    expect(first.state() == "RUNNING", first.status())
    second = pod.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    for kind in "net", "ipc", "uts":
        expect(namespace(first, kind) == namespace(second, kind) == namespace(pod, kind), f"not one {kind}")
    for kind in "pid", "mnt", "cgroup":
        expect(len({namespace(part, kind) for part in (first, second, pod)}) == 3, f"one {kind} for all")
    expect(first.good("hostname") == f"{pod.name}\n", "the hostname")
    for part in first, second:
        expect(e.group(part).parent == CGROUP / pod.parent.lstrip("/"), e.group(part))
        name = f"cri-containerd-{part.id}.scope" if e.systemd else part.id
        expect(e.group(part).name == name, e.group(part))
        wait_for(lambda: part.log("stdout") == "ready\n", "it is ready")
    error = e.error("RemovePodSandbox", pod_sandbox_id="nonesuch") or e.error("StartContainer", container_id=first.id)
    expect("FAILED_PRECONDITION" in error or "is in CONTAINER_RUNNING state" in error, f"started twice: {error!r}")
    expect(first.stop(10) == 3, f"SIGTERM has no effect: {first.status()}")
    expect(second.stop(1) == 137, f"not killed: {second.status()}")
    first.remove()
    again = pod.start("sh", "-c", "exit 7", name="again", attempt=1)
    expect(again.wait() == 7 and again.status().reason == "Error", again.status())
    done = pod.start("true")
    expect(done.wait() == 0 and done.status().reason == "Completed", done.status())
    # What still runs when the pod is stopped goes with it.
    last = pod.start("sh", "-c", "sleep 1000 & sleep 1000")
    pid, pause = last.pid(), pod.pid()
    pod.stop()
    expect(not pod.ready() and last.state() == "EXITED", f"{pod.status()} {last.status()}")
    expect(not os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{pause}"), "it runs on")
    pod.remove()


@scenario(*ALL)
def cri_daemon_restarted(e):
    pod = e.pod(network="POD")
    part = pod.start("sh", "-c", "sleep 1000 & sleep 1000", stdin=True)
    pid = part.pid()
    for signal_number in signal.SIGTERM, signal.SIGKILL:
        e.daemon.send_signal(signal_number)
        e.daemon.wait()
        expect(os.path.exists(f"/proc/{pid}"), "the container died with the daemon")
        e.start_daemon()
        expect(pod.ready() and part.state() == "RUNNING" and part.pid() == pid, f"not found again: {pod.status()} {part.status()}")
        expect(part.exec("sh", "-c", "exit 4").code == 4, "no exec after a restart")
    # An end that it does not see.
    other = pod.start("sleep", "1000")
    pid = other.pid()
    e.stop_daemon()
    os.kill(pid, signal.SIGKILL)
    e.start_daemon()
    expect(other.wait() in (137, 255), other.status())  # 255 for unknown
    pod.remove()


@scenario(*ALL)
def cri_shim_killed(e):
    """The pod's one shim dies: containerd has the runtime delete the pod's own container by force, and forgets the others."""
    pod = e.pod()
    part = pod.start("sh", "-c", "sleep 1000 & sleep 1000", resources={"memory_limit_in_bytes": 64 * MB})
    pause, pid, group = pod.pid(), part.pid(), e.group(pod)
    os.kill(int(re.search(r"^PPid:\s*(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M).group(1)), signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pause}") and not group.exists(), "the pod's own container is deleted")
    wait_for(lambda: part.state() == "EXITED" and not pod.ready(), "CRI knows")
    done = run(e.path, "--root", e.folder / "roots" / e.runtime / "k8s.io", "delete", "--force", part.id)
    expect(done.code == 0 and not os.path.exists(f"/proc/{pid}"), done)
    part.remove()
    pod.remove()


@scenario(*ALL)
def cri_many_at_once(e):
    def life(number):
        pod = e.pod(memory=128 * MB)
        parts = [pod.start("sleep", "1000", resources={"memory_limit_in_bytes": 64 * MB}) for _ in range(2)]
        ended = pod.run("sh", "-c", f"echo {number}; exit {number}")
        limits = [e.files(part, "memory.max")[0] for part in parts]
        codes = [part.stop() for part in parts]
        pod.remove()
        return limits, codes, (ended.code, ended.out)

    with ThreadPoolExecutor(AT_ONCE // 2) as pool:
        lives = list(pool.map(life, range(AT_ONCE // 2)))
    for number, (limits, codes, ended) in enumerate(lives):
        expect(limits == [str(64 * MB)] * 2 and codes == [137] * 2, f"{limits} {codes}")
        expect(ended == (number, f"{number}\n"), f"{number}: {ended}")


@scenario("cri")
def cri_errors(e):
    """What a person sees in the pod's events; printed with the result, to be looked at."""
    texts = {}
    pod = e.pod()
    for what, command, config, words in (
        ("missing command", "nonesuch", {}, ["nonesuch", "executable file not found in $PATH"]),
        ("missing path", "/no/such", {}, ["/no/such", "no such file or directory"]),
        ("not executable", "/etc/plain", {}, ["permission denied"]),
        ("file as folder", "true", {"working_dir": "/etc/plain"}, ["not a directory"]),
        ("folder over a file", "true", {"mounts": [mount("/etc", "/etc/plain")]}, ["not a directory"]),
        ("device", "true", {"devices": [{"host_path": "/no/device", "container_path": "/dev/x", "permissions": "r"}]}, []),
    ):
        try:
            part = pod.create(command, **config)
        except AssertionError as error:  # refused by CRI itself
            texts[what] = str(error)
            continue
        texts[what] = e.error("StartContainer", container_id=part.id)
        expect(texts[what] and all(word in texts[what] for word in words), f"{what}: no {words} in {texts[what]!r}")
        status = part.status()
        expect(part.state() == "EXITED" and (status.reason, status.exit_code) == ("StartError", 128), f"{what}: {status}")
        part.remove()
    pod.remove()
    return " | ".join(f"{what}: {text}" for what, text in texts.items())


# --- streams and logs ----------------------------------------------------------------------------------------------------


@scenario(*ALL)
def cri_exec_sync(e):
    pod = e.pod()
    part = pod.start("sleep", "1000", envs=[{"key": "OF_INIT", "value": b"1"}], working_dir="/tmp", security={"run_as_user": {"value": 1000}})
    done = part.exec("sh", "-c", "echo out; echo err >&2; id -u; pwd; echo $OF_INIT; cat /proc/1/comm; exit 5")
    expect((done.code, done.out, done.err) == (5, "out\n1000\n/tmp\n1\nsleep\n", "err\n"), done)
    text = part.good("seq", "50000")
    expect(text.splitlines() == [str(n) for n in range(1, 50001)], "the output is not whole")
    for command, words in ("nonesuch", "executable file not found in $PATH"), ("/etc/plain", "permission denied"):
        error = e.error("ExecSync", container_id=part.id, cmd=[command], timeout=10)
        expect(words in error, f"no {words!r} in {error!r}")
    # A probe that hangs is killed.
    error = e.error("ExecSync", container_id=part.id, cmd=["sleep", "777"], timeout=1)
    expect("DEADLINE_EXCEEDED" in error, error)
    expect("sleep 777" not in part.good("ps"), "the hanging one runs on")
    with ThreadPoolExecutor(5) as pool:
        codes = list(pool.map(lambda n: part.exec("sh", "-c", f"exit {n}").code, range(10)))
    expect(codes == list(range(10)), codes)
    part.stop()
    expect("CONTAINER_EXITED" in e.error("ExecSync", container_id=part.id, cmd=["true"], timeout=10), "exec in one that has ended")
    pod.remove()


@scenario(*ALL)
def cri_exec_stream(e):
    pod = e.pod()
    part = pod.start("sleep", "1000")
    stream = part.exec_stream("sh", "-c", "read x; echo out $x; echo err >&2; exit 5")
    stream.send(STDIN, "typed\n")
    expect((stream.end(), stream.out, stream.err) == (5, "out typed\n", "err\n"), stream.got)
    stream = part.exec_stream("cat", "/proc/self/cgroup", stdin=False)
    expect(stream.end() == 0 and re.fullmatch("0::/(container)?\n", stream.out), stream.got)
    text = "".join(f"line {n}\n" for n in range(50000))
    stream = part.exec_stream("head", "-c", str(len(text)))
    for start in range(0, len(text), 30000):
        stream.send(STDIN, text[start : start + 30000])
    expect(stream.end() == 0 and stream.out == text, f"{len(stream.out)} of {len(text)} bytes came back")
    stream = part.exec_stream("nonesuch")
    status = stream.end()
    expect("executable file not found in $PATH" in str(status), status)
    pod.remove()


# The size is set a moment after the start.
SIZE = ["sh", "-c", "tty; until [ \"$(stty size)\" = '40 100' ]; do sleep 0.1; done; stty size; until [ \"$(stty size)\" = '41 101' ]; do sleep 0.1; done; "
        "stty size; read x; echo got $x; exit 3"]  # fmt: skip


def on_terminal(stream):
    for rows in 40, 41:
        stream.resize(rows, rows + 60)
        stream.wait_for(f"{rows} {rows + 60}")
    stream.send(STDIN, "typed\n")
    stream.wait_for("got typed")


@scenario(*ALL)
def cri_exec_terminal(e):
    pod = e.pod()
    part = pod.start("sleep", "1000")
    stream = part.exec_stream(*SIZE, tty=True)
    on_terminal(stream)
    expect(stream.end() == 3 and "/dev/pts/0" in stream.out, stream.got)
    stream = part.exec_stream("sleep", "1000", tty=True)
    stream.send(STDIN, "\x03")
    expect(stream.end() == 130, f"control-C: {stream.got}")
    pod.remove()


def answers(stream, text):
    """A client sees what comes after it is attached, which is a moment after it is told so."""
    for _ in range(20):
        stream.send(STDIN, f"{text}\n")
        if stream.shows(f"out {text}\n", 1):
            return
    raise AssertionError(f"no answer to {text!r}: {stream.got}")


@scenario(*ALL)
def cri_attach(e):
    pod = e.pod()
    part = pod.start("sh", "-c", "while read x; do echo out $x; echo err $x >&2; done; echo ended", stdin=True)
    first, second = part.attach(), part.attach()
    answers(first, "one")
    answers(second, "two")
    first.wait_for("out two\n")
    # It goes on when its client goes.
    first.close()
    first = part.attach()
    answers(first, "three")
    second.wait_for("out three\n")
    first.close()
    second.close()
    expect(part.state() == "RUNNING", part.status())
    part.stop()
    for name, word in ("stdout", "out"), ("stderr", "err"):
        expect(list(dict.fromkeys(part.log(name).splitlines())) == [f"{word} {text}" for text in ("one", "two", "three")], part.lines())
    # With stdin_once the end of the first client is the end of stdin.
    part = pod.start("sh", "-c", "cat; echo ended; exit 6", stdin=True, stdin_once=True)
    stream = part.attach()
    stream.send(STDIN, "text\n")
    wait_for(lambda: part.log("stdout") == "text\n", "it is read")
    stream.close()
    expect(part.wait() == 6 and part.log("stdout") == "text\nended\n", part.lines())
    part = pod.start(*SIZE, stdin=True, tty=True)
    stream = part.attach(tty=True)
    on_terminal(stream)
    expect(part.wait() == 3 and "/dev/pts/0" in part.log("stdout"), part.lines())
    pod.remove()


@scenario(*ALL)
def cri_logs(e):
    pod = e.pod()
    part = pod.start("sh", "-c", "echo out; echo err >&2; printf 'no end'; printf '%020000d\\n' 7 >&2")
    expect(part.wait() == 0, part.status())
    lines = part.lines()
    expect([line for line in lines if line[0] == "stdout"] == [("stdout", "F", "out"), ("stdout", "P", "no end")] or
           part.log("stdout") in ("out\nno end", "out\nno end\n"), lines)  # fmt: skip
    parts = [line for line in lines if line[0] == "stderr"]
    expect([tag for _, tag, _ in parts] == ["F", "P", "F"] and part.log("stderr") == "err\n" + "7".zfill(20000) + "\n", parts)
    # As a kubelet turns logs over.
    part = pod.start("sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done")
    path = pathlib.Path(part.status().log_path)
    wait_for(lambda: len(part.lines()) > 2, "it writes")
    old = path.rename(path.with_suffix(".old"))
    part.do("ReopenContainerLog")
    wait_for(lambda: len(part.lines()) > 2, "it writes to the new file")
    part.stop()
    texts = [line.split(" ", 3)[3] for line in (old.read_text() + path.read_text()).splitlines()]
    expect(texts == [str(n) for n in range(1, len(texts) + 1)], f"lines are lost: {texts}")
    pod.remove()


# --- namespaces ----------------------------------------------------------------------------------------------------------


@scenario(*ALL)
def cri_shared_pid(e):
    pod = e.pod(pid="POD")
    first = pod.start("sh", "-c", "sleep 1001 & sleep 1002")
    second = pod.start("sh", "-c", "sleep 1003 & sleep 1004")
    expect(namespace(first, "pid") == namespace(second, "pid") == namespace(pod, "pid"), "not one pid namespace")
    shown = second.good("ps")
    expect(all(f"sleep {n}" in shown for n in (2147483647, 1001, 1002, 1003, 1004)), shown)
    expect(first.good("cat", "/proc/1/comm") == "sleep\n", "the pod's process is not the first")
    # No end of a first process takes them along: the runtime kills all of one container, and nothing of the other.
    error = e.error("ExecSync", container_id=first.id, cmd=["sh", "-c", "sleep 1005 >/dev/null 2>&1 & exit 0"], timeout=10)
    expect(not error, error)
    expect(first.stop(5) == 143, f"SIGTERM, which it may not ignore, as it is not process 1: {first.status()}")
    shown = second.good("ps")
    expect(not any(f"sleep {n}" in shown for n in (1001, 1002, 1005)), f"left of the first: {shown}")
    expect(all(f"sleep {n}" in shown for n in (1003, 1004)), f"the second one's are killed: {shown}")
    # Its first process ends by itself.
    third = pod.start("sh", "-c", "sleep 1006 & exit 8")
    expect(third.wait() == 8, third.status())
    expect("sleep 1006" not in second.good("ps"), "left of the third")
    pod.remove()


@scenario("cri")
def cri_target_pid(e):
    """As an ephemeral container for looking at another one."""
    pod = e.pod()
    target = pod.start("sleep", "1001")
    look = pod.start("sleep", "1002", security={"namespace_options": pod.namespaces | {"pid": "TARGET", "target_id": target.id}})
    expect(namespace(look, "pid") == namespace(target, "pid") != namespace(pod, "pid"), "not the target's")
    expect(look.good("cat", "/proc/1/cmdline") == "sleep\x001001\x00", "the target is not the first")
    look.stop()
    expect(target.state() == "RUNNING", target.status())
    look = pod.start("sleep", "1002", name="other", security={"namespace_options": pod.namespaces | {"pid": "TARGET", "target_id": target.id}})
    target.stop()
    expect(look.wait() == 137, look.status())
    pod.remove()


@scenario(*ALL)
def cri_host_namespaces(e):
    pod = e.pod(network="NODE", pid="NODE", ipc="NODE")
    part = pod.start("sh", "-c", "sleep 1001 & sleep 1002")
    for kind in "pid", "net", "ipc", "uts":
        expect(namespace(part, kind) == os.readlink(f"/proc/self/ns/{kind}"), f"not the host's {kind}")
    pid = part.pid()
    expect(part.good("readlink", f"/proc/{pid}/ns/mnt").strip() == namespace(part, "mnt"), "another /proc")
    part.stop()
    expect("sleep 1001" not in run("ps", "-e", "-o", "args").out, "left in the host's pid namespace")
    pod.remove()


@scenario(*ALL)
def cri_user_namespace(e):
    """A pod with hostUsers: false."""
    source = WORK / "users"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    (source / "file").write_text("from the host\n")
    os.chown(source / "file", 1000, 1000)
    ids = [{"host_id": FIRST_ID, "container_id": 0, "length": IDS}]
    pod = e.pod(network="POD", users=FIRST_ID, sysctls={"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"})
    expect(os.stat(f"/proc/{pod.pid()}").st_uid == FIRST_ID, "the pod's process belongs to somebody else")
    part = pod.start("sleep", "1000", mounts=[mount(source, "/v", uidMappings=ids, gidMappings=ids), mount(source, "/ro", readonly=True, uidMappings=ids, gidMappings=ids)],
                     resources={"memory_limit_in_bytes": 64 * MB}, stdin=True)  # fmt: skip
    other = pod.start("sleep", "1000", security={"run_as_user": {"value": 1000}}, tty=True)
    expect(namespace(part, "user") == namespace(other, "user") == namespace(pod, "user") != os.readlink("/proc/self/ns/user"), "not the pod's users")
    expect([os.stat(f"/proc/{p.pid()}").st_uid - FIRST_ID for p in (part, other)] == [0, 1000], "other owners")
    for kind in "net", "ipc", "uts":
        expect(namespace(part, kind) == namespace(pod, kind), f"not the pod's {kind}")
    out = part.good("sh", "-c", "id -u; cat /proc/self/uid_map; stat -c %u / /bin/busybox /home/user /v /v/file; cat /v/file; hostname")
    expect(out.split() == ["0", "0", str(FIRST_ID), str(IDS), "0", "0", "1000", "0", "1000", "from", "the", "host", pod.name], out)
    # Root of the pod is root of its files, and on the volume, of the host's.
    out = part.good("sh", "-c", "touch /v/new /new; mkdir /m; mount -t tmpfs x /m 2>&1; touch /ro/x 2>&1; stat -c %u /v/new /new; chown 1 /v/new; true")
    expect("Read-only file system" in out and "0\n0\n" in out, out)
    expect(os.stat(source / "new").st_uid == 1, f"outside it is {os.stat(source / 'new').st_uid}'s")
    expect(part.good("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced") == "1\n1\n", "the sysctls")
    expect(part.exec("sh", "-c", "echo 1 >/proc/sys/kernel/panic").code != 0, "a sysctl of the host can be written")
    expect(e.files(part, "memory.max") == [str(64 * MB)], "the limit differs")
    done = other.exec("sh", "-c", "id -u; cat /proc/self/uid_map")
    expect(done.code == 0 and done.out.split()[:3] == ["1000", "0", str(FIRST_ID)], done)
    stream = part.exec_stream("sh", "-c", "tty; stat -c %u $(tty); read x; exit 5", tty=True)
    stream.wait_for("/dev/pts/0\r\n0\r\n")
    stream.send(STDIN, "x\n")
    expect(stream.end() == 5, stream.got)
    part.do("UpdateContainerResources", linux={"memory_limit_in_bytes": 80 * MB})
    expect(e.files(part, "memory.max") == [str(80 * MB)], "the new limit differs")
    expect(part.stop() == 137, part.status())
    pod.remove()
    # Another pod's users are other ones, and this one has the shared pid namespace.
    pod = e.pod(network="POD", users=FIRST_ID + IDS, pid="POD")
    part = pod.start("sh", "-c", "sleep 1001 & sleep 1002")
    out = part.good("sh", "-c", "cat /proc/self/uid_map; ps")
    expect(out.split()[1] == str(FIRST_ID + IDS) and "sleep 2147483647" in out, out)
    expect(part.stop() == 137, part.status())
    pod.remove()


@scenario("cri")
def cri_network(e):
    pods = [e.pod(network="POD") for _ in range(2)]
    addresses = [pod.status().network.ip for pod in pods]
    expect(len(set(addresses)) == 2 and all(address.startswith("10.99.0.") for address in addresses), addresses)
    part = pods[0].start("sh", "-c", "while :; do echo hello | nc -l -p 80; done", security={"run_as_user": {"value": 1000}})
    out = pods[1].good("sh", "-c", f"ip address show eth0; until nc {addresses[0]} 80; do sleep 0.1; done")
    expect(addresses[1] in out and "hello" in out, out)
    out = pods[1].good("sh", "-c", f"ping -c 1 -W 5 {addresses[0]}; cat /proc/sys/net/ipv4/ping_group_range")
    expect("1 packets received" in out and out.split()[-2:] == ["0", "2147483647"], out)
    expect(part.state() == "RUNNING", part.status())
    for pod in pods:
        pod.remove()
    run("ip", "link", "del", BRIDGE)


@scenario(*ALL)
def cri_sysctls(e):
    pod = e.pod(network="POD", sysctls={"net.ipv4.ip_forward": "1", "net.core.somaxconn": "99", "kernel.shmmni": "77", "fs.mqueue.msg_max": "12"})
    files = [f"/proc/sys/{name}" for name in ("net/ipv4/ip_forward", "net/core/somaxconn", "kernel/shmmni", "fs/mqueue/msg_max",
             "net/ipv4/ip_unprivileged_port_start")]  # fmt: skip
    expect(pod.good("cat", *files).split() == ["1", "99", "77", "12", "0"], "the values differ")
    done = pod.run("sh", "-c", f"echo 0 >{files[0]}", security={"readonly_paths": ["/proc/sys"]})
    expect("Read-only file system" in done.err, done)
    pod.remove()
    for name in "kernel.shm_nonesuch", "net.nonesuch":
        try:
            e.pod(network="POD", sysctls={name: "1"})
        except AssertionError as error:
            expect(name.split(".")[1] in str(error), f"its name is not told: {error}")
        else:
            raise AssertionError(f"{name} is accepted")
    for folder in CGROUP.glob("kubepods*/*pod*"):
        if folder.is_dir():
            e.remove_pod_group(str(folder.relative_to(CGROUP)), folder.name if e.systemd else None)


# --- mounts --------------------------------------------------------------------------------------------------------------


@scenario("cri")
def cri_read_only_mounts(e):
    """Recursive ones and others, and what the runtime says that it can do."""
    handlers = {handler.name: handler.features for handler in e.call("Status").runtime_handlers}
    features = handlers[e.runtime]
    expect(features.recursive_read_only_mounts and features.user_namespaces, f"{e.runtime}: {features}")
    test = "for f in /d /d/sub; do touch $f/x 2>/dev/null && echo written || echo refused; done"
    pod = e.pod()
    with folder_with_mount("recursive") as source:
        for fields, wanted in (
            ({}, ["written", "written"]),
            ({"readonly": True}, ["refused", "written"]),
            ({"readonly": True, "recursive_read_only": True}, ["refused", "refused"]),
        ):
            out = pod.good("sh", "-c", test, mounts=[mount(source, "/d", **fields)]).split()
            expect(out == wanted, f"{fields}: {out}")
        out = pod.good("sh", "-c", test, mounts=[mount(source, "/d", readonly=True, recursive_read_only=True, propagation="PROPAGATION_PRIVATE")])
        expect(out.split() == ["refused"] * 2, out)
        expect((source / "sub/x").exists(), "the host's own is another")
        (source / "sub/y").touch()  # and can still be written
    pod.remove()


@scenario("cri")
def cri_recursive_read_only_users(e):
    """The same in a pod of its own users, where each mount is mapped as well."""
    ids = [{"host_id": FIRST_ID, "container_id": 0, "length": IDS}]
    pod = e.pod(network="POD", users=FIRST_ID)
    with folder_with_mount("mapped") as source:
        volume = mount(source, "/d", readonly=True, recursive_read_only=True, uidMappings=ids, gidMappings=ids)
        out = pod.good("sh", "-c", "stat -c %u /d /d/file; for f in /d /d/sub; do touch $f/x 2>&1; done; true", mounts=[volume])
        expect(out.startswith("0\n0\n") and out.count("Read-only file system") == 2, out)
    pod.remove()


@scenario("cri")
def cri_mount_propagation(e):
    run("mount", "--make-rshared", "/")
    pod = e.pod(security_context={"privileged": True})
    with folder_with_mount("propagation") as source:
        for mode, from_host, to_host in (
            ("PROPAGATION_PRIVATE", False, False), ("PROPAGATION_HOST_TO_CONTAINER", True, False), ("PROPAGATION_BIDIRECTIONAL", True, True),
        ):  # fmt: skip
            part = pod.start("sleep", "1000", mounts=[mount(source, "/d", propagation=mode)], security={"privileged": True})
            late, back = source / f"late-{mode}", source / f"back-{mode}"
            late.mkdir()
            back.mkdir()
            run("mount", "-t", "tmpfs", "late", late)
            part.good("mount", "-t", "tmpfs", "back", f"/d/{back.name}")
            inside, outside = part.good("cat", "/proc/self/mountinfo"), pathlib.Path("/proc/self/mountinfo").read_text()
            run("umount", late)
            run("umount", back)
            part.stop()
            expect((f"/d/{late.name} " in inside) == from_host, f"{mode}: the host's new mount is {'not ' if from_host else ''}seen")
            expect((f"{back} " in outside) == to_host, f"{mode}: the container's mount is {'not ' if to_host else ''}seen outside")
    pod.remove()


@scenario("cri")
def cri_mounts(e):
    """Files, folders that are made on the way, through links, and an image as a volume."""
    pod = e.pod()
    with folder_with_mount("mounts") as source:
        mounts = [mount(source, "/a/b"), mount(source / "file", "/etc/one", readonly=True), mount(source, "/link-to-root/inside"),
                  {"image": {"image": PAUSE}, "container_path": "/image", "readonly": True}]  # fmt: skip
        out = pod.good("sh", "-c", "cat /a/b/file /etc/one /inside/file /image/etc/plain; touch /a/b/new; touch /image/x 2>&1; true", mounts=mounts)
        expect(out.startswith("from the host\n" * 3 + "#!/bin/sh\n") and "Read-only file system" in out, out)
        expect((source / "new").exists() and not os.path.exists("/inside"), "mounted elsewhere")
        out = pod.good("sh", "-c", "df -k /dev/shm | tail -n 1; grep -c . /etc/hosts /etc/resolv.conf /etc/hostname; true")
        expect("65536" in out, out)
    pod.remove()


# --- limits --------------------------------------------------------------------------------------------------------------

RESOURCES = {"memory_limit_in_bytes": 64 * MB, "memory_swap_limit_in_bytes": 64 * MB, "cpu_quota": 50000, "cpu_period": 100000,
             "cpu_shares": 512, "oom_score_adj": 985, "unified": {"memory.oom.group": "1", "memory.high": str(48 * MB)}}  # fmt: skip
WANTED = {"memory.max": str(64 * MB), "memory.swap.max": "0", "cpu.max": "50000 100000", "cpu.weight": "59", "memory.oom.group": "1",
          "memory.high": str(48 * MB)}  # fmt: skip


@scenario(*ALL)
def cri_limits(e):
    """And a resize, which may go up and down and leaves alone what it does not name."""
    pod = e.pod(memory=256 * MB)
    part = pod.start("sleep", "1000", resources=RESOURCES)
    wanted = dict(WANTED)
    got = dict(zip(wanted, e.files(part, *wanted)))
    expect(got == wanted, f"outside: {got}")
    expect(part.good("cat", *(f"/sys/fs/cgroup/{file}" for file in wanted)).split("\n")[:-1] == list(wanted.values()), "inside")
    expect(part.good("cat", "/proc/1/oom_score_adj") == "985\n", "oom_score_adj")
    expect(pathlib.Path(f"/proc/{pod.pid()}/oom_score_adj").read_text() == "-998\n", "the pod's oom_score_adj")
    expect((CGROUP / pod.parent.lstrip("/") / "memory.max").read_text() == f"{256 * MB}\n", "the pod's limit")
    for resources, changes in (
        ({"memory_limit_in_bytes": 128 * MB, "memory_swap_limit_in_bytes": 128 * MB}, {"memory.max": str(128 * MB)}),
        ({"cpu_quota": 25000, "cpu_period": 50000}, {"cpu.max": "25000 50000"}),
        ({"cpu_shares": 1024}, {"cpu.weight": "100"}),
        ({"unified": {"memory.high": str(16 * MB)}}, {"memory.high": str(16 * MB)}),
        ({"memory_limit_in_bytes": 32 * MB, "memory_swap_limit_in_bytes": 32 * MB, "cpu_quota": -1}, {"memory.max": str(32 * MB), "cpu.max": "max 50000"}),
    ):
        part.do("UpdateContainerResources", linux=resources)
        wanted |= changes
        got = dict(zip(wanted, e.files(part, *wanted)))
        expect(got == wanted, f"{resources}: {got}, wanted {wanted}")
    if e.systemd:
        run("systemctl", "daemon-reload")
        wanted.pop("memory.oom.group")  # systemd has no such property
        wanted["cpu.max"] = "max 100000"  # nor a period without a quota
        if e.runtime == "runc":
            wanted["memory.swap.max"] = "max"  # which it does not tell systemd
        got = dict(zip(wanted, e.files(part, *wanted)))
        expect(got == wanted, f"after daemon-reload: {got}, wanted {wanted}")
    error = e.error("UpdateContainerResources", container_id=part.id, linux={"unified": {"memory.nonesuch": "1"}})
    expect("memory.nonesuch" in error, f"a file that is not there: {error!r}")
    expect(e.files(part, *wanted) == list(wanted.values()), "a refused update changed something")
    pod.remove()


@scenario(*ALL)
def cri_stats(e):
    pod = e.pod()
    # containerd counts the processes of containers, and not the pod's own.
    part = pod.start("sh", "-c", "sleep 1000 & sleep 1001 & sleep 1002", resources={"memory_limit_in_bytes": 64 * MB})
    wait_for(lambda: part.do("ContainerStats").stats.cpu.usage_core_nano_seconds.value > 0, "its time is counted")
    stats = part.do("ContainerStats").stats
    expect(0 < stats.memory.working_set_bytes.value < 64 * MB, stats)
    expect([s.attributes.id for s in e.call("ListContainerStats").stats] == [part.id], "another list")
    stats = e.call("PodSandboxStats", pod_sandbox_id=pod.id).stats
    expect(stats.linux.process.process_count.value >= 3 and stats.linux.memory.usage_bytes.value > 0, stats)
    pod.remove()


@scenario(*ALL)
def cri_oom(e):
    pod = e.pod()
    # Only of a container that goes on is CRI sure to hear: an end overtakes its look at the cgroup.
    part = pod.start("sh", "-c", f"{' '.join(EAT)}; sleep 1; exit 9", resources={"memory_limit_in_bytes": 24 * MB})
    expect(part.wait() == 9 and part.status().reason == "OOMKilled", part.status())
    # With memory.oom.group all go at once, as a kubelet has it.
    part = pod.start("sh", "-c", f"{' '.join(EAT)}; sleep 1000", resources={"memory_limit_in_bytes": 24 * MB, "unified": {"memory.oom.group": "1"}})
    expect(part.wait() == 137, part.status())
    expect(pod.ready(), "the pod went along")
    pod.remove()


# --- security ------------------------------------------------------------------------------------------------------------


@scenario("cri")
def cri_process_settings(e):
    pod = e.pod()
    out = pod.good("sh", "-c", "id -u; id -g; id -G; pwd; echo $A-$FROM_IMAGE; echo $0 $1", "zero", args=["one"], working_dir="/tmp",
                   envs=[{"key": "A", "value": b"b c"}],
                   security={"run_as_user": {"value": 1000}, "run_as_group": {"value": 1234}, "supplemental_groups": [5678]})  # fmt: skip
    lines = out.splitlines()
    expect(lines[:2] == ["1000", "1234"] and "5678" in lines[2].split() and lines[3:] == ["/tmp", "b c-yes", "zero one"], out)
    out = pod.good("sh", "-c", "id -u; id -g; echo $HOME; pwd", security={"run_as_username": "user"}, working_dir="/made/on/the/way")
    expect(out.split() == ["1000", "1000", "/home/user", "/made/on/the/way"], out)
    out = pod.good("sh", "-c", "touch /x 2>&1; touch /dev/shm/x && echo rest", security={"readonly_rootfs": True})
    expect("Read-only file system" in out and out.endswith("rest\n"), out)
    # kmsg is in no default list.
    device = {"host_path": "/dev/kmsg", "container_path": "/dev/mine", "permissions": "r"}
    test = "true </dev/mine && echo read; true 2>/dev/null >>/dev/mine && echo written; true"
    expect(pod.good("sh", "-c", test, devices=[device]) == "read\n", "permissions of a device")
    pod.remove()


@scenario("cri")
def cri_security(e):
    pod = e.pod()
    expect(pod.fields("Seccomp", "NoNewPrivs") == ["2", "0"], "the defaults")
    expect(pod.fields("Seccomp", security={"seccomp": {"profile_type": "Unconfined"}}) == ["0"], "unconfined")
    expect(pod.fields("NoNewPrivs", security={"no_new_privs": True}) == ["1"], "no_new_privs")
    profile = e.folder / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    out = pod.good("sh", "-c", "mkdir /d 2>&1; true", security={"seccomp": {"profile_type": "Localhost", "localhost_ref": str(profile)}})
    expect("No space left on device" in out, out)
    out = pod.good("sh", "-c", "unshare -m true 2>&1; true")
    expect("Operation not permitted" in out, out)
    bind = f"{1 << 10:016x}"
    expect(pod.fields("CapBnd", "CapEff", security={"capabilities": {"add_capabilities": ["NET_BIND_SERVICE"], "drop_capabilities": ["ALL"]}}) == [bind] * 2, "one")
    fields = pod.fields("CapEff", "CapAmb", security={"run_as_user": {"value": 1000}, "capabilities": {"add_ambient_capabilities": ["NET_BIND_SERVICE"]}})
    expect(fields[0] in ("0" * 16, bind), fields)
    paths = {"masked_paths": ["/proc/kcore", "/etc", "/no/such"], "readonly_paths": ["/proc/sys", "/home", "/none"]}
    out = pod.good("sh", "-c", "head -c 1 /proc/kcore | wc -c; ls /etc | wc -l; touch /home/x 2>&1; (echo 1 >/proc/sys/kernel/panic) 2>&1; true", security=paths)
    expect(out.split()[:2] == ["0", "0"] and out.count("Read-only file system") == 2, out)
    # With neither list, as a procMount: Unmasked has it.
    expect(int(pod.good("sh", "-c", "grep -c ' /proc/' /proc/mounts; true")) == 0, "no list")
    pod.remove()


@scenario(*ALL)
def cri_privileged(e):
    pod = e.pod(security_context={"privileged": True})
    bounding = re.search(r"^CapBnd:\s*(\S+)", pathlib.Path("/proc/self/status").read_text(), re.M).group(1)
    privileged = {"privileged": True, "seccomp": {"profile_type": "Unconfined"}}
    expect(pod.fields("CapEff", "Seccomp", security=privileged) == [bounding, "0"], "capabilities or seccomp differ")
    pod.good("sh", "-c", "mkdir /m && mount -t tmpfs x /m && echo 0 >/proc/sys/kernel/panic && [ -c /dev/kmsg ] && mkdir /sys/fs/cgroup/x "
             "&& rmdir /sys/fs/cgroup/x && mknod /tmp/k c 1 11 && : <>/tmp/k", security=privileged)  # fmt: skip
    part = pod.start("sleep", "1000", security=privileged)
    expect(int(part.good("grep", "CapEff", "/proc/self/status").split()[1], 16) == int(bounding, 16), "exec has less")
    pod.remove()


# --- several runtimes ----------------------------------------------------------------------------------------------------


@scenario(*ALL)
def cri_runtime_classes(e):
    """Pods of all the runtimes side by side; each is of the one that was asked for, and ends without the others."""
    pods = {name: e.pod(handler=name) for name in RUNTIMES}
    parts = {name: pod.start("sleep", "1000", resources={"memory_limit_in_bytes": 64 * MB}) for name, pod in pods.items()}
    for name, pod in pods.items():
        expect(pod.status().runtime_handler == name, pod.status())
        root = e.folder / "roots" / name / "k8s.io"
        states = {entry.name for entry in root.iterdir()}
        expect({pod.id, parts[name].id} <= states, f"{name} has {states}, not {pod.id} and {parts[name].id}")
        expect(len(states & {p.id for p in [*pods.values(), *parts.values()]}) == 2, f"{name} has others' {states}")
        expect(e.files(parts[name], "memory.max") == [str(64 * MB)], name)
    pods.pop(e.runtime).remove()
    for name, pod in pods.items():
        expect(parts[name].exec("sh", "-c", "exit 4").code == 4, f"{name} does not go on")
        pod.remove()
    error = e.error("RunPodSandbox", config={"metadata": {"name": "none", "uid": "none", "namespace": "bed"}}, runtime_handler="nonesuch")
    expect("nonesuch" in error, f"a handler that there is not: {error!r}")
