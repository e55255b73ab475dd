"""The packet loop dies and its gateway does not: streams go on in another one, keys that were used never do (T9)."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.metrics import CallbackOptions

from keying.sdes import generate
from media.relay import RelayUnavailableError, Side
from nodes.imsagw.crypto import write_crypto
from nodes.imsagw.node import ImsAgw
from nodes.imsagw.revival import revive
from protos import iq_pb2
from sba.client import SbiClient
from sba.errors import RemoteProblem
from sba.testing import LabFixture, async_test
from tests.imsagw.calls import IQ, SUITE, Call, context_of, gateway, read, rtp, until

pytestmark = pytest.mark.attack("T9")
ACCESS, CORE = iq_pb2.ACCESS, iq_pb2.CORE


@asynccontextmanager
async def calling(folder: Path, **settings: Any) -> AsyncIterator[tuple[ImsAgw, SbiClient, Call]]:
    """A gateway whose packet loop is a process, and a call that is not reserved yet."""
    async with gateway(folder, relay="process", **settings) as (node, pcscf, _):
        call = Call(pcscf)
        try:
            yield node, pcscf, call
        finally:
            call.close()


def kill(node: ImsAgw) -> int:
    pid = int(node.gateway.relay.pid)  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    return pid


def packets(node: ImsAgw) -> dict[tuple[object, object], float]:
    """What the metric says, by side and direction."""
    observed = node._meter._observe("packets", "network.io.direction")(CallbackOptions())
    return {tuple((each.attributes or {}).values()): each.value for each in observed}  # type: ignore[misc]


async def back(node: ImsAgw, dead: int) -> None:
    """Until the streams are in another packet loop."""

    async def there() -> bool:
        return node.gateway.usable.is_set() and node.gateway.relay.pid != dead  # type: ignore[attr-defined]

    await until(there)


async def note_of(pcscf: SbiClient, kind: str) -> iq_pb2.Notification:
    """The first notification of a kind."""
    async with asyncio.timeout(5):
        async for event in pcscf.stream(IQ["Events"], iq_pb2.EventsRequest()):
            if event.WhichOneof("event") == kind:
                return event
    raise AssertionError("the stream ended")


def plain(call: Call, transport: int = iq_pb2.RTP_AVP) -> tuple[iq_pb2.StreamSpec, iq_pb2.StreamSpec]:
    access = iq_pb2.StreamSpec(stream_id=1, media=iq_pb2.AUDIO, transport=transport, latching=iq_pb2.LATCH)
    access.remote.ip, access.remote.port = call.phone.getsockname()
    access.mode = iq_pb2.SENDRECV
    return access, call.core(transport=transport)


async def rekey(call: Call, peer_key: Any) -> Any:
    """What a P-CSCF asks for when its UE is to have new keys, then what it brings of the UE's answer."""
    offer = iq_pb2.StreamSpec(stream_id=1)
    offer.sdes_local_request.CopyFrom(iq_pb2.SdesLocalRequest(tag=2, suites=[SUITE], rekey=True))
    (line,) = (await call.configure(ACCESS, offer)).terminations[0].streams[0].sdes_local
    answer = iq_pb2.StreamSpec(stream_id=1, sdes_local_selected=line.tag)
    answer.sdes_remote.append(write_crypto(peer_key))
    await call.configure(ACCESS, answer)
    return line


@pytest.mark.parametrize("patience", [15, 0], ids=["with refuge", "without, as in a container"])
@pytest.mark.parametrize("transport", [iq_pb2.RTP_AVP, iq_pb2.OPAQUE_UDP])
@async_test
async def test_streams_without_keys_of_the_gateway_simply_go_on(tmp_path: Path, transport: int, patience: int) -> None:
    async with calling(tmp_path, relay_patience_s=patience) as (node, _, call):
        await call.reserve(*plain(call, transport))
        call.phone.sendto(rtp(1), call.port(ACCESS))
        assert await read(call.far) == rtp(1)

        async def counted() -> bool:
            return any(side.packets_out for sides in node.gateway.relay.counts().values() for side in sides.values())

        await until(counted)
        dead = kill(node)
        await back(node, dead)
        call.far.sendto(rtp(2), call.port(CORE))
        assert await read(call.phone) == rtp(2)
        spans = [each.streams[1].span for each in node.gateway.contexts[call.context_id].terminations.values()]
        told = {span.attributes["media.side"]: [(each.name, each.attributes) for each in span.events] for span in spans}
        assert [[name for name, _ in events] for events in told.values()] == [["packet-loop-died"]] * 2
        assert told["access"][0][1]["media.packets_in"] == told["core"][0][1]["media.packets_out"] == 1, told
        call.phone.sendto(rtp(3), call.port(ACCESS))
        assert await read(call.far) == rtp(3)

        async def both() -> bool:
            return packets(node)["access", "receive"] == 2

        await until(both)  # one of the dead packet loop, which nobody had asked for it
        audit = await call.audit()
        assert audit.epoch == call.answer.epoch
        assert [each.context_id for each in audit.contexts] == [call.context_id]
        assert "died and was started again, 1 in all" in node.attributes()["packet_loop"]
        assert len((await call.release()).statistics) == 2


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "9.1", "9.2")
@pytest.mark.clause("RFC 4568", "7.1.4")
@async_test
async def test_a_protected_stream_is_dark_until_it_has_new_keys_of_both_ends(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, pcscf, call):
        await call.reserve()
        phone, ear = context_of(call.phone_key), call.phone_hears()
        for number in (65000, 65530, 65540):  # beyond a wrap
            await call.talk(number % 65536, 1, phone)
            call.far.sendto(rtp(number % 65536, 0xFA5), call.port(CORE))
            ear.unprotect_rtp(await read(call.phone))
        node.gateway.note(await node.gateway.relay.statistics())
        recorded = phone.protect_rtp(rtp(5))
        dead = kill(node)
        note = await note_of(pcscf, "rekey_needed")
        await back(node, dead)
        assert note.context_id == call.context_id
        assert note.termination_id == call.termination(ACCESS).termination_id
        assert list(note.rekey_needed.stream_ids) == [1]
        call.phone.sendto(recorded, call.port(ACCESS))
        call.far.sendto(rtp(5, 0xFA5), call.port(CORE))

        async def dropped() -> bool:
            rows = (await call.audit()).contexts[0].statistics
            return [[(drop.cause, drop.packets) for drop in row.drops] for row in rows] == [[("no_key", 1)]] * 2

        await until(dropped)
        with pytest.raises(RemoteProblem) as refused:
            await rekey(call, call.phone_key)
        assert refused.value.cause == "IQ_449", "the key of before comes back nowhere"
        fresh = generate(SUITE, 2)
        line = await rekey(call, fresh)
        assert bytes(line.key_salt) != bytes(call.local(ACCESS).sdes_local[0].key_salt)
        phone.rekey(fresh.suite, fresh.master_key, fresh.master_salt)
        after = context_of(line)
        after.set_roc(0xFA5, 1, 5)
        await call.talk(10, 3, phone)
        call.far.sendto(rtp(10, 0xFA5), call.port(CORE))
        assert after.unprotect_rtp(await read(call.phone)) == rtp(10, 0xFA5), "the ROC is the one the phone expects"
        assert not node.gateway.contexts[call.context_id].keyless


@async_test
async def test_keys_of_a_stream_whose_gate_was_never_open_are_as_good_as_new(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, _, call):
        closed = iq_pb2.INACTIVE
        await call.reserve(call.access(mode=closed), call.core(mode=closed))
        dead = kill(node)
        await back(node, dead)
        assert not node.gateway.contexts[call.context_id].keyless
        for side in (ACCESS, CORE):
            await call.configure(side, iq_pb2.StreamSpec(stream_id=1, mode=iq_pb2.SENDRECV))
        await call.talk(1, 2, context_of(call.phone_key))


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "3.3.2")
@async_test
async def test_a_key_that_was_checked_with_at_a_closed_gate_does_not_come_back(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, _, call):
        closed = iq_pb2.INACTIVE
        await call.reserve(call.access(mode=closed, latching=iq_pb2.LATCH_OFF), call.core(mode=closed))
        recorded = context_of(call.phone_key).protect_rtp(rtp(1))
        call.phone.sendto(recorded, call.port(ACCESS))

        async def counted() -> bool:
            (told,) = await node.gateway.relay.statistics()
            return bool(told.sides[Side.ACCESS].received)

        await until(counted)
        dead = kill(node)
        await back(node, dead)
        assert node.gateway.contexts[call.context_id].keyless
        for side in (ACCESS, CORE):
            await call.configure(side, iq_pb2.StreamSpec(stream_id=1, mode=iq_pb2.SENDRECV))
        call.phone.sendto(recorded, call.port(ACCESS))
        with pytest.raises(TimeoutError):
            await read(call.far, 0.3)


@async_test
async def test_a_line_that_waits_for_its_answer_still_does(tmp_path: Path) -> None:
    """A re-key was under way: the new key was shown and never sent with."""
    async with calling(tmp_path) as (node, _, call):
        await call.reserve()
        await call.talk(1, 1, context_of(call.phone_key))
        offer = iq_pb2.StreamSpec(stream_id=1)
        offer.sdes_local_request.CopyFrom(iq_pb2.SdesLocalRequest(tag=7, suites=[SUITE], rekey=True))
        (line,) = (await call.configure(ACCESS, offer)).terminations[0].streams[0].sdes_local
        dead = kill(node)
        await back(node, dead)
        fresh = generate(SUITE, 7)
        answer = iq_pb2.StreamSpec(stream_id=1, sdes_local_selected=7)
        answer.sdes_remote.append(write_crypto(fresh))
        await call.configure(ACCESS, answer)
        await call.talk(2, 1, context_of(fresh))
        call.far.sendto(rtp(2, 0xFA5), call.port(CORE))
        assert context_of(line).unprotect_rtp(await read(call.phone)) == rtp(2, 0xFA5)
        assert not node.gateway.contexts[call.context_id].keyless


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "9.1")
@async_test
async def test_a_key_the_packet_loop_was_told_to_send_with_when_it_died_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(tmp_path) as (node, _, call):
        await call.reserve()
        await call.talk(1, 1, context_of(call.phone_key))
        offer = iq_pb2.StreamSpec(stream_id=1)
        offer.sdes_local_request.CopyFrom(iq_pb2.SdesLocalRequest(tag=7, suites=[SUITE], rekey=True))
        await call.configure(ACCESS, offer)
        relay = node.gateway.relay
        modify, dead = relay.modify, relay.pid  # type: ignore[attr-defined]

        async def last(*args: Any) -> Any:
            await modify(*args)
            kill(node)
            raise RelayUnavailableError("it did, and died before it said so")

        monkeypatch.setattr(relay, "modify", last)
        answer = iq_pb2.StreamSpec(stream_id=1, sdes_local_selected=7)
        answer.sdes_remote.append(write_crypto(generate(SUITE, 7)))
        with pytest.raises(RemoteProblem):
            await call.configure(ACCESS, answer)
        await back(node, dead)
        del answer.sdes_remote[:]
        answer.sdes_remote.append(write_crypto(generate(SUITE, 7)))
        with pytest.raises(RemoteProblem) as refused:
            await call.configure(ACCESS, answer)
        assert refused.value.cause == "IQ_449"
        fresh = generate(SUITE, 2)
        await rekey(call, fresh)
        await call.talk(2, 1, context_of(fresh))


@async_test
async def test_a_fault_while_streams_are_revived_is_no_end_of_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(tmp_path) as (node, _, call):
        await call.reserve(*plain(call))
        tries = []

        async def faulty(relay: Any, contexts: Any) -> Any:
            tries.append(relay)
            if len(tries) > 1:
                return await revive(relay, contexts)
            raise ValueError("a fault")

        monkeypatch.setattr("nodes.imsagw.node.revive", faulty)
        dead = kill(node)
        await back(node, dead)
        assert not tries[0].alive
        call.phone.sendto(rtp(1), call.port(ACCESS))
        assert await read(call.far) == rtp(1)


@async_test
async def test_a_request_that_meets_the_restart_waits_for_its_end(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, pcscf, call):
        await call.reserve(*plain(call))
        other = Call(pcscf)
        kill(node)
        await until(lambda: asyncio.sleep(0, not node.gateway.usable.is_set()))
        await other.reserve()
        assert node.gateway.usable.is_set()
        await other.talk(1, 2, context_of(other.phone_key))
        other.close()


@async_test
async def test_what_fails_with_the_packet_loop_is_carried_out_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.imsagw.gateway._RESTART_S", 0.05)
    async with calling(tmp_path) as (node, pcscf, call):
        request = call.request()
        node.gateway.usable.clear()
        with pytest.raises(RemoteProblem) as refused:
            await pcscf.call(IQ["Reserve"], request, timeout=5.0)
        assert (refused.value.code, refused.value.cause) == (grpc.StatusCode.UNAVAILABLE, "IQ_502")
        node.gateway.usable.set()
        call.answer = await pcscf.call(IQ["Reserve"], request)
        await call.talk(1, 1, context_of(call.phone_key))


@async_test
async def test_a_call_whose_port_went_to_somebody_else_is_given_up_alone(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, pcscf, call):
        await call.reserve(*plain(call))
        other = Call(pcscf)
        await other.reserve(*plain(other))
        dead = kill(node)
        thief = _bound(call.port(CORE))  # nothing else runs here meanwhile
        note = await note_of(pcscf, "bearer_released")
        assert (note.context_id, note.bearer_released) == (call.context_id, "failure")
        await back(node, dead)
        assert list(node.gateway.contexts) == [other.context_id]
        other.phone.sendto(rtp(1), other.port(ACCESS))
        assert await read(other.far) == rtp(1)
        assert (await call.audit()).epoch == call.answer.epoch
        thief.close()
        other.close()


def _bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    until_s = time.monotonic() + 5
    while True:
        try:
            sock.bind(address)
        except OSError:
            assert time.monotonic() < until_s
            time.sleep(0.002)
        else:
            return sock


@async_test
async def test_death_after_death_loses_no_stream(tmp_path: Path) -> None:
    async with calling(tmp_path) as (node, _, call):
        await call.reserve(*plain(call))
        for number in range(3):
            dead = kill(node)
            await back(node, dead)
            call.phone.sendto(rtp(number), call.port(ACCESS))
            assert await read(call.far) == rtp(number)


@async_test
async def test_a_packet_loop_that_cannot_be_started_voids_every_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(tmp_path) as (node, pcscf, call):
        monkeypatch.setattr("nodes.imsagw.node._GIVE_UP_S", 0.0)
        await call.reserve()
        start, tries = node._start_relay, 0

        async def refuses() -> Any:
            nonlocal tries
            tries += 1
            if tries > 2:
                return await start()
            raise RelayUnavailableError("not today")

        monkeypatch.setattr(node, "_start_relay", refuses)
        dead = kill(node)
        assert (await note_of(pcscf, "bearer_released")).context_id == call.context_id
        restored = await note_of(pcscf, "restored")
        assert restored.restored != call.answer.epoch
        await back(node, dead)
        await call.reserve()
        await call.talk(1, 1, context_of(call.phone_key))


@async_test
async def test_the_controller_dies_before_the_keys_came_and_asks_again(tmp_path: Path) -> None:
    lab = LabFixture(tmp_path)
    async with lab:
        node = await lab.spawn("imsagw", "agw-1", {})
        call = Call(await lab.client("PCSCF"))
        await call.reserve()
        await call.talk(1, 1, context_of(call.phone_key))
        await until(lambda: asyncio.sleep(0, [one["pid"] for one in node.log if one.get("event") == "packet-loop"]))
        (loop,) = [one["pid"] for one in node.log if one.get("event") == "packet-loop"]
        os.kill(loop, signal.SIGKILL)
        first = await note_of(call.pcscf, "rekey_needed")
        await node.kill()
        await lab.spawn("imsagw", "agw-1", {})
        again = await note_of(call.pcscf, "rekey_needed")
        assert again.event_id > first.event_id
        assert again.context_id == call.context_id
        fresh = generate(SUITE, 2)
        await rekey(call, fresh)
        await call.talk(2, 2, context_of(fresh))
        call.close()
