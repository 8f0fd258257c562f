"""``gwstream watch``: as JSON lines in a process of its own, and live in a pseudo-terminal, at a real broker."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import brokers
import fakes
import pytest
from rich.console import Console
from screens import Terminal, terminal
from test_client import EAGER, body, payload
from test_publish import outgoing, running, settings
from test_security import site

from gwstream import clock
from gwstream.cli import parser
from gwstream.cli.watching import broker_of
from gwstream.client import Gap, Message, NetworkEvent, Status, everything
from gwstream.client.messages import parse
from gwstream.publish import Publisher
from gwstream.records import NANO
from gwstream.terminal.details import braille
from gwstream.terminal.keys import split
from gwstream.terminal.known import DETECTORS, KEPT, Known
from gwstream.terminal.tables import plain
from gwstream.terminal.view import ago, frame

UP, DOWN = "\x1b[A", "\x1bOB"
LIMIT = 60.0


def told(number: int = 0, detector: str = "H1", kind: str = "posterior", **delivery: Any) -> Message:
    out = outgoing(number, detector, kind)
    message = parse(payload(out, number))
    assert not isinstance(message, Status)
    message.body["delivery"].update(delivery)
    return message


def status(instance: str = "site-a", state: str = "online", **facts: Any) -> Status:
    content = {"schema": "gwstream.status/1", "state": state, "instance": instance, **facts}
    made = parse(json.dumps(content).encode())
    assert isinstance(made, Status)
    return made


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gwstream", "watch", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def subscribers(port: int, least: int) -> None:
    """Wait for the broker's count of subscriptions, ours among them."""
    async with aiomqtt.Client("127.0.0.1", port) as watch, asyncio.timeout(LIMIT):
        await watch.subscribe("$SYS/broker/subscriptions/count")
        async for count in watch.messages:
            if int(bytes(count.payload)) > least:  # type: ignore[arg-type]
                return


async def test_not_a_terminal_gets_lines_as_they_were_published(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker, program("--broker", f"127.0.0.1:{broker.port}") as watch:
        await subscribers(broker.port, 3)
        wanted = [body(0, 0), body(0, 1, "H1", "event"), payload(outgoing(0, "L1", "network"), 0), body(3, 5)]
        topics = ["H1/posterior", "H1/event", "network/event", "H1/posterior"]
        async with aiomqtt.Client("127.0.0.1", broker.port) as out:
            await out.publish("gwstream/site-a/status", json.dumps(dict(status().body)), qos=1)
            for topic, content in zip(topics, wanted, strict=True):
                await out.publish(f"gwstream/{topic}", content, qos=1)
        assert watch.stdout is not None
        async with asyncio.timeout(LIMIT):
            lines = [await watch.stdout.readline() for _ in wanted]
        watch.terminate()
        _, complaints = await watch.communicate()
    assert lines == [content + b"\n" for content in wanted]
    bytes_of_posterior = lines[0].partition(b'"posterior":')[2][:-2]
    assert hashlib.sha256(bytes_of_posterior).hexdigest() == json.loads(lines[0])["sha256"]
    assert b"warning client: H1: 3 messages did not come, numbers 2 to 4" in complaints


async def test_lines_of_events_alone_until_nobody_reads(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker:
        command = f"{sys.executable} -m gwstream watch --events --snr 9 --broker 127.0.0.1:{broker.port} | head -n 1"
        watch = await asyncio.create_subprocess_exec(
            *("bash", "-o", "pipefail", "-c", command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        await subscribers(broker.port, 3)
        ended = asyncio.create_task(watch.communicate())
        async with aiomqtt.Client("127.0.0.1", broker.port) as out, asyncio.timeout(LIMIT):
            number = 0
            while not ended.done():
                quiet = body(2 * number, 3 * number, "H1", "event").replace(b'"snr":12.0', b'"snr":8.0')
                await out.publish("gwstream/H1/event", quiet, qos=1)
                await out.publish("gwstream/H1/posterior", body(2 * number, 3 * number + 1), qos=1)
                if number >= 2:
                    loud = body(2 * number + 1, 3 * number + 2, "H1", "event")
                    await out.publish("gwstream/H1/event", loud, qos=1)
                number += 1
                await asyncio.sleep(0.2)
        said, complaints = await ended
    assert watch.returncode == 0
    first = json.loads(said)
    assert (first["schema"], first["posterior"]["snr"]) == ("gwstream.event/1", 12.0)
    assert b"Traceback" not in complaints
    assert b"Broken" not in complaints


async def test_without_a_broker_it_says_so_and_the_terminal_is_as_before(tmp_path: Path) -> None:
    async with program("--broker", "127.0.0.1:1") as watch:
        _, complaints = await asyncio.wait_for(watch.communicate(), LIMIT)
    assert watch.returncode == 69
    assert b"gwstream watch: cannot subscribe at 127.0.0.1:1: " in complaints
    async with terminal("watch", "--broker", "127.0.0.1:1") as live:
        before = termios.tcgetattr(live.side)
        await live.shows("cannot subscribe at 127.0.0.1:1")
        assert live.process is not None
        assert await asyncio.wait_for(live.process.wait(), LIMIT) == 69
        assert termios.tcgetattr(live.side) == before
    assert b"\x1b[?1049l" in live.said  # back from the alternate screen
    assert live.said.index(b"\x1b[?1049l") < live.said.index(b"cannot subscribe")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--broker", "localhost:mqtt"], "'mqtt' is not a port"),
        (["--ca-file", "/nowhere"], "--ca-file and --certificate-file mean nothing without --tls"),
        (["--tls", "--ca-file", "/nowhere"], "--ca-file = '/nowhere' cannot be used: No such file or directory"),
        (["--tls", "--key-file", "k"], "--certificate-file and --key-file go together"),
        (["--password-file", "p"], "Add --username NAME"),
        (["--username", "ann", "--password-file", "/nowhere"], "--password-file = '/nowhere' cannot be read"),
    ],
)
async def test_wrong_options_are_named(options: list[str], complaint: str) -> None:
    async with program(*options) as watch:
        _, complaints = await asyncio.wait_for(watch.communicate(), LIMIT)
    assert watch.returncode == 78
    assert complaint in complaints.decode()


@pytest.mark.parametrize(
    ("options", "port"),
    [(["mq"], 1883), (["mq", "--tls"], 8883), (["mq:99", "--tls"], 99), (["::1", "--tls"], 8883), (["[::1]:99"], 99)],
)
def test_with_tls_the_port_is_another_unless_it_is_given(options: list[str], port: int) -> None:
    assert broker_of(parser().parse_args(["watch", "--broker", *options])).port == port


@pytest.mark.parametrize("option", ["--snr", "--log-bayes"])
def test_a_limit_is_a_number(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["watch", option, "nan"])
    assert "'nan' is not a number" in capsys.readouterr().err


async def test_over_tls_with_a_password(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        secret = tmp_path / "ann.secret"
        where = ["--broker", f"127.0.0.1:{at.port}", "--tls", "--ca-file", str(at.authority.file), "--username", "ann"]
        publisher = Publisher(
            at.settings(username="gwstream", password_file=tmp_path / "gwstream.secret"),
        )
        async with running(publisher), program(*where, "--password-file", str(secret)) as watch:
            assert watch.stdout is not None
            line = asyncio.create_task(watch.stdout.readline())
            number = 0
            async with asyncio.timeout(LIMIT):
                while not line.done():
                    await publisher.put(outgoing(number))
                    number += 1
                    await asyncio.sleep(0.2)
        assert json.loads(await line)["posterior"]["detector"] == "H1"
        wrong = tmp_path / "wrong"
        wrong.write_text("guessed\n")
        async with program(*where, "--password-file", str(wrong)) as watch:
            _, complaints = await asyncio.wait_for(watch.communicate(), LIMIT)
    assert watch.returncode == 69
    assert b"Not authorized" in complaints
    assert b"guessed" not in complaints


@asynccontextmanager
async def live(folder: Path, *options: str, size: tuple[int, int] = (100, 30)) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Terminal, publisher and broker; the watcher has the status of the daemon."""
    async with (
        brokers.mosquitto(folder) as broker,
        terminal("watch", "--broker", f"127.0.0.1:{broker.port}", *options, size=size) as screen,
    ):
        publisher = Publisher(settings(broker.port, instance="site-a"))
        publisher.tell(
            engine="torch",
            detectors={"H1": {"state": "full"}, "V1": {"state": "waiting"}},
            calibration={"H1": fakes.report().part(), "V1": fakes.report("V1", alarm=True, alarm_about="phase").part()},
        )
        async with running(publisher):
            await screen.shows("connected", "site-a", "waiting")
            yield screen, publisher, broker


def listed(screen: Terminal) -> list[str]:
    """What the list says, line by line, without ages."""
    below = screen.text.partition("GPS time")[2].splitlines()[1:]
    return [re.sub(r"^ *\d+ \w+ +", "", line).rstrip() for line in below if re.match(r" *\d+ (s|min) ", line)]


def chosen(screen: Terminal) -> list[int]:
    """Rows of the screen that are drawn in reverse."""
    rows = screen.screen.buffer
    return [row for row in range(screen.screen.lines) if rows[row][0].reverse]


async def test_live_view_and_its_keys(tmp_path: Path) -> None:
    async with live(tmp_path) as (screen, publisher, broker):
        assert "Nothing has come yet" in screen.text
        assert "0.89 ± 0.01 of 300" in screen.text
        assert "ALARM: phase not calibrated" in screen.text
        assert "overloaded" not in screen.text
        publisher.tell(load="fewer draws")
        await screen.shows("overloaded: fewer draws")
        for number in range(3):
            await publisher.put(outgoing(number))
        await publisher.put(outgoing(0, "H1", "event"))
        await publisher.put(outgoing(0, "L1", "network"))
        await screen.until(lambda _: len(listed(screen)) == 5)
        assert [line.split()[0] for line in listed(screen)] == ["network", "event", *["posterior"] * 3]
        detector = next(line for line in screen.lines if line.startswith("H1"))
        assert re.match(r"H1 +full +\d+ ms +3 +1 +\d+ s +0\.89 ± 0\.01 of 300", detector)
        top = screen.lines.index(next(line for line in screen.lines if "network" in line))
        assert chosen(screen) == [top]
        screen.press(DOWN * 2)
        await screen.until(lambda _: chosen(screen) == [top + 2])
        screen.press(UP)
        await screen.until(lambda _: chosen(screen) == [top + 1])
        screen.press("\r")
        await screen.shows("event of H1", "90 % interval", "effective distance", "residual p", "latency")
        assert "GPS time" not in screen.text  # in the place of the list
        screen.press("k")
        await screen.shows("members", "L1 (SNR 12.0) and V1 (SNR 12.0)", "standing")
        screen.press("\x1b")
        await screen.shows("GPS time")
        screen.press("e")
        await screen.until(lambda _: len(listed(screen)) == 2)
        screen.press("e")
        await screen.until(lambda _: len(listed(screen)) == 5)
        screen.resize(170, 40)
        await screen.shows("ln Bayes")
        screen.press("d")
        await screen.shows("network ─", "GPS time")  # beside the list
        await broker.kill()
        await screen.until(lambda text: "connected" not in text.splitlines()[0])
        await broker.start()
        await screen.until(lambda text: "connected" in text.splitlines()[0])
        before = termios.tcgetattr(screen.side)[3]
        screen.press("q")
        assert await asyncio.wait_for(screen.process.wait(), LIMIT) == 0
        assert not before & termios.ECHO
        assert termios.tcgetattr(screen.side)[3] & termios.ECHO
        assert screen.said.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?25h" in screen.said[-40:]


async def test_a_daemon_that_stops_is_offline_and_control_c_ends_the_view(tmp_path: Path) -> None:
    async with live(tmp_path) as (screen, _, broker):
        async with aiomqtt.Client("127.0.0.1", broker.port) as out:
            content = dict(status(state="offline", reason="connection \x1b[2J lost").body)
            await out.publish("gwstream/site-a/status", json.dumps(content), qos=1)
        await screen.shows("offline: connection �[2J lost")
        assert next(line for line in screen.lines if line.startswith("H1")).split()[1] == "offline"
        screen.press("\x03")
        assert await asyncio.wait_for(screen.process.wait(), LIMIT) == 0


async def test_a_message_that_lacks_something_breaks_nothing(tmp_path: Path) -> None:
    async with live(tmp_path) as (screen, publisher, broker):
        async with aiomqtt.Client("127.0.0.1", broker.port) as out:
            lacking = json.loads(body(0, 0))
            del lacking["posterior"]["sampling"]
            await out.publish("gwstream/H1/posterior", json.dumps(lacking), qos=1)
            del (more := json.loads(body(2, 0, "X1")))["posterior"]["psd"]
            await out.publish("gwstream/X1/posterior", json.dumps(more), qos=1)
            odd = {"schema": "gwstream.status/1", "state": "online", "instance": "odd", "detectors": 3, "sent_gps": "x"}
            await out.publish("gwstream/odd/status", json.dumps(odd), qos=1)
            await publisher.put(outgoing(1))
        await screen.until(lambda _: len(listed(screen)) == 2)
        assert "odd: left out: " in screen.lines[-1]
        screen.press("G\r")
        await screen.shows("lacks what its schema promises")
        screen.press("q")
        assert await asyncio.wait_for(screen.process.wait(), LIMIT) == 0


def test_what_is_read_stays_while_more_comes() -> None:
    known = Known()
    for number in range(30):
        known.take(told(number))
    assert [row.message.sequence for row in known.window(4)] == [29, 28, 27, 26]
    known.take(told(30))
    selected = known.selected()
    assert selected is not None
    assert selected.message.sequence == 30
    known.press("page down", page=6)
    assert [row.message.sequence for row in known.window(4)] == [27, 26, 25, 24]
    known.take(told(31))
    assert [row.message.sequence for row in known.window(4)] == [27, 26, 25, 24]
    known.press("end")
    assert [row.message.sequence for row in known.window(4)] == [3, 2, 1, 0]
    known.press("g")
    assert [row.message.sequence for row in known.window(4)] == [31, 30, 29, 28]
    known.press("e")
    assert known.window(4) == []
    assert known.selected() is None
    known.press("d")
    assert not known.details


def test_everything_is_bounded() -> None:
    known = Known()
    first = told(0)
    known.take(first)
    known.press("d")
    for number in range(1, KEPT + 10):
        known.take(replace(first, id=str(number), sequence=number))
    assert len(known.rows()) == KEPT
    last = known.selected()
    assert last is not None
    assert last.message.sequence == 10  # the oldest there is, in place of the one that is gone
    for number in range(DETECTORS + 9):
        known.take(replace(first, detector=f"X{number}"))
        known.take(status(f"s{number}", detectors={f"Y{number}": {"state": "full"}}))
    assert (len(known.detectors), len(known.daemons)) == (DETECTORS, DETECTORS)


def test_superseded_and_withdrawn_are_marked() -> None:
    known = Known()
    out = outgoing(0, "L1", "network")
    assert out.summary.event is not None
    member = next(iter(out.summary.event["supersedes"]))  # type: ignore[call-overload]
    known.take(replace(told(0, "L1", "event"), id=str(member)))
    known.take(told(0, "L1", "network"))
    assert [row.gone for row in known.rows()] == [False, True]
    gone = replace(out, summary=replace(out.summary, event={**out.summary.event, "state": "withdrawn"}))
    withdrawn = parse(payload(gone, 1))
    assert not isinstance(withdrawn, Status)
    known.take(withdrawn)
    assert [row.gone for row in known.rows()] == [True, True, False]  # what is left of its members stands for itself
    known.take(replace(told(2, "L1", "event"), sequence=9, supersedes=(str(member),)))  # type: ignore[call-arg]
    known.take(replace(withdrawn, sequence=2))
    assert [row.gone for row in known.rows()][-1]


def test_an_event_told_anew_stands_and_one_that_was_missed_does_not() -> None:
    """A daemon that is started again may tell of a lesser one first; `gwstream publish` sends old ones again."""
    known = Known()
    better = told(0, "H1", "event")
    lesser = replace(told(1, "H1", "event"), supersedes=(better.id,))  # type: ignore[call-arg]
    anew = replace(better, sequence=2, supersedes=(lesser.id,))  # type: ignore[call-arg]
    for one in (better, lesser, anew, lesser):
        known.take(one)
    assert [row.gone for row in known.rows()] == [True, False, True, True]
    both = told(0, "L1", "network")
    known.take(both)
    assert isinstance(both, NetworkEvent)
    known.take(replace(told(5, "L1", "event"), id=both.supersedes[0]))
    assert [row.gone for row in known.rows()][:2] == [True, False]


def lines(known: Known, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO())
    with console.capture() as drawn:
        console.print(frame(known, console.size))
    return [line.rstrip() for line in drawn.get().splitlines()]


def test_many_detectors_leave_room_for_messages_and_those_in_trouble_are_shown() -> None:
    known = Known(link="")
    for number in range(12):
        names = {f"X{k}": {"state": "waiting" if k == 35 else "full"} for k in range(3 * number, 3 * number + 3)}
        now = clock.gps_now_ns() / NANO
        known.take(status(f"s{number}", "offline" if number == 9 else "online", detectors=names, sent_gps=now))
    for number in range(30):
        known.take(told(number))
    shown = lines(known, 100, 24)
    assert len(shown) == 24
    assert "no room for 40 more" in shown[0]  # of 12 daemons and 37 detectors
    text = "\n".join(shown)
    assert "s9" in text
    assert {f"X{k}" for k in (27, 28, 29, 35)} <= set(
        text.split()
    )  # of the daemon that is offline, and without spectrum
    assert sum(line.count(" posterior ") for line in shown) == 10
    few = lines(known, 100, 120)
    assert "no room" not in few[0]
    assert {f"X{k}" for k in range(36)} <= set("\n".join(few).split())


def test_a_warning_says_how_old_it_is() -> None:
    now = 1000.0
    known = Known(link="", clock=lambda: now)
    known.warn("the broker is away")
    assert lines(known, 120, 12)[-1].endswith("the broker is away")
    now = 1190.0
    assert lines(known, 120, 12)[-1].endswith("the broker is away (3 min ago)")


def test_what_is_lost_is_counted() -> None:
    known = Known()
    known.gap(Gap("H1", 3, 5))
    known.gap(Gap("L1", 1, 1))
    assert (known.lost, known.note) == (4, "L1: 1 messages did not come, numbers 1 to 1")


def test_keys_are_told_apart() -> None:
    assert split("j\x1b[A\x1bOB\x1b[5~q") == (["j", "up", "down", "page up", "q"], "")
    assert split("\x1b") == ([], "\x1b")
    assert split("d\x1b[") == (["d"], "\x1b[")
    assert split("\x1b[1;5Cä\r") == (["\x1b[1;5C", "ä", "enter"], "")
    assert split("\x1bq") == (["escape", "q"], "")


def test_words_of_strangers_are_no_commands() -> None:
    assert plain("a\x1b[2Jb\n\x07ü") == "a�[2Jb��ü"
    assert [ago(seconds) for seconds in (-3, 59.9, 60, 7199, 7200, 90_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "2 h",
        "1 d",
    ]


def test_a_curve_in_dots() -> None:
    up, down = "\u2809", "\u28c0"  # the upper and the lower two dots of eight
    drawn = braille([1.0] * 4 + [-1.0] * 4, 4, 1)
    assert (drawn[0][0], drawn[0][3]) == (up, down)
    assert braille([None] * 8, 2, 2) == ["\u2800" * 2] * 2
    assert braille([], 2, 1) == ["\u2800" * 2]


async def test_everything_has_all_kinds_once(tmp_path: Path) -> None:
    links: list[str] = []
    async with brokers.mosquitto(tmp_path, EAGER) as broker, aiomqtt.Client("127.0.0.1", broker.port) as out:
        await out.publish("gwstream/site-a/status", json.dumps(dict(status().body)), qos=1, retain=True)
        from gwstream.client import Broker

        stream = everything(Broker(port=broker.port), detectors={"H1"}, on_link=links.append)
        first = await asyncio.wait_for(anext(stream), LIMIT)
        contents = {"L1/posterior": body(0, 0, "L1"), "H1/posterior": body(0, 0), "H1/event": body(0, 1, "H1", "event")}
        for topic, content in contents.items():
            await out.publish(f"gwstream/{topic}", content, qos=1)
        found = [await asyncio.wait_for(anext(stream), LIMIT) for _ in range(2)]
        await stream.aclose()
    assert isinstance(first, Status)
    assert (first.instance, first.online) == ("site-a", True)
    assert [(type(one).__name__, one.detector) for one in found if not isinstance(one, Status)] == [
        ("Posterior", "H1"),
        ("Event", "H1"),
    ]
    assert links == [""]
