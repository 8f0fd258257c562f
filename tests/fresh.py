"""A fresh Debian 12 with a systemd of its own: nothing of this host but its network and where its pip finds packages.

Needs root, debootstrap and a mirror. The root file system, 250 MB and what is installed there, lies in a folder of the
caller's, in which nothing is mounted as others see it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from manager import Manager, booted

SUITE = "bookworm"

# $1: the root; the rest: folders of this host that are seen there too, to read
_BOOT = r"""
set -e
root="$1"; shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
for place in "$@"; do
  mkdir -p ".$place"
  mount --bind "$place" ".$place"
  mount -o remount,ro,bind ".$place"
done
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do : > dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/before
pivot_root . run/before
cd /
umount -l run/before
rmdir run/before
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other \
  /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --log-level=info
"""


@contextmanager
def fresh(folder: Path, checkout: Path) -> Iterator[Manager]:
    """Debian as debootstrap leaves it, booted, with a copy of ``checkout`` in /root/gwstream."""
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed: apt-get install debootstrap")
    root = folder / "root"
    try:
        debian(root)
        copy(checkout, root / "root" / "gwstream")
        with booted(folder, _BOOT, str(root), *pip(root)) as at:
            yield at
    finally:
        shutil.rmtree(root, ignore_errors=True)


def debian(root: Path) -> None:
    """The smallest Debian that boots, from this host's mirror, else from the usual one."""
    root.mkdir()
    made = ["debootstrap", "--variant=minbase", "--include=systemd-sysv", SUITE, str(root), *_mirror()]
    done = subprocess.run(made, capture_output=True, text=True, timeout=900)
    assert not done.returncode, done.stdout[-2000:] + done.stderr
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")  # which Debian's installer writes


def _mirror() -> list[str]:
    form = "$(ORIGIN) $(CODENAME) $(REPO_URI)"
    told = subprocess.run(["apt-get", "indextargets", "--format", form], capture_output=True, text=True)
    return re.findall(rf"(?m)^Debian {SUITE} (\S+)$", told.stdout)[:1]


def copy(checkout: Path, to: Path) -> None:
    """The files under version control, as they are now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if (checkout / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / name, to / name)


def pip(root: Path) -> list[str]:
    """Let the new system's pip find packages where this host's does; the folders of this host it needs for that."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(sorted(re.findall(r"(?m)^(?:global|install|user|:env:)\.(\S+?)='(.*)'$", told)))
    files, folders = root / "etc" / "pip", set()
    files.mkdir()
    for name, value in found.items():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.is_file():
                shutil.copy(path, files)
                found[name] = found[name].replace(word, f"/etc/pip/{path.name}")
            elif path.is_absolute() and path.is_dir():
                folders.add(str(path.parent if path.name == "simple" else path))  # an index has its files beside it
    lines = [f"{name} = {value}" for name, value in found.items()]
    (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    return sorted(folders)
