"""What somebody could do who had taken over the daemon: tries it all, and prints as JSON what came of each.

Run by `test_confined` in the place of the daemon, confined as that is. Arguments: a port of this host where somebody
listens, a directory of frames, and an address of this host on its network.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

STATE = os.environ.get("STATE_DIRECTORY", "/var/lib")
DEV = Path("/dev")
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def connect(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=3):
        pass


def bind(host: str, port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))


def write(path: str) -> None:
    file = Path(path) / "intruder"
    file.write_text("x")
    file.unlink()


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def turned_executable() -> None:
    piece = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
    call("mprotect", ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC)


def first_process() -> None:
    if not Path("/proc/1").exists():
        raise PermissionError("not to be seen")


def devices() -> None:
    if not {"mem", "kmsg", "vda", "sda", "nvme0", "port", "fuse", "kvm", "net"} & {one.name for one in DEV.iterdir()}:
        raise PermissionError("none")


def make_group() -> None:
    folder = Path("/sys/fs/cgroup/intruder")
    folder.mkdir()
    folder.rmdir()


def apart(attempt: Callable[[], object]) -> str:
    """What came of it in a process of its own, so that one does not help or hinder the next; empty: it worked."""
    read, written = os.pipe()
    if child := os.fork():
        os.close(written)
        os.waitpid(child, 0)
        with open(read, encoding="utf-8") as said:  # noqa: PTH123
            return said.read()
    try:
        attempt()
        said = ""
    except OSError as problem:
        said = f"{errno.errorcode.get(problem.errno or 0, type(problem).__name__)}: {problem}"
    os.write(written, said.encode())
    os._exit(0)


def main(port: int, frames: str, neighbour: str) -> None:
    watched = ctypes.c_char_p(frames.encode())
    tries: dict[str, Callable[[], object]] = {
        "read frames": lambda: list(Path(frames).iterdir()),
        "watch frames": lambda: call("inotify_add_watch", libc.inotify_init1(0), watched, 8),
        "write state": lambda: write(STATE),
        "write /tmp": lambda: write("/tmp"),
        "connect here": lambda: connect("127.0.0.1", port),
        "bind 9480": lambda: bind("127.0.0.1", 9480),
        "read boot id": lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        "write frames": lambda: write(frames),
        "write /dev/shm": lambda: write("/dev/shm"),
        "write /etc": lambda: write("/etc"),
        "write /opt": lambda: write("/opt/gwstream"),
        "write /var": lambda: write("/var/lib"),
        "make a control group": make_group,
        "read /root": lambda: list(Path("/root").iterdir()),
        "read /etc/shadow": lambda: Path("/etc/shadow").read_text(),
        "set sysctl": lambda: Path("/proc/sys/kernel/domainname").write_text("x"),
        "connect a neighbour": lambda: connect(neighbour, port),
        "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "new user namespace": lambda: call("unshare", 0x10000000),
        "new mount namespace": lambda: call("unshare", 0x20000),
        "mount": lambda: call("mount", 0, 0, 0, 0, 0),
        "ptrace": lambda: call("ptrace", 16, 1, 0, 0),
        "become root": lambda: os.setuid(0),
        "change root": lambda: os.chroot("/tmp"),
        "change owner": lambda: os.chown("/tmp", 0, 0),
        "set clock": lambda: call("syscall", 227, 0, (ctypes.c_long * 2)(0, -1)),
        "real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "raise priority": lambda: os.nice(-1),
        "suid file": lambda: Path(STATE).chmod(0o4700),
        "kernel log": lambda: call("klogctl", 3, 0, 0),
        "load module": lambda: call("syscall", 313, -1, 0, 0),
        "bpf": lambda: call("syscall", 321, 0, 0, 0),
        "executable memory": executable_memory,
        "turned executable": turned_executable,
        "see the first process": first_process,
        "devices": devices,
    }
    print(json.dumps({name: apart(attempt) for name, attempt in tries.items()}, indent=1), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
