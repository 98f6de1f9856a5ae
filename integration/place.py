"""A mount namespace of a script's own, so that others' mounts do not come to it, and its own do not go to the host."""
import ctypes
import os
import pathlib

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, PR_SET_CHILD_SUBREAPER = 0x20000, 36
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18, 1 << 20
RUN = b"/run/tare"


def call(name, *args):
    if getattr(libc, name)(*args) != 0:
        raise OSError(ctypes.get_errno(), f"{name}{args}")


def enter(writable=None):
    """Enters it, with a /run/tare of its own, and becomes the reaper of all orphans below. With `writable`, a directory, that
    one is an empty tmpfs, the rest of the root file system is read-only, and what a test mounts stays its own."""
    # The antechamber's namespace must get a higher number than this one (Linux 6.18), and each processor gives its own.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pathlib.Path(os.fsdecode(RUN)).mkdir(exist_ok=True)
    call("unshare", CLONE_NEWNS)
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    if not writable:
        call("mount", None, b"/", None, MS_REC | MS_SHARED, None)  # as on a host with systemd, where a leak would spread
    call("mount", b"tare", RUN, b"tmpfs", 0, b"mode=711")
    if writable:
        call("mount", b"tare", os.fsencode(writable), b"tmpfs", 0, None)
        call("mount", None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def use_all_processors():
    """Once the antechamber is made."""
    os.sched_setaffinity(0, range(os.cpu_count()))
