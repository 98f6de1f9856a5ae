"""What integration/ctr and integration/engines share: running a program, expectations, an image, the look at what a scenario
left behind, and one try of one."""
import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import pty
import select
import shutil
import struct
import subprocess
import tarfile
import termios
import time
import traceback

IMAGE = "example.org/busybox:latest"
CGROUP = pathlib.Path("/sys/fs/cgroup")
PF_KTHREAD = 0x00200000


class Skip(Exception):
    pass


class Result:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __str__(self):
        return f"exit code {self.code}, stdout {self.out[-300:]!r}, stderr {self.err[-600:]!r}"


def run(*command, input="", timeout=180, **more):
    return Result(subprocess.run(list(map(str, command)), input=input, capture_output=True, text=True, timeout=timeout, **more))


def expect(condition, what):
    if not condition:
        raise AssertionError(str(what))


def refused(done, words):
    """Engines decide by these words, so they are compared with regard to case."""
    expect(done.code != 0, "it ran")
    expect(words in done.err, f"no {words!r} in: {done}")


def wait_for(condition, what, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Terminal:
    """A command that has a terminal of its own, as a person's has."""

    def __init__(self, *command, **more):
        self.master, slave = pty.openpty()
        self.resize(24, 80)
        self.shown = ""
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **more,
        )  # fmt: skip
        os.close(slave)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self, seconds):
        """False at the end: the last user of the terminal has gone."""
        expect(select.select([self.master], [], [], seconds)[0], f"nothing more within {seconds} s; shown: {self.shown!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError:
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)

    def wait_for(self, text, seconds=15):
        while text not in self.shown:
            expect(self.read(seconds), f"the end before {text!r}: {self.shown!r}")

    def shows(self, text, seconds):
        with contextlib.suppress(AssertionError):
            self.wait_for(text, seconds)
        return text in self.shown

    def end(self, seconds=15):
        """The exit code and all that was shown."""
        try:
            while self.read(seconds):
                pass
            return self.process.wait(timeout=seconds), self.shown
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)


def on_terminal(command, script, **more):
    terminal = Terminal(*command, **more)
    terminal.type(script)
    return terminal.end(30)


def image_archive(file, image=IMAGE, command=("sh",)):
    """An image as an archive that containerd, Docker and Podman read: busybox, its applets' names, two users, files to fail on."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:

        def add(name, data=b"", mode=0o644, **fields):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(data)
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(data))

        for folder in "bin etc home home/user proc sys dev run root var".split():
            owner = 1000 if folder == "home/user" else 0
            add(folder, mode=0o755, type=tarfile.DIRTYPE, uid=owner, gid=owner)
        add("tmp", mode=0o1777, type=tarfile.DIRTYPE)
        add("bin/busybox", pathlib.Path(shutil.which("busybox")).read_bytes(), 0o755)
        for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
            if applet != "busybox":
                add(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")
        add("etc/group", b"root:x:0:\nuser:x:1000:\nextra:x:1234:user\n")
        add("etc/plain", b"#!/bin/sh\necho must not run\n")
        add("bin/no-interpreter", b"#!/no/interpreter\n", 0o755)
        add("bin/garbage", b"\x00\x01 not a program\n", 0o755)
        add("link-to-root", type=tarfile.SYMTYPE, linkname="/")

    blobs = {}

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    def path(descriptor):
        return "blobs/" + descriptor["digest"].replace(":", "/")

    layer = blob(layer.getvalue(), "layer.v1.tar")
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": command, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    config = blob(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": config, "layers": [layer]}
    manifest = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": image}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode(),
        # Docker's own form, which it goes by.
        "manifest.json": json.dumps([{"Config": path(config), "RepoTags": [image], "Layers": [path(layer)]}]).encode(),
        **blobs,
    }
    with tarfile.open(file, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def processes_mounts_cgroups():
    """What containers could leave anywhere. The one mount below /run/tare/@tare is tare's to keep."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (process / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue  # it has ended
        if not int(rest.split()[6]) & PF_KTHREAD:  # the kernel's own come and go
            found.add(f"process {process.name} {name}")
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if not point.startswith("/run/tare/@tare"):
            found.add(f"mount {point}")
    for folder, _, _ in os.walk(CGROUP):
        found.add(f"cgroup {folder}")
    return found


def attempt(function, subject, traces, sweep, settle=3):
    """One scenario once: `ok`, `FAIL` or `skip`, and why. What it leaves is a failure, and swept away for the next one."""
    before = traces()
    result, detail = "ok", ""
    begin = time.monotonic()
    try:
        detail = function(subject) or ""
    except Skip as reason:
        result, detail = "skip", str(reason)
    except AssertionError as reason:
        result, detail = "FAIL", str(reason)
    except subprocess.TimeoutExpired as reason:
        result, detail = "FAIL", f"no end within {reason.timeout} s: {' '.join(map(str, reason.cmd))}"
    except Exception:
        result, detail = "FAIL", traceback.format_exc(limit=-2)
    seconds = f"{time.monotonic() - begin:.1f} s"
    left = set()

    def clean():
        left.clear()
        left.update(traces() - before)
        return not left

    try:
        wait_for(clean, "", settle if result == "ok" else 0)  # a shim ends a little after its container
    except AssertionError:
        if result == "ok":
            result, detail = "FAIL", "left behind: " + ", ".join(sorted(left))
        sweep()
    return result, f"{seconds}{detail and ': '}{detail}"
