"""Strangers stay out: TLS, users and rights on a real broker, with the settings of deploy/."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import brokers
import pytest
from certificates import Authority
from test_publish import Notes, outgoing, running, settings, until

from gwstream.config import PublishConfig
from gwstream.errors import ConfigError, PublishError
from gwstream.publish import Publisher, check_broker, connection

DEPLOY = Path(__file__).parent.parent / "deploy"
# paho leaves the socket of a handshake that failed to the garbage collector, which closes it, and says so
paho_closes_late = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Site:
    """A broker with deploy/mosquitto.conf and deploy/mosquitto.acl, its authority, and users of it."""

    def __init__(self, folder: Path, more: str = "", host: str = "127.0.0.1", rights: str = "") -> None:
        self.folder = folder
        self.authority = Authority(folder, "ca")
        for file, name in zip(self.authority.issue("broker", host), ("cert.pem", "key.pem"), strict=True):
            file.rename(folder / name)
        (folder / "acl").write_text(rights + (DEPLOY / "mosquitto.acl").read_text())
        (folder / "acl").chmod(0o600)
        shipped = (DEPLOY / "mosquitto.conf").read_text().replace("/etc/mosquitto/gwstream", str(folder))
        assert shipped.count("listener 8883\n") == 1
        self.extra = shipped.replace("listener 8883\n", more) + "user root\n"
        self.port = 0

    async def user(self, name: str, password: str) -> Path:
        """Make the broker know a user; returns the file of the password."""
        passwords = self.folder / "passwd"
        new = () if passwords.exists() else ("-c",)
        tool = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", *new, str(passwords), name, password)
        assert await tool.wait() == 0
        file = self.folder / f"{name}.secret"
        file.write_text(password + "\n")
        return file

    def settings(self, **more: Any) -> PublishConfig:
        return settings(self.port, **{"tls": True, "ca_file": self.authority.file, "timeout": 2.0, **more})


@asynccontextmanager
async def site(folder: Path, more: str = "", host: str = "127.0.0.1", rights: str = "") -> AsyncIterator[Site]:
    if brokers.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    made = Site(folder, more, host, rights)
    await made.user("gwstream", "right horse")
    await made.user("ann", "battery")
    async with brokers.mosquitto(folder, made.extra) as broker:
        made.port = broker.port
        yield made


def mine(at: Site, **more: Any) -> PublishConfig:
    return at.settings(**{"username": "gwstream", "password_file": at.folder / "gwstream.secret", **more})


async def test_over_tls_with_a_password_that_no_log_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with site(tmp_path) as at:
        await check_broker(mine(at))
        publisher = Publisher(mine(at))
        async with running(publisher):
            await publisher.put(outgoing(0, "H1"))
            assert await publisher.drain(5) == 0
        wrong = tmp_path / "wrong"
        wrong.write_text("guessed secret\n")
        with pytest.raises(PublishError, match=r"refuses user 'gwstream' .*publish\.password_file") as told:
            await check_broker(mine(at, password_file=wrong))
        notes = Notes()
        refused = Publisher(mine(at, password_file=wrong), observers=[notes], tally=notes.tally)
        async with running(refused):
            await until(lambda: notes.counts["publish", "login_refused", ""] >= 2)
    text = caplog.text + str(told.value) + repr(connection.credentials(mine(at)))
    assert "not authorized" in caplog.text.lower()
    assert "right horse" not in text
    assert "guessed" not in text


@paho_closes_late
async def test_a_broker_that_is_not_the_one_meant_gets_no_password(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = Authority(other, "stranger")
    async with site(tmp_path) as at:
        with pytest.raises(PublishError, match=r"no trusted connection .*certificate verify failed.*publish\.ca_file"):
            await check_broker(mine(at, ca_file=stranger.file))
        with pytest.raises(PublishError, match="no trusted connection"):
            await check_broker(mine(at, ca_file=None))  # the system's list does not know it either
        notes = Notes()
        publisher = Publisher(mine(at, ca_file=stranger.file), observers=[notes], tally=notes.tally)
        async with running(publisher):
            await until(lambda: notes.counts["publish", "tls", ""] >= 1)
        with pytest.raises(PublishError):
            await check_broker(settings(at.port))  # a client that does not speak TLS
    assert not any(up for up, _ in notes.connections)


@paho_closes_late
async def test_the_name_in_the_certificate_must_be_the_hosts(tmp_path: Path) -> None:
    async with site(tmp_path, host="127.0.0.9") as at:
        with pytest.raises(PublishError, match=r"IP address mismatch.*publish\.host"):
            await check_broker(mine(at))


@paho_closes_late
async def test_a_client_certificate_instead_of_a_password(tmp_path: Path) -> None:
    async with site(tmp_path, "require_certificate true\nuse_identity_as_username true\n") as at:
        certificate, key = at.authority.issue("gwstream")
        notes = Notes()
        publisher = Publisher(at.settings(certificate_file=certificate, key_file=key), observers=[notes])
        await check_broker(at.settings(certificate_file=certificate, key_file=key))
        async with running(publisher):
            await publisher.put(outgoing(0, "H1"))
            assert await publisher.drain(5) == 0  # acknowledged, so the name in it has the rights of gwstream
            assert len(notes.delivered_) == 1
        with pytest.raises(PublishError):
            await check_broker(at.settings())
        folder = tmp_path / "stranger"
        folder.mkdir()
        certificate, key = Authority(folder, "stranger").issue("gwstream")
        with pytest.raises(PublishError):
            await check_broker(at.settings(certificate_file=certificate, key_file=key))


def ann(at: Site, **more: Any) -> connection.Client:
    """Somebody the broker lets in to read."""
    secret = connection.credentials(at.settings(password_file=at.folder / "ann.secret"))
    options = {"username": "ann", "password": secret.password, "tls_context": secret.tls, "timeout": 5}
    return connection.Client("127.0.0.1", at.port, protocol=aiomqtt.ProtocolVersion.V5, **(options | more))


@asynccontextmanager
async def hearing(client: aiomqtt.Client, topic: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """What a subscriber hears, as (topic, payload)."""
    heard: list[tuple[str, bytes]] = []

    async def listen() -> None:
        async for message in client.messages:
            heard.append((str(message.topic), bytes(message.payload)))  # noqa: PERF401 # read while it grows

    async with client:
        await client.subscribe(topic, qos=1)
        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


TOPICS = ("H1/posterior", "H1/event", "network/event", "gwstream/status", "H1/samples", "new/topic")


async def test_only_gwstream_writes_its_topics(tmp_path: Path) -> None:
    async with site(tmp_path) as at, hearing(ann(at), "#") as heard:
        async with ann(at) as forger:
            assert isinstance(forger, connection.Client)
            topics = ["gwstream", *(f"gwstream/{topic}" for topic in TOPICS), "elsewhere"]
            for topic in topics:
                await forger.publish(topic, b"forged", qos=1, retain=True)
            assert list(forger.refused.values()) == ["Not authorized"] * len(topics)
        publisher = Publisher(mine(at))
        async with running(publisher):
            await publisher.put(outgoing(0, "H1"))
            assert await publisher.drain(5) == 0
            await until(lambda: any(topic == "gwstream/H1/posterior" for topic, _ in heard))
    assert all(payload != b"forged" for _, payload in heard)


async def test_a_reader_cannot_take_the_status_away_or_leave_a_false_one(tmp_path: Path) -> None:
    status = "gwstream/gwstream/status"
    rights = "\npattern readwrite said/#\n"
    async with site(tmp_path, rights=rights) as at, hearing(ann(at), "#") as heard:
        publisher = Publisher(mine(at))
        async with running(publisher):
            await until(lambda: len(heard) == 1)
            async with ann(at) as forger:
                assert isinstance(forger, connection.Client)
                await forger.publish(status, b"", qos=1, retain=True)
                assert list(forger.refused.values()) == ["Not authorized"]
            await _die(at, status, "forged")
            await _die(at, "said/by/ann", "a will")  # where anybody may write the same will is spoken
            await until(lambda: ("said/by/ann", b"a will") in heard)
            async with hearing(ann(at), status) as later:
                await until(lambda: len(later) == 1)
                assert b'"state":"online"' in later[0][1]
    assert [payload for topic, payload in heard if topic == status and b'"state"' not in payload] == []


async def _die(at: Site, topic: str, will: str) -> None:
    """Connect as ann, and vanish without a farewell, so that the broker speaks the will."""
    user = ("-u", "ann", "-P", (at.folder / "ann.secret").read_text().strip())
    where = ("-h", "127.0.0.1", "-p", str(at.port), "--cafile", str(at.authority.file), "-V", "mqttv5", "-d")
    told = ("--will-topic", topic, "--will-payload", will, "--will-qos", "1", "--will-retain", "-t", "gwstream/x")
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec("stdbuf", "-oL", "mosquitto_sub", *user, *where, *told, **pipes)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while b"SUBACK" not in (line := await process.stdout.readline()):
            assert line, "it ended by itself"
    process.kill()
    await process.communicate()


async def test_nobody_takes_the_daemons_place_where_identifiers_are_users(tmp_path: Path) -> None:
    """A second client with one identifier cuts the first off: the shipped settings have the line that prevents it."""
    line = "use_username_as_clientid true\n"
    assert f"#{line}" in (DEPLOY / "mosquitto.conf").read_text()
    for more, lost in (("", True), (line, False)):
        folder = tmp_path / str(lost)
        folder.mkdir()
        async with site(folder, more) as at:
            notes = Notes()
            async with running(Publisher(mine(at), observers=[notes])):
                await until(lambda notes=notes: notes.connections == [(True, "")])
                async with ann(at, identifier="gwstream-gwstream"):
                    await asyncio.sleep(0.5)
                assert any(not up for up, _ in notes.connections) is lost


async def test_what_a_broker_sends_unasked_does_nothing(tmp_path: Path) -> None:
    """The daemon subscribes to nothing: messages for it are thrown away, and nonsense ends the connection alone."""
    sent = 0

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")  # taken
        unasked = b"\x00\x18gwstream/gwstream/status" + b"\x00" + b"{}" * 50
        try:
            while await reader.read(4096):
                for _ in range(100):
                    writer.write(b"\x30" + bytes([len(unasked)]) + unasked)
                    sent += 1
                writer.write(random.Random(sent).randbytes(64))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    notes = Notes()
    publisher = Publisher(settings(port, backoff=0.1), observers=[notes], tally=notes.tally)
    async with running(publisher) as it:
        await publisher.put(outgoing(0, "H1"))
        await until(lambda: sent > 500 and len(notes.connections) > 6, 60)
        server.close()
        await server.wait_closed()
        assert it.depth == 1
        async with brokers.mosquitto(tmp_path, port=port):
            await until(lambda: len(notes.delivered_) == 1, 60)
        assert notes.delivered_[0].outgoing.summary.detector == "H1"


def test_broken_files_of_secrets_are_named_and_not_quoted(tmp_path: Path) -> None:
    junk, good = tmp_path / "junk", Authority(tmp_path, "ca")
    certificate, _ = good.issue("one")
    _, other = good.issue("other")
    junk.write_bytes(b"\xff hush")
    for wrong, said in (
        ({"ca_file": junk}, r"publish\.ca_file"),
        ({"ca_file": tmp_path / "none"}, r"publish\.ca_file.*No such file"),
        ({"certificate_file": certificate, "key_file": other}, r"publish\.key_file.*mismatch"),
        ({"password_file": junk}, r"publish\.password_file.*not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=said) as told:
            connection.credentials(settings(1, tls=True, **wrong))
        assert "hush" not in str(told.value)
