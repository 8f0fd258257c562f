"""How the live view looks: what is `Known`, drawn for a terminal of so many columns and rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gwstream import clock
from gwstream.client import NetworkEvent
from gwstream.records import NANO
from gwstream.terminal.details import details
from gwstream.terminal.known import Daemon, Detector, Known, Row
from gwstream.terminal.tables import plain, text

BESIDE = 158  # columns from which details lie beside the list, not in its place
WIDE = 112  # columns from which there is room for everything
PANEL = 73  # columns of the details beside the list
SILENT = 30.0  # s without a status after which a daemon that says online is doubted
OLD = 60.0  # s after which a warning says how old it is
KEYS = "↑↓ select   enter details   e {} posteriors   g newest   q quit"
STATES = {"full": "green", "ready": "yellow", "waiting": "red", "offline": "red"}


@contextmanager
def screen(console: Console, known: Known) -> Iterator[Callable[[], None]]:
    """The whole terminal while the block lasts; gives what draws it anew."""
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def draw() -> None:
            live.update(frame(known, console.size), refresh=True)

        yield draw


@contextmanager
def notes(known: Known) -> Iterator[None]:
    """While the block lasts, warnings go to ``known.note`` in place of the screen."""
    root = logging.getLogger()
    handler = _Notes(known)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, known: Known) -> None:
        super().__init__(logging.WARNING)
        self._known = known

    def emit(self, record: logging.LogRecord) -> None:
        self._known.warn(record.getMessage())


def rows(size: ConsoleDimensions, known: Known) -> int:
    """How many messages fit the list."""
    return max(1, size.height - _above(known, size.height) - 2)  # its own heading, and the keys


def frame(known: Known, size: ConsoleDimensions) -> RenderableType:
    """The whole view, ``size.width`` columns by ``size.height`` rows."""
    whole, body = Layout(), Layout(name="body")
    whole.split_column(Layout(_head(known, size), size=_above(known, size.height)), body, Layout(_foot(known), size=1))
    row = known.selected()
    beside = size.width >= BESIDE
    if not known.details or row is None:
        body.update(_list(known, size.width, rows(size, known)))
        return whole
    room = rows(size, known) + 1
    panel = Panel(
        details(row, PANEL - 4 if beside else size.width - 4, room - 2), title=Text(_title(row)), title_align="left"
    )
    if beside:
        known_list = _list(known, size.width - PANEL, rows(size, known))
        body.split_row(Layout(known_list), Layout(panel, size=PANEL))
    else:
        body.update(panel)
    return whole


def _shown(known: Known, height: int) -> tuple[list[str], list[str]]:
    """Names of the daemons and detectors that fit the upper half; where not all do, those in trouble come first."""
    room = max(2, height // 2 - 3)
    daemons = min(len(known.daemons), max(room // 3, room - len(known.detectors)))
    ill = {name for name, one in known.detectors.items() if _trouble(known, one)}
    off = {name for name, one in known.daemons.items() if not one.online or one.trouble or _silent(known, one)}
    return _first(known.daemons, off, daemons), _first(known.detectors, ill, room - daemons)


def _first(names: Iterable[str], urgent: Container[str], most: int) -> list[str]:
    return sorted(sorted(names, key=lambda name: (name not in urgent, name))[:most])


def _trouble(known: Known, detector: Detector) -> bool:
    off = known.away(detector) or detector.state == "waiting"
    return bool(off or (detector.calibration is not None and detector.calibration.alarm))


def _silent(known: Known, daemon: Daemon) -> bool:
    return max(known.clock() - daemon.came, clock.gps_now_ns() / NANO - daemon.sent_gps) > SILENT


def _above(known: Known, height: int) -> int:
    """Rows over the list: the first, daemons, detectors with their heading, an empty one."""
    daemons, detectors = _shown(known, height)
    return 1 + len(daemons) + (1 + len(detectors) if detectors else 0) + 1


def _head(known: Known, size: ConsoleDimensions) -> Group:
    first = Text("gwstream", "bold", no_wrap=True, overflow="ellipsis")
    first.append(f"  {plain(known.where)}  ", "not bold")
    first.append(*(("connected", "green") if not known.link else (plain(known.link), "bold red")))
    first.append(f"   GPS {clock.gps_now_ns() // NANO}", "not bold dim")
    if known.lost:
        first.append(f"   {known.lost} messages lost", "not bold red")
    daemons, detectors = _shown(known, size.height)
    more = len(known.daemons) + len(known.detectors) - len(daemons) - len(detectors)
    if more:
        first.append(f"   no room for {more} more", "not bold yellow")
    parts: list[RenderableType] = [first, *(_daemon(known, name) for name in daemons)]
    if detectors:
        parts.append(_detectors(known, detectors, size.width))
    return Group(*parts)


def _daemon(known: Known, name: str) -> Text:
    """One line of a daemon's status."""
    daemon = known.daemons[name]
    line = Text("● " if daemon.online else "○ ", "green" if daemon.online else "red", no_wrap=True, overflow="ellipsis")
    line.append(plain(name), "default bold")
    if not daemon.online:
        return line.append(f"  offline: {plain(daemon.reason)}", "red")
    line.append(f"  {plain(daemon.version)}  {plain(daemon.model)}", "default")
    line.append(f"  {plain(daemon.engine)}", "default dim")
    line.append(f"  outbox {daemon.outbox}", "yellow" if daemon.outbox else "default dim")
    if _silent(known, daemon):
        line.append("  says nothing any more", "red")
    if daemon.load != "all":
        line.append(f"  overloaded: {plain(daemon.load)}", "yellow")
    if daemon.trouble:
        line.append(f"  {plain(daemon.trouble)}", "red")
    return line


def _detectors(known: Known, names: Sequence[str], width: int) -> Table:
    columns = [("detector", 8, False), ("spectrum", 8, False)]
    if width >= WIDE:
        columns += [("history", 7, True), ("range", 8, True), ("drift", 5, True)]
    columns += [("latency", 7, True), ("posteriors", 10, True), ("events", 6, True), ("last", 6, True)]
    table = _table([*columns, ("90 % intervals cover", 0, False)])
    for name in names:
        one = known.detectors[name]
        state = known.away(one) or one.state or "?"
        cells: list[str | Text] = [plain(name), Text(plain(state), STATES.get(state, ""))]
        if width >= WIDE:
            cells += _spectrum(one)
        latency = "" if one.latency is None else f"{1e3 * one.latency:.0f} ms"
        came = "" if one.came is None else ago(known.clock() - one.came)
        table.add_row(*cells, latency, str(one.posteriors), str(one.events), came, _calibration(one))
    return table


def _spectrum(detector: Detector) -> list[str]:
    one = detector.spectrum
    if one is None:
        return ["", "", ""]
    return [f"{text(one.history, 0)} s", f"{text(one.range_mpc, 0)} Mpc", text(one.drift, 2)]


def _calibration(detector: Detector) -> Text:
    one = detector.calibration
    if one is None:
        return Text()
    if one.alarm:
        return Text(f"ALARM: {plain(one.alarm)} not calibrated", "bold red")
    if one.coverage is None:
        return Text("no known signal judged yet", "dim")
    return Text(f"{text(one.coverage, 2)} ± {text(one.error, 2)} of {one.injections}")


def _list(known: Known, width: int, size: int) -> RenderableType:
    shown = known.window(size)
    if not shown:
        return Text("\nNothing has come yet. Posteriors are told as signals are found, not kept for later.", "dim")
    columns = [("", 6, True), ("message", 9, False), ("detector", 8, False), ("GPS time", 14, False), ("SNR", 5, True)]
    columns += [("ln Bayes", 8, True)] if width >= WIDE else []
    columns += [("chirp mass, Msun", 19, False)]
    columns += [("latency", 8, True)] if width >= WIDE else []
    table = _table([*columns, ("quality", 0, False)])
    selected = known.selected()
    for row in shown:
        table.add_row(*_cells(row, known.clock(), width), style=_style(row, row is selected))
    return table


def _cells(row: Row, now: float, width: int) -> list[str | Text]:
    message = row.message
    mass = message.chirp_mass
    place = " ".join(message.members) if isinstance(message, NetworkEvent) else message.detector
    cells: list[str | Text] = [ago(now - row.came), row.kind, plain(place), f"{message.gps:.3f}", f"{message.snr:.1f}"]
    if width >= WIDE:
        cells.append(f"{message.log_bayes:.1f}")
    cells.append(f"{mass.median:.1f} ({mass.p5:.1f} to {mass.p95:.1f})")
    if width >= WIDE:
        cells.append(f"{1e3 * message.latency:.0f} ms")
    withdrawn = isinstance(message, NetworkEvent) and message.withdrawn
    if row.gone:
        cells.append("withdrawn" if withdrawn else "superseded")
    elif message.good:
        cells.append(Text("good", "green"))
    else:
        cells.append(Text(plain(", ".join(message.reasons) or "suspect"), "yellow"))
    return cells


def _style(row: Row, selected: bool) -> str:
    weight = "dim" if row.gone else ("" if row.kind == "posterior" else "bold")
    return f"{weight} reverse" if selected else weight


def _title(row: Row) -> str:
    return f"{row.kind} of {plain(row.message.detector)}".removesuffix(" of network")


def _foot(known: Known) -> Text:
    line = Text(KEYS.format("with" if known.events_only else "without"), "dim", no_wrap=True, overflow="ellipsis")
    if known.details:
        line = Text("↑↓ select   esc back   q quit", "dim", no_wrap=True, overflow="ellipsis")
    if known.note:
        age = known.clock() - known.noted
        line.append(f"   {plain(known.note)}{f' ({ago(age)} ago)' if age >= OLD else ''}", "not dim yellow")
    return line


def _table(columns: Sequence[tuple[str, int, bool]]) -> Table:
    """An empty one; ``columns``: heading, width (0: what is left), whether it holds numbers."""
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for heading, size, numbers in columns:
        table.add_column(
            heading,
            width=size or None,
            ratio=None if size else 1,
            justify="right" if numbers else "left",
            no_wrap=True,  # or rows would be taller than was reckoned
            overflow="ellipsis",
        )
    return table


def ago(seconds: float) -> str:
    """How long ago, in at most six characters."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return f"{int(max(0.0, seconds))} s"
