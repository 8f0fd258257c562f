"""Shell completion, asked of real shells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from screens import terminal

from gwstream import cli
from gwstream.cli.completion import SHELLS


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the script of each shell, a file and a folder."""
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == 0
        (tmp_path / f"_gwstream.{shell}").write_text(capsys.readouterr().out, encoding="utf-8")
    (tmp_path / "message.json").write_text("{}")
    (tmp_path / "models").mkdir()
    return tmp_path


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    return found


def asked(folder: Path, *command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=True)
    assert not done.stderr
    return done.stdout.split()


def in_bash(folder: Path, *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    text = (
        f"source _gwstream.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        'COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}; _shtab_gwstream; echo "${COMPREPLY[@]}"'
    )
    return asked(folder, shell("bash"), "--norc", "-c", text)


def test_bash(scripts: Path) -> None:
    assert in_bash(scripts, "gwstream", "wa") == ["watch"]
    assert {"run", "watch", "get", "plot", "completion"} <= set(in_bash(scripts, "gwstream", ""))
    assert in_bash(scripts, "gwstream", "get", "--form") == ["--format"]
    assert in_bash(scripts, "gwstream", "get", "x", "--format", "h") == ["hdf5"]
    assert in_bash(scripts, "gwstream", "get", "mes") == ["message.json"]
    assert in_bash(scripts, "gwstream", "plot", "x", "--output", "m") == ["models"]


def test_fish(scripts: Path) -> None:
    def words(line: str) -> list[str]:
        text = f"source _gwstream.fish; complete -C '{line}' | cut -f 1"
        return asked(scripts, shell("fish"), "--no-config", "-c", text)

    assert words("gwstream wa") == ["watch"]
    assert words("gwstream get --form") == ["--format"]
    assert words("gwstream get x --format h") == ["hdf5"]
    assert "message.json" in words("gwstream get mes")


async def test_zsh(scripts: Path) -> None:
    (scripts / "_gwstream").write_text((scripts / "_gwstream.zsh").read_text())
    async with terminal("-f", "-i", program=(shell("zsh"),)) as screen:
        screen.press(f"cd {scripts}; PS1=ready%%; fpath=({scripts} $fpath); autoload -U compinit; compinit -u -D\n")
        await screen.until(lambda text: text.endswith("ready%") or "\nready%" in text)
        screen.press("gwstream wat\t")
        await screen.shows("gwstream watch")
        screen.press("--ev\t")
        await screen.shows("gwstream watch --events")
        screen.press("\x15gwstream get mess\t")
        await screen.shows("gwstream get message.json")
