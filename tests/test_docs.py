"""The documents: they build as a site that loads nothing from elsewhere, and what they quote is so."""

from __future__ import annotations

import argparse
import ast
import functools
import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from pydantic import BaseModel

from gwstream import cli, injection
from gwstream.config import Config, Section, SummaryConfig
from gwstream.model import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md"]
LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("object", "data")}
SEARCH = "document.querySelector('[data-md-component=search-query]')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as a site."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "tools/mkdocs.yml", "-d", str(folder))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes a browser load, and the text it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.shown: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if not (tag == "link" and told.get("rel") in ("canonical", "next", "prev")):
            self.found += [told[name] or "" for one, name in LOADS if one == tag and name in told]
        self._silent += tag in ("script", "style", "code", "annotation")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style", "code", "annotation")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.shown.append(data)


def test_every_page_is_in_the_site_and_loads_nothing_from_elsewhere(site: Path) -> None:
    told = (ROOT / "tools" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = re.findall(r"- (\S+\.md)", told)
    assert sorted(listed) == [page.name for page in PAGES], "tools/mkdocs.yml: nav has every page of docs/ once"
    for page in PAGES:
        reader = Loads()
        reader.feed((site / f"{page.stem}.html").read_text(encoding="utf-8"))
        foreign = [one for one in reader.found if re.match(r"(\w+:)?//", one)]
        assert not foreign, f"{page.name} loads from elsewhere"
        missing = [one for one in reader.found if one and not (site / one.partition("?")[0]).exists()]
        assert not missing, f"{page.name} loads what is not there"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


GENERATED = {"messages.md", "metrics.md"}  # a description each, however long


def test_lines_of_prose_are_short() -> None:
    """So that the documents are read as they are, in a terminal or an editor."""
    for page in (*TEXTS, ROOT / "CHANGELOG.md"):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        long = [line for line in text.splitlines() if len(line) > 130 and not line.lstrip().startswith(("|", "!["))]
        assert page.name in GENERATED or not long, page.name


def test_formulas_are_mathml(site: Path) -> None:
    source = re.sub(r"```.*?```|`[^`]*`", "", (DOCS / "posterior.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"\$\$.+?\$\$", source, re.DOTALL)
    inline = re.findall(r"\$[^$]+\$", re.sub(r"\$\$.+?\$\$", "", source, flags=re.DOTALL))
    page = (site / "posterior.html").read_text(encoding="utf-8")
    assert len(blocks) > 3
    assert page.count('display="block"') == len(blocks)
    assert page.count('display="inline"') == len(inline)
    reader = Loads()
    reader.feed(page)
    assert not re.search(r"\$|\\[a-z]", "".join(reader.shown)), "LaTeX is left over"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_the_site_in_a_real_browser(site: Path, tmp_path: Path) -> None:
    async with browser(tmp_path) as page:
        with served(site) as at:
            await page.open(f"{at}/posterior.html")
            await page.until("document.querySelectorAll('math').length > 20")
            box = "document.querySelector('math[display=block]').getBoundingClientRect()"
            assert await page.run(f"{box}.width") > 100
            assert await page.run(f"{box}.height") > 25, "a fraction is higher than a line"
            await page.run(f"{SEARCH}.focus(), {SEARCH}.value = 'outbox', {SEARCH}.dispatchEvent(new Event('keyup'))")
            await page.until("document.querySelectorAll('.md-search-result__item').length > 0")
            loaded = await page.run("performance.getEntriesByType('resource').map(e => e.name)")
            assert loaded
            assert all(one.startswith(f"{at}/") for one in loaded), loaded
            assert page.complaints == []


def fenced(path: Path, *languages: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [block for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if language in languages]


def calls(text: str) -> Iterator[list[str]]:
    """The arguments of each call of gwstream in lines of shell, without what it is piped into."""
    for line in text.splitlines():
        for part in re.split(r"\||&+", line.partition(" #")[0]):
            found = re.match(r"(?:\S*/bin/)?gwstream (.+)", part.strip())
            if found:
                yield shlex.split(found[1].partition(">")[0])


def commands(path: Path) -> list[list[str]]:
    """Of blocks of shell, indented or fenced."""
    text = path.read_text(encoding="utf-8")
    indented = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return list(calls("\n".join([*indented, *fenced(path, "sh")])))


def test_the_guide_installs_as_the_readme_does() -> None:
    (lines,) = re.findall(
        r"On Debian 12, as root.*\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert lines in (DOCS / "operate.md").read_text(encoding="utf-8")


def options() -> dict[str, set[str]]:
    """Of each command."""
    (found,) = (one for one in cli.parser()._actions if isinstance(one, argparse._SubParsersAction))
    return {name: set(one._option_string_actions) for name, one in found.choices.items()}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_are_as_the_program_takes_them(path: Path) -> None:
    for words in commands(path):
        cli.parser().parse_args([re.sub(r"^GPS$", "1", word) for word in words])
    known = options()
    for text in re.findall(r"`(gwstream [a-z][^`]*)`", path.read_text(encoding="utf-8")):
        for name, *words in calls(text):  # in the midst of a sentence: some leave out what is not the point
            assert name in known, f"gwstream {name}"
            assert {word for word in words if word.startswith("--")} <= known[name] | {"--help"}, text


def test_the_signals_of_the_quick_start_are_one_in_two_detectors(tmp_path: Path) -> None:
    (lines,) = fenced(DOCS / "quickstart.md", "json")
    (tmp_path / "signals.jsonl").write_text(lines, encoding="utf-8")
    one, other = injection.read(tmp_path / "signals.jsonl")
    assert {one.detector, other.detector} == {"H1", "L1"}
    assert abs(one.gps_ns - other.gps_ns) < 10e6  # ns of light travel
    assert (one.mass_1, one.mass_2) == (other.mass_1, other.mass_2)


def test_there_are_commands_to_look_at() -> None:
    assert ["get", "event.json", "--format", "hdf5"] in commands(DOCS / "quickstart.md")
    assert ["run", "deploy/gwstream.toml"] in commands(ROOT / "README.md")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_targets_of_make_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(
        r"(?:`|^    )make ((?:[a-z]+-?)+(?: bench-[a-z]+)*)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {one for words in named for one in words.split()} <= targets


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_settings_that_are_named_exist(path: Path) -> None:
    """``section.key`` in the text, and whole blocks of TOML."""
    known = {f"{name}.{key}" for name, of in _sections(Config) for key in of.model_fields}
    heads = {one.partition(".")[0] for one in known}
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for one in re.findall(r"`([a-z]+(?:\.[a-z_0-9]+)+)(?: = [^`]*)?`", text):
        head, _, rest = one.partition(".")
        if head in heads and f"{head}.py" != one and not rest.startswith(("detectors", "md", "py", "toml")):
            assert one in known or any(other.startswith(f"{one}.") for other in known) or _code(one), (
                f"{path.name}: {one}"
            )
    for block in fenced(path, "toml"):
        table = tomllib.loads(block)
        Config.model_validate({"source": {"kind": "simulated", "detectors": {"H1": {}}}, **table})


def _code(name: str) -> bool:
    """Whether it is a module, as ``inference.importance``, or part of a message."""
    module = ROOT / "gwstream" / name.replace(".", "/")
    return module.is_dir() or module.with_suffix(".py").is_file() or name in ("summary.schema",)


def _sections(of: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in of.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name, field.annotation
            yield from _sections(field.annotation, f"{prefix}{name}.")


def test_the_recipes_settings_are_those_of_models() -> None:
    table = re.findall(
        r"^\| (?:`\[(\w+)\]`)? ?\| (`.*?`) \|", (DOCS / "models.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    section, seen = "", 0
    for name, keys in table:
        section = name or section
        of = ModelSpec.model_fields["prior_" if section == "prior" else section].annotation if section else ModelSpec
        for key in re.findall(r"`(\w+)`", keys):
            seen += 1
            assert key == "kind" or (isinstance(of, type) and key in of.model_fields), f"[{section}] {key}"  # type: ignore[attr-defined]
    assert seen > 20


@functools.cache
def said() -> list[str]:
    """Every text in the code, with a mark where something is filled in."""
    found = []
    for path in (ROOT / "gwstream").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(?:\.\d)?[sdfg]", "\0", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [str(one.value) if isinstance(one, ast.Constant) else "\0" for one in node.values]
                found.append("".join(parts))
    return found


def test_messages_of_troubleshooting_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (.+?) \| ", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    quoted = [text for text in quoted if " " in text and not text.startswith("/")]
    assert len(quoted) > 35
    for text in quoted:
        pieces = [piece for piece in text.split("…") if piece]
        pattern = ".*".join(map(re.escape, pieces))
        assert any(re.search(pattern, one.replace("\0", "…"), re.DOTALL) for one in said()), f"nothing says: {text}"


def test_thresholds_of_the_readme_are_the_default_ones() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w ]+?) \| (.+?) \| .+? \|$", text.partition("| reason | when |")[2], re.MULTILINE))
    config = SummaryConfig()
    told = {
        "short PSD history": config.short_history,
        "weak evidence": config.low_log_bayes,
        "low effective sample size": config.low_ess,
        "poor residual": config.low_residual_p,
        "poor residual at the peak": config.low_peak_residual_p,
        "unlike the training data": config.low_latent_p,
    }
    for name, value in told.items():
        (number,) = re.findall(r"\d+(?:\.\d+)?", re.sub(r"`.*?`", "", rows[name]))
        assert float(number) == value, name
    assert f"(e^{config.high_drift:g})" in rows["PSD drift"]
