"""Counters in memory that the packet loop shares: true without a command, after its death, and read by others alone."""

import asyncio
import mmap
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from media.relay import DropCause, RelayProcess, RelayUnavailableError, Side, StreamConfig, wire
from media.relay.board import Board, SharedCounters
from sba.testing import async_test
from tests.relay.ends import context, keys, rtp, udp
from tests.relay.test_process import plain, read, secured
from tests.relay.test_refuge import left, waiting

_PATIENCE_S = 5.0
FORGED = rtp(11, payload=bytes(40))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(_PATIENCE_S / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come to that")


@asynccontextmanager
async def talking(relay: RelayProcess) -> AsyncIterator[None]:
    """Ten good packets, two of them again, one forged, and two back."""
    phone, far = udp(), udp()
    receive, send = keys(), keys()
    local = await relay.add(StreamConfig("s", {Side.ACCESS: secured(phone, receive, send), Side.CORE: plain(far)}))
    access, core = ((local[side].ip, local[side].port) for side in (Side.ACCESS, Side.CORE))
    sender = context(receive)
    packets = [sender.protect_rtp(rtp(number)) for number in range(10)]
    for number, packet in enumerate(packets):
        phone.sendto(packet, access)
        assert await read(far) == rtp(number)
    for packet in (*packets[:2], FORGED):
        phone.sendto(packet, access)
    for number in range(2):
        far.sendto(rtp(number, 0xFA5), core)
        await read(phone)
    try:
        yield
    finally:
        phone.close()
        far.close()


def all_there(relay: RelayProcess) -> bool:
    counted = relay.counts()["s"]
    return counted[Side.ACCESS].packets_in == 13 and counted[Side.CORE].packets_in == 2


@pytest.mark.usefixtures("loop")
def test_counters_are_read_without_a_command_and_are_those_of_the_statistics():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        async with talking(relay):
            await until(lambda: all_there(relay))
            os.kill(relay.pid, signal.SIGSTOP)
            shared = {side: asdict(counts) for side, counts in relay.counts()["s"].items()}
            assert relay.pending == 0, "nothing was asked"
            os.kill(relay.pid, signal.SIGCONT)
            assert shared[Side.ACCESS]["drops"] == {DropCause.REPLAYED: 2, DropCause.AUTH_FAILED: 1}
            assert shared[Side.CORE]["packets_out"] == 10
            (told,) = await relay.statistics()
            assert shared == {
                side: {name: getattr(told.sides[side], name) for name in counts} for side, counts in shared.items()
            }
            await relay.remove("s", Side.CORE)
            assert set(relay.counts()["s"]) == {Side.ACCESS}
            assert relay.counts()["s"][Side.ACCESS].packets_out == 2, "what the far side brought"
            await relay.remove("s")
            assert relay.counts() == {}
        await relay.close()

    return run()


def test_a_row_that_was_used_starts_at_nothing():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        for _ in range(2):
            async with talking(relay):
                await until(lambda: all_there(relay))
                await relay.remove("s")
        await relay.close()

    return run()


@pytest.mark.usefixtures("loop")
def test_the_last_counters_of_a_packet_loop_that_died_are_there():
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        async with talking(relay):
            await until(lambda: all_there(relay))
            os.kill(relay.pid, signal.SIGKILL)
            await until(lambda: not relay.alive)
            assert all_there(relay)
            assert relay.counts()["s"][Side.ACCESS].drops[DropCause.REPLAYED] == 2

    return run()


def test_who_takes_the_packet_loop_over_reads_its_counters(tmp_path: Path):
    @async_test
    async def run() -> None:
        async with waiting(tmp_path) as (refuge, relay), talking(relay):
            await until(lambda: all_there(relay))
            left(relay)
            again = await RelayProcess.adopt(refuge)
            assert all_there(again)
            await again.remove("s")
            assert again.counts() == {}
            await again.close()

    return run()


@pytest.mark.attack("T9")
def test_who_reads_cannot_write_shrink_or_grow():
    board = Board()
    with pytest.raises(PermissionError):
        mmap.mmap(board.descriptor, 4096)
    with pytest.raises(PermissionError):
        os.pwrite(board.descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(board.descriptor, 0)
    board.release()


@pytest.mark.attack("T9")
def test_memory_that_could_be_taken_away_under_the_reader_is_refused(tmp_path: Path):
    """A file that shrinks ends who reads it with SIGBUS."""
    board = Board()
    size = os.fstat(board.descriptor).st_size
    board.release()
    unsealed = os.memfd_create("unsealed", os.MFD_CLOEXEC)
    os.ftruncate(unsealed, size)
    for descriptor in (unsealed, os.open(tmp_path, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)):
        with pytest.raises(RelayUnavailableError):
            SharedCounters(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.attack("T9")
@pytest.mark.parametrize("row", [-1, 1 << 17, "0", None, 1.5])
def test_a_row_that_cannot_be_is_refused(row: wire.Json):
    with pytest.raises(wire.FrameError):
        wire.read_rows({"s": {"access": row}})


@pytest.mark.attack("T9")
@pytest.mark.parametrize("shared", [[], [0]], ids=["nothing", "something else"])
def test_a_packet_loop_that_does_not_share_its_counters_is_not_commanded(shared: list[int]):
    @async_test
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(0.0)
        relay = RelayProcess(None, ours, os.getpid())
        asyncio.get_running_loop().add_reader(ours.fileno(), relay._readable)
        socket.send_fds(theirs, [wire.pack({"ready": True, "loop": "compiled", "rows": {}})], shared)
        with pytest.raises(RelayUnavailableError):
            await asyncio.wait_for(relay._ready, _PATIENCE_S)
        relay._end()
        theirs.close()

    return run()
