"""deploy/compose.yml and the Containerfile, held to the real programs as far as that goes without others' images:
Debian's broker and Prometheus take the very files; make test-install builds and runs the image on a fresh Debian."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fresh import copy, debian, pip
from test_flow import MOSQUITTO, free_port, wait

from gwstream.config import load

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def mounts(service: str) -> dict[str, str]:
    """Where the files and volumes of a service are in its container: source by target."""
    parts = (re.fullmatch(r"(.+?):(/[^:]+)(:ro)?", one) for one in SERVICES[service]["volumes"])
    return {part[2]: part[1] for part in parts if part}


def read(service: str, target: str) -> Any:
    return yaml.safe_load((DEPLOY / mounts(service)[target]).read_text(encoding="utf-8"))


def test_the_compose_file_is_valid() -> None:
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed: apt-get install docker-compose")
    done = subprocess.run([tool, "-f", str(DEPLOY / "compose.yml"), "config", "-q"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_mounted_file_exists_and_every_port_is_this_hosts() -> None:
    for name, service in SERVICES.items():
        assert len(mounts(name)) == len(service["volumes"])
        for source in mounts(name).values():
            assert source in COMPOSE["volumes"] or source.startswith("${FRAMES") or (DEPLOY / source).is_file(), source
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert ":" in service["image"] or "build" in service, "an image of no version"
    build = SERVICES["gwstream"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_parts_find_each_other() -> None:
    config = load(DEPLOY / mounts("gwstream")["/etc/gwstream/gwstream.toml"])
    listeners = re.findall(r"(?m)^listener (\d+)$", (DEPLOY / "compose" / "mosquitto.conf").read_text())
    assert config.publish.host in SERVICES
    assert [str(config.publish.port)] == listeners
    assert config.service.state in mounts("gwstream")
    assert {one.directory.parent for one in config.source.detectors.values() if one.directory} == {Path("/frames")}
    assert "/frames" in mounts("gwstream")
    scraped = read("prometheus", "/etc/prometheus/prometheus.yml")["scrape_configs"][0]
    assert scraped["job_name"] == "gwstream"  # by which the rules go
    (target,) = scraped["static_configs"][0]["targets"]
    assert target == f"{config.metrics.names[0]}:{config.metrics.port}"
    assert config.metrics.names[0] in SERVICES
    assert config.metrics.host == "0.0.0.0"


def test_prometheus_differs_by_the_address_alone() -> None:
    ours = read("prometheus", "/etc/prometheus/prometheus.yml")
    hosts = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    hosts["scrape_configs"][0]["static_configs"][0]["targets"] = ["gwstream:9480"]
    assert ours == hosts


def test_promtool_accepts_what_the_container_has(tmp_path: Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    prometheus_files(tmp_path)
    done = subprocess.run([tool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", done.stdout)


def prometheus_files(folder: Path) -> None:
    for target, source in mounts("prometheus").items():
        if target.startswith("/etc/prometheus/"):
            shutil.copy(DEPLOY / source, folder / Path(target).name)


def test_mosquitto_starts_with_its_file(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    port = free_port()
    text = (DEPLOY / mounts("mosquitto")["/mosquitto/config/mosquitto.conf"]).read_text()
    (tmp_path / "mosquitto.conf").write_text(text.replace("listener 1883", f"listener {port} 127.0.0.1"))
    with subprocess.Popen([MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.PIPE) as process:

        def up() -> bool:
            assert process.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait(up, 10, "mosquitto")
        finally:
            process.terminate()


def test_grafana_is_told_where_dashboard_and_prometheus_are() -> None:
    """By the form of Grafana's provisioning: https://grafana.com/docs/grafana/latest/administration/provisioning"""
    source = read("grafana", "/etc/grafana/provisioning/datasources/gwstream.yml")
    assert source["apiVersion"] == 1
    (one,) = source["datasources"]
    assert {"name", "type", "access", "url"} <= set(one)
    assert (one["type"], one["access"], one["isDefault"]) == ("prometheus", "proxy", True)
    host, port = one["url"].removeprefix("http://").split(":")
    assert host in SERVICES
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    dashboards = read("grafana", "/etc/grafana/provisioning/dashboards/gwstream.yml")
    assert dashboards["apiVersion"] == 1
    (provider,) = dashboards["providers"]
    assert provider["type"] == "file"
    found = [target for target in mounts("grafana") if target.startswith(provider["options"]["path"] + "/")]
    (board,) = (json.loads((DEPLOY / mounts("grafana")[target]).read_text()) for target in found)
    (choice,) = (one for one in board["templating"]["list"] if one["name"] == "datasource")
    assert (choice["type"], choice["query"]) == ("datasource", one["type"])  # so it takes the one that is there


# $1: the image's root; $2: folder with hosts, frames, prometheus; $3: deploy; $4: mosquitto; user, environment, command
_UP = r"""
set -e
root="$1"; at="$2"; deploy="$3"; mosquitto="$4"; user="$5"; shift 5
ip link set lo up
mount --make-rprivate /
mount --bind "$at/hosts" /etc/hosts
mount --bind "$at/hosts" "$root/etc/hosts"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for name in null urandom; do : > "$root/dev/$name"; mount --bind /dev/$name "$root/dev/$name"; done
mkdir "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/frames" && mount --bind "$at/frames" "$root/frames" && mount -o remount,ro,bind "$root/frames"
"$mosquitto" -c "$deploy/compose/mosquitto.conf" > "$at/mosquitto.log" 2>&1 &
prometheus --config.file="$at/prometheus/prometheus.yml" --storage.tsdb.path="$at/data" > "$at/prometheus.log" 2>&1 &
chroot --userspec="$user" "$root" env -i "$@" > "$at/gwstream.log" 2>&1 &
for second in $(seq 90); do curl -sf http://gwstream:9480/readyz > "$at/ready" && break; sleep 1; done
touch "$at/play"
mosquitto_sub -V mqttv5 -t 'gwstream/+/event' -C 1 -W 120 > "$at/event.json"
curl -sf http://prometheus:9090/api/v1/query?query=up > "$at/up.json"
curl -sf http://prometheus:9090/api/v1/rules > "$at/rules.json"
"""


@contextmanager
def image(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The image of the Containerfile as a folder, with its settings, built by buildah on a fresh Debian."""
    if os.geteuid() or not shutil.which("buildah"):
        pytest.skip("needs root and buildah: apt-get install buildah")
    base, context = folder / "base", folder / "context"
    debian(base)
    copy(ROOT, context)
    (folder / "pip" / "etc").mkdir(parents=True)
    volumes = [f"{folder}/pip/etc/pip.conf:/etc/pip.conf:ro", f"{folder}/pip/etc/pip:/etc/pip:ro"]
    volumes += [f"{path}:{path}:ro" for path in pip(folder / "pip")]
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def buildah(*arguments: str) -> str:
        command = ["buildah", *store, *arguments]
        clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=clean)
        assert not done.returncode, f"{command}: {done.stdout}{done.stderr}"
        print(done.stdout[-600:])
        return "".join(done.stdout.splitlines()[-1:])

    try:
        scratch = buildah("from", "scratch")
        buildah("add", "-q", scratch, str(base), "/")
        buildah("commit", "-q", "--rm", scratch, "debian:12-slim")
        options = [part for one in volumes for part in ("-v", one)]
        buildah(
            "bud",
            "--pull-never",
            "--layers=false",
            *options,
            "-f",
            str(context / "deploy/Containerfile"),
            "-t",
            "gwstream",
            str(context),
        )
        container = buildah("from", "--pull-never", "gwstream")
        said = subprocess.run(
            ["buildah", *store, "inspect", container], capture_output=True, text=True, check=True
        ).stdout
        yield Path(buildah("mount", container)), json.loads(said)["OCIv1"]["config"]
    finally:
        subprocess.run(["buildah", *store, "umount", "--all"], capture_output=True, check=False)
        for name in ("base", "store", "run", "context"):
            shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.install
@pytest.mark.timeout(3600)
def test_the_image_with_the_files_of_the_compose_file_finds_gw150914(tmp_path: Path) -> None:
    """The parts in a network of their own, where they have the names that they have in the compose file's."""
    with image(tmp_path) as (root, settings):
        for name in ("frames", "prometheus"):
            (tmp_path / name).mkdir()
        for name in ("frames/H1", "frames/L1"):
            (tmp_path / name).mkdir()
        tmp_path.chmod(0o755)
        (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {' '.join(SERVICES)}\n")
        prometheus_files(tmp_path / "prometheus")
        assert (root / "etc/gwstream/gwstream.toml").read_text() == (DEPLOY / "compose/gwstream.toml").read_text()
        command = [*settings["Env"], *settings["Entrypoint"], *settings["Cmd"]]
        arguments = [str(root), str(tmp_path), str(DEPLOY), str(MOSQUITTO), settings["User"], *command]
        names = ("--mount", "--net", "--pid", "--fork", "--kill-child")
        with subprocess.Popen(["unshare", *names, "bash", "-c", _UP, "up", *arguments]) as process:
            wait(lambda: (tmp_path / "play").exists() or process.poll() is not None, 120, "the daemon's being ready")
            play = [sys.executable, "-m", "gwstream", "demo", "--frames", str(tmp_path / "frames")]
            subprocess.run(play, check=True, timeout=200)
            status = process.wait(200)
        log = (tmp_path / "gwstream.log").read_text()
        assert status == 0, log
        event = json.loads((tmp_path / "event.json").read_text())
        chirp = event["posterior"]["parameters"]["chirp_mass"]
        assert chirp["p5"] < 31.0 < chirp["p95"]
        (up,) = json.loads((tmp_path / "up.json").read_text())["data"]["result"]
        assert (up["metric"]["job"], up["value"][1]) == ("gwstream", "1")
        groups = json.loads((tmp_path / "rules.json").read_text())["data"]["groups"]
        assert any(rule["name"] == "GwstreamDown" for group in groups for rule in group["rules"])
        assert "Traceback" not in log
