"""The packet loop in a process of its own, and the same interface inside the caller's."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keying.secret import Secret
from media.relay import (
    DuplicateStreamError,
    KeyReusedError,
    Latched,
    Latching,
    Mode,
    Protection,
    PythonRelay,
    Relay,
    RelayProcess,
    RelayUnavailableError,
    Side,
    SideConfig,
    StreamConfig,
    UnknownStreamError,
    wire,
)
from sba.testing import async_test
from tests.relay.ends import HOST, context, keys, rtp, udp

pytestmark = pytest.mark.usefixtures("loop")
KINDS = pytest.mark.parametrize("kind", ["process", "in-process"])


async def start(kind: str) -> Relay:
    return await RelayProcess.start() if kind == "process" else PythonRelay()


def secured(sock, receive, send) -> SideConfig:
    return SideConfig(
        HOST,
        Protection.SRTP,
        remote=sock.getsockname(),
        mode=Mode.SENDRECV,
        latching=Latching.LATCH,
        receive=receive,
        send=send,
    )


def plain(sock) -> SideConfig:
    return SideConfig(HOST, Protection.RTP, remote=sock.getsockname(), mode=Mode.SENDRECV)


async def read(sock) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2048), 5)


@KINDS
def test_commands_events_and_taps_are_the_same_wherever_the_loop_runs(kind: str):
    @async_test
    async def run() -> None:
        relay = await start(kind)
        phone, far = udp(), udp()
        receive, send = keys(), keys()
        events, mirrored = [], []
        relay.set_listeners(events.append, mirrored.append)
        local = await relay.add(StreamConfig("s", {Side.ACCESS: secured(phone, receive, send), Side.CORE: plain(far)}))
        await relay.tap("s", enabled=True)
        sender = context(receive)
        address = (local[Side.ACCESS].ip, local[Side.ACCESS].port)
        packet = sender.protect_rtp(rtp(0))
        phone.sendto(packet, address)
        assert await read(far) == rtp(0)
        (statistics,) = await relay.statistics()
        assert statistics.sides[Side.ACCESS].packets_in == statistics.sides[Side.CORE].packets_out == 1
        assert events == [Latched("s", Side.ACCESS, phone.getsockname())]
        assert [each.payload for each in mirrored] == [packet, rtp(0)]
        with pytest.raises(DuplicateStreamError):
            await relay.add(StreamConfig("s", {Side.ACCESS: plain(phone)}))
        with pytest.raises(KeyReusedError):
            await relay.rekey("s", Side.ACCESS, send=receive)
        with pytest.raises(UnknownStreamError):
            await relay.modify("other", Side.ACCESS, plain(phone))
        await relay.rekey("s", Side.ACCESS, receive=keys(), send=keys())
        assert await relay.drain() == 1
        final = await relay.remove("s")
        assert final.sides[Side.ACCESS].latched == phone.getsockname()
        assert await relay.statistics() == []
        await relay.close()
        phone.close()
        far.close()

    return run()


def test_dead_packet_loop_is_noticed_and_commands_fail_clearly():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        died = asyncio.Event()
        relay.on_death = died.set
        os.kill(relay.pid, signal.SIGKILL)
        await asyncio.wait_for(died.wait(), 5)
        with pytest.raises(RelayUnavailableError):
            await relay.statistics()
        assert not relay.alive

    return run()


def test_command_under_way_fails_when_the_packet_loop_dies():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        os.kill(relay.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(relay.statistics())
        await asyncio.sleep(0)
        os.kill(relay.pid, signal.SIGKILL)
        with pytest.raises(RelayUnavailableError):
            await asyncio.wait_for(waiting, 5)

    return run()


@pytest.mark.attack("T9")
def test_packet_loop_dies_with_its_parent():
    script = (
        "import asyncio, os\nfrom media.relay import RelayProcess\n"
        "async def main():\n    relay = await RelayProcess.start()\n    print(relay.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\nasyncio.run(main())\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    child = int(parent.stdout)
    for _ in range(500):
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.01)
    pytest.fail("the packet loop outlives its parent")


@pytest.mark.attack("T8")
def test_keys_are_in_no_argument_and_no_environment_of_the_process():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        phone = udp()
        receive, send = keys(), keys()
        await relay.add(StreamConfig("s", {Side.ACCESS: secured(phone, receive, send)}))
        seen = _arguments_and_environment(relay.pid)
        for of in (receive, send):
            octets = of.keys[0].key_salt.reveal()
            assert octets not in seen
            assert octets.hex().encode() not in seen
        await relay.close()
        phone.close()

    return run()


def _arguments_and_environment(pid: int) -> bytes:
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def test_frames_survive_any_cut():
    config = secured(udp_pair := udp(), keys(mki=3, mki_length=4, lifetime=99), keys("AEAD_AES_256_GCM"))
    udp_pair.close()
    octets = wire.pack({"id": 1, "command": "add", "stream": wire.write_stream(StreamConfig("s", {Side.CORE: config}))})
    for size in (1, 7, len(octets)):
        reader = wire.FrameReader()
        frames = [frame for at in range(0, len(octets), size) for frame in reader.feed(octets[at : at + size])]
        assert len(frames) == 1
        assert wire.read_stream(frames[0]["stream"]).sides[Side.CORE] == config


def test_frame_that_is_too_long_is_refused():
    with pytest.raises(wire.FrameError):
        list(wire.FrameReader().feed(b"\xff\xff\xff\xff\x00"))


def test_secret_is_written_by_the_wire_alone():
    with pytest.raises(TypeError):
        wire.pack({"id": 1, "key": Secret(b"k" * 30)})  # type: ignore[dict-item]
