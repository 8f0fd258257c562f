"""A real systemd as process 1 of namespaces of its own, in which units run as on a host. Needs root and no systemd.

It sees the host's files and network. Its own are /etc (a copy), /run, /opt, /var/lib, the units, and a control group.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SYSTEMD = Path("/lib/systemd/systemd")
USER, GROUP, OTHERS = 987, 987, 988  # gwstream's, and a group that may read frames
_TARGETS = "sysinit basic multi-user network-online shutdown umount default"

# $1: folder; $2: prefix of Python itself; $3: of its environment; $4: the checkout
_BOOT = r"""
set -e
mount --make-rprivate /
cp -a /etc "$1/etc"
rm -rf "$1/etc/systemd"
mkdir -p "$1/etc/systemd/system" "$1/etc/gwstream" "$1/units"
echo "gwstream:x:987:987::/nonexistent:/usr/sbin/nologin" >> "$1/etc/passwd"
printf 'gwstream:x:987:\nframes:x:988:\n' >> "$1/etc/group"
for name in TARGETS; do
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$name" > "$1/units/$name.target"
done
mount --bind "$1/etc" /etc
mount --bind "$1/units" /lib/systemd/system
for place in /run /opt /var/lib; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p /opt/python /opt/src /opt/gwstream/bin /opt/gwstream/lib
mount --bind "$2" /opt/python
mount --bind "$3/lib" /opt/gwstream/lib
mount --bind "$4" /opt/src
printf 'home = /opt/python/bin\n' > /opt/gwstream/pyvenv.cfg
ln -s /opt/python/bin/python3 /opt/gwstream/bin/python
cd /opt/gwstream/bin
printf '#!/opt/gwstream/bin/python\nimport sys\nfrom gwstream.cli import main\nsys.exit(main())\n' > gwstream
chmod 755 gwstream
cd /
mount -t proc proc /proc
while umount /sys/fs/cgroup/* 2>/dev/null || umount /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /  # among ourselves: secrets reach units that way
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
  /lib/systemd/systemd --system --unit=default.target --log-target=console --log-level=info
""".replace("TARGETS", _TARGETS)


@dataclass
class Manager:
    """``etc``: its /etc, where units and settings go; ``process``: its process 1 as we see it."""

    folder: Path
    process: int

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    def run(self, *command: str, check: bool = True, limit: float = 240) -> str:
        """Run a program as root in its namespaces; what it prints."""
        inside = ("nsenter", "-t", str(self.process), "--mount", "--pid", "--cgroup", "--uts", "--")
        done = subprocess.run((*inside, *command), capture_output=True, text=True, timeout=limit)
        assert not check or not done.returncode, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def manager(folder: Path) -> Iterator[Manager]:
    """Skips the test where it cannot be had."""
    root = Path(__file__).resolve().parents[1]
    with booted(folder, _BOOT, str(folder), sys.base_prefix, sys.prefix, str(root)) as at:
        yield at


@contextmanager
def booted(folder: Path, script: str, *arguments: str) -> Iterator[Manager]:
    """What ``script`` (bash, with ``arguments``) starts in new namespaces in the end: systemd. Its log is in
    ``folder``. Skips the test where it cannot be had."""
    if os.geteuid() or not SYSTEMD.exists() or Path("/run/systemd/system").exists() or not shutil.which("unshare"):
        pytest.skip("needs root, systemd as a package, and no systemd that runs already")
    names = ("--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts")
    with _control_group() as joined, (folder / "log").open("wb") as log:
        outer = subprocess.Popen(
            [
                "sh",
                "-c",
                f'echo $$ > "{joined}" && exec unshare {" ".join(names)} bash -c "$0" boot "$@"',
                script,
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Manager(folder, _first(outer, folder / "log"))
        finally:
            outer.send_signal(signal.SIGKILL)  # and with it all it has started
            outer.wait()


def _first(outer: subprocess.Popen[bytes], log: Path) -> int:
    """Process 1 of the new namespace, once it takes orders."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    end = time.monotonic() + 60
    while time.monotonic() < end and outer.poll() is None:
        with suppress(OSError, IndexError):
            process = int(children.read_text().split()[0])
            if "systemd" in Path(f"/proc/{process}/cmdline").read_text().split("\0")[0]:
                inside = ("nsenter", "-t", str(process), "--mount", "--pid", "--cgroup", "--")
                state = subprocess.run((*inside, "systemctl", "is-system-running"), capture_output=True, text=True)
                if state.stdout.strip() in ("running", "degraded"):
                    return process
        time.sleep(0.1)
    raise AssertionError(f"systemd does not start:\n{log.read_text()}")


@contextmanager
def _control_group() -> Iterator[Path]:
    """A control group of our own in the unified hierarchy, removed at the end; gives the file by which to join it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    top = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if top is None:
        pytest.skip("needs the unified hierarchy of control groups")
    made = top / f"gwstream-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made / "cgroup.procs"
    finally:
        end = time.monotonic() + 20
        while made.exists() and time.monotonic() < end:  # processes that were killed take a while to go
            for folder in sorted((path for path in made.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    folder.rmdir()
            with suppress(OSError):
                made.rmdir()
            time.sleep(0.05)
