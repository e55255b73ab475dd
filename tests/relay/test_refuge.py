"""A packet loop whose gateway process was killed goes on with its packets, and is found again by the next one (T9)."""

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from media.relay import Refuge, RelayProcess, RelayUnavailableError, Side, StreamConfig, wire
from sba.testing import async_test
from tests.relay.ends import context, keys, rtp, udp
from tests.relay.test_process import plain, read, secured

pytestmark = [pytest.mark.attack("T9"), pytest.mark.usefixtures("loop")]


@asynccontextmanager
async def waiting(folder: Path, seconds: float = 10.0) -> AsyncIterator[tuple[Refuge, RelayProcess]]:
    """A packet loop with a refuge; what is left of it ends with the block."""
    refuge = Refuge(folder / ("a" * 60) / ("b" * 60) / "packets.sock", seconds)
    refuge.path.parent.mkdir(parents=True)
    relay = await RelayProcess.start(refuge=refuge)
    try:
        yield refuge, relay
    finally:
        left(relay)
        try:
            last = await RelayProcess.adopt(refuge)
        except RelayUnavailableError:
            pass
        else:
            await last.close()
        await gone(relay)


def left(relay: RelayProcess) -> None:
    """The end of the gateway process, as the packet loop sees it: the socket closes, nothing was said."""
    relay._end()


async def gone(relay: RelayProcess) -> None:
    """Until a packet loop that was started here has ended."""
    assert relay._child is not None
    await asyncio.to_thread(relay._child.wait, 5)


def test_packets_pass_while_nobody_commands_and_the_next_commander_finds_everything(tmp_path: Path):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (refuge, relay):
            phone, far, receive, send = udp(), udp(), keys(), keys()
            sides = {Side.ACCESS: secured(phone, receive, send), Side.CORE: plain(far)}
            local = await relay.add(StreamConfig("s", sides))
            at, sender = (local[Side.ACCESS].ip, local[Side.ACCESS].port), context(receive)
            await relay.remember("call", "what is known of it")
            await relay.remember("gone", "x")
            await relay.remember("gone", None)
            phone.sendto(sender.protect_rtp(rtp(1)), at)
            assert await read(far) == rtp(1)
            left(relay)
            for number in range(2, 52):
                phone.sendto(sender.protect_rtp(rtp(number)), at)
                assert await read(far) == rtp(number)
            again = await RelayProcess.adopt(refuge)
            assert again.pid == relay.pid
            assert await again.remembered() == {"call": "what is known of it"}
            (counted,) = await again.statistics()
            assert counted.sides[Side.ACCESS].packets_in == 51
            replayed = sender.protect_rtp(rtp(52))
            for _ in range(2):
                phone.sendto(replayed, at)
            assert await read(far) == rtp(52)
            final = await again.remove("s")
            assert final.sides[Side.ACCESS].replays == 1, "the replay window outlived the commander"
            await again.close()
            phone.close()
            far.close()

    return run()


def test_it_outlives_a_gateway_process_that_is_killed(tmp_path: Path):
    script = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom media.relay import Refuge, RelayProcess\n"
        "async def main():\n"
        "    relay = await RelayProcess.start(refuge=Refuge(Path(sys.argv[1]), 10.0))\n"
        "    await relay.remember('by', str(os.getpid()))\n    print(os.getpid(), relay.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\nasyncio.run(main())\n"
    )

    @async_test
    async def run() -> None:
        path = tmp_path / "packets.sock"
        command = [sys.executable, "-c", script, str(path)]
        parent = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, timeout=20, check=False)
        dead, child = map(int, parent.stdout.split())
        relay = await RelayProcess.adopt(Refuge(path, 10.0))
        assert relay.pid == child
        assert await relay.remembered() == {"by": str(dead)}
        await relay.close()
        assert not path.exists()

    return run()


def test_it_ends_when_nobody_comes(tmp_path: Path):
    @async_test
    async def run() -> None:
        refuge = Refuge(tmp_path / "packets.sock", 0.2)
        relay = await RelayProcess.start(refuge=refuge)
        left(relay)
        await gone(relay)
        assert not refuge.path.exists()
        with pytest.raises(RelayUnavailableError):
            await RelayProcess.adopt(refuge)

    return run()


def test_it_does_not_wait_when_it_was_told_to_close(tmp_path: Path):
    @async_test
    async def run() -> None:
        refuge = Refuge(tmp_path / "packets.sock", 600.0)
        relay = await RelayProcess.start(refuge=refuge)
        await relay.close()
        await gone(relay)
        assert not refuge.path.exists()

    return run()


def test_nobody_else_gives_commands_while_somebody_does(tmp_path: Path):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (refuge, relay):
            with pytest.raises(RelayUnavailableError):
                await RelayProcess.adopt(refuge)
            assert await relay.statistics() == [], "the one in command was not disturbed"

    return run()


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff\x00",
        wire.pack({"command": "remove"}),
        wire.pack({"id": 1, "command": "add", "stream": []}),
        wire.pack({"id": 1, "command": "remember", "key": "k", "note": 5}),
    ],
)
def test_who_speaks_nonsense_is_sent_away_and_the_packets_pass(tmp_path: Path, octets: bytes):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (refuge, relay):
            phone, far = udp(), udp()
            local = await relay.add(StreamConfig("s", {Side.ACCESS: plain(phone), Side.CORE: plain(far)}))
            left(relay)
            with refuge.knock() as stranger:
                stranger.settimeout(5)
                stranger.sendall(octets)
                while stranger.recv(4096):
                    pass
            phone.sendto(rtp(1), (local[Side.ACCESS].ip, local[Side.ACCESS].port))
            assert await read(far) == rtp(1)
            again = await RelayProcess.adopt(refuge)
            assert [each.stream_id for each in await again.statistics()] == ["s"]
            await again.close()
            phone.close()
            far.close()

    return run()


def test_the_socket_is_its_users_alone(tmp_path: Path):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (refuge, _):
            assert stat.S_IMODE(refuge.path.stat().st_mode) == 0o600

    return run()


@pytest.mark.root
def test_another_user_gets_no_word_even_through_an_open_door(tmp_path: Path):
    """The mode of the socket is one lock; that the packet loop looks at who comes is the other."""
    script = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(5)\ns.connect(sys.argv[1])\nprint(len(s.recv(100)))\n"
    )

    @async_test
    async def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="imslab-refuge-", dir="/tmp"))  # every folder above has to be open
        os.chmod(folder, 0o755)  # noqa: PTH101 - a test
        refuge = Refuge(folder / "packets.sock", 10.0)
        relay = await RelayProcess.start(refuge=refuge)
        try:
            refuge.path.chmod(0o666)
            left(relay)
            command = [sys.executable, "-c", script, str(refuge.path)]
            process = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20, check=False)
            assert process.stdout.strip() == b"0", process.stderr
            await (await RelayProcess.adopt(refuge)).close()
        finally:
            await gone(relay)
            shutil.rmtree(folder)

    return run()


def test_a_commander_does_not_talk_to_another_users_packet_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "packets.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(PermissionError):
        Refuge(path, 1.0).knock()
    listener.close()


@pytest.mark.attack("T8")
def test_keys_are_in_no_file_beside_the_socket(tmp_path: Path):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (_, relay):
            phone, receive, send = udp(), keys(), keys()
            await relay.add(StreamConfig("s", {Side.ACCESS: secured(phone, receive, send)}))
            await relay.remember("call", receive.keys[0].key_salt.reveal().hex())
            assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["packets.sock"]
            phone.close()

    return run()
