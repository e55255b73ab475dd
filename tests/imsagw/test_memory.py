"""An IMS-AGW that is killed comes back with its calls: the packet loop went on and remembers what they are (T9)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from media.relay import PythonRelay, Side
from nodes.imsagw.associations import Associations
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import Context
from nodes.imsagw.gateway import MediaGateway
from nodes.imsagw.memory import ForeignNoteError, read_context, write_context
from protos import iq_pb2
from sba.errors import RemoteProblem
from sba.telemetry import Telemetry
from sba.testing import LabFixture, NodeProcess, async_test
from tests.imsagw.calls import IQ, Call, context_of, read, rtp

pytestmark = pytest.mark.attack("T9")


@pytest.fixture
def call() -> Iterator[Call]:
    made = Call(pcscf=None)  # type: ignore[arg-type]
    yield made
    made.phone.close()
    made.far.close()


def same(one: Context, other: Context) -> bool:
    """Whether two contexts are the same, their spans and clocks aside."""

    def plain(context: Context) -> object:
        for termination in context.terminations.values():
            for record in termination.streams.values():
                record.span = None
        return context.owner, context.correlation, context.emergency, context.terminations, context.keys

    return plain(one) == plain(other)


async def reserved(call: Call, **access: int) -> tuple[MediaGateway, Context]:
    """A gateway within this process and a context with keys of both ends."""
    associations = Associations(Telemetry("agw", "IMS_AGW").tracer, "agw")
    gateway = MediaGateway(PythonRelay(), ImsAgwSettings(), associations, asyncio.get_running_loop().time)
    request = call.request(call.access(**access))
    request.emergency = True
    context, _ = await gateway.reserve(request, "alg-1")
    return gateway, context


@async_test
async def test_a_context_is_read_as_it_was_written(call: Call) -> None:
    gateway, context = await reserved(call)
    again = read_context(context.context_id, write_context(context), 5.0)
    assert same(again, context)
    record = again.termination(Side.ACCESS).streams[1]  # type: ignore[union-attr]
    assert record.receiving is not None
    assert record.receiving.master_key == call.phone_key.master_key
    assert again.active_at == 5.0
    await gateway.relay.close()


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "9.1")
@async_test
async def test_a_gate_that_was_opened_by_the_last_command_has_been_open(call: Call) -> None:
    """The gateway died after the command and before its note; then the packet loop dies."""
    gateway, context = await reserved(call, mode=iq_pb2.INACTIVE)
    note = write_context(context)
    opening = iq_pb2.ConfigureRequest(context_id=context.context_id)
    access = context.termination(Side.ACCESS)
    assert access is not None
    opening.terminations.add(id=access.termination_id).streams.add(stream_id=1, mode=iq_pb2.SENDRECV)
    await gateway.configure(opening, "alg-1")
    again = read_context(context.context_id, note, 5.0).termination(Side.ACCESS)
    assert again is not None
    record = again.streams[1]
    record.lose_keys()
    assert record.keyless
    assert record.config.send is record.config.receive is record.sending is None
    await gateway.relay.close()


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note[:-5],
        lambda note: "[]",
        lambda note: json.dumps({**json.loads(note), "keys": [["zz", 1, True]]}),
        lambda note: json.dumps({**json.loads(note), "terminations": [{"id": "1", "side": "moon"}]}),
        lambda note: note.replace("RTP/SAVP", "X").replace("AES_CM_128_HMAC_SHA1_80", "ROT13"),
    ],
)
@async_test
async def test_a_note_that_is_none_is_refused_without_quoting_it(call: Call, spoil) -> None:
    gateway, context = await reserved(call)
    note = spoil(write_context(context))
    with pytest.raises(ForeignNoteError) as refused:
        read_context(context.context_id, note, 0.0)
    key = call.phone_key.master_key.reveal()
    assert key.hex() not in str(refused.value)
    assert refused.value.__cause__ is None
    await gateway.relay.close()


@async_test
async def test_what_is_not_in_the_packet_loop_is_void_and_what_no_context_has_is_ended(call: Call) -> None:
    gateway, context = await reserved(call)
    note = write_context(context)
    other, stray = await reserved(call)
    await other.relay.close()
    found = [read_context(context.context_id, note, 0.0), read_context(stray.context_id, write_context(stray), 0.0)]
    gateway.contexts.clear()
    assert await gateway.restore(found, "the epoch before") == 1
    assert list(gateway.contexts) == [context.context_id]
    assert gateway.epoch == "the epoch before"
    assert await gateway.restore([], "") == 1
    assert await gateway.relay.statistics() == []
    await gateway.relay.close()


class Scene:
    """A gateway as a process, and a P-CSCF with one call there."""

    def __init__(self, folder: Path) -> None:
        self.lab = LabFixture(folder)

    async def start(self, **settings: object) -> NodeProcess:
        return await self.lab.spawn("imsagw", "agw-1", settings)

    async def begin(self, call: Call) -> None:
        """Have the P-CSCF reserve the media of a call."""
        call.pcscf = await self.lab.client("PCSCF")
        await call.reserve()

    async def speaks(self, call: Call, number: int) -> None:
        """One packet from the phone, protected, arrives in the open."""
        local = call.termination(iq_pb2.ACCESS).streams[0]
        call.phone.sendto(call.sender.protect_rtp(rtp(number)), (local.ip, local.port))  # type: ignore[attr-defined]
        assert await read(call.far) == rtp(number)


@async_test
async def test_a_call_goes_on_over_the_death_of_its_gateway_and_ends_in_order(tmp_path: Path, call: Call) -> None:
    scene = Scene(tmp_path)
    async with scene.lab:
        node = await scene.start()
        await scene.begin(call)
        call.sender = context_of(call.phone_key)  # type: ignore[attr-defined]
        await scene.speaks(call, 1)
        epoch = (await call.audit()).epoch
        await node.kill()
        for number in range(2, 22):
            await scene.speaks(call, number)
        await scene.start()
        audit = await call.audit()
        assert audit.epoch == epoch, "the contexts are what they were"
        assert [each.context_id for each in audit.contexts] == [call.context_id]
        await scene.speaks(call, 22)
        held = iq_pb2.StreamSpec(stream_id=1, mode=iq_pb2.INACTIVE)
        await call.configure(iq_pb2.ACCESS, held)
        await call.configure(iq_pb2.ACCESS, iq_pb2.StreamSpec(stream_id=1, mode=iq_pb2.SENDRECV))
        await scene.speaks(call, 23)
        other = await scene.lab.client("PCSCF", "another-pcscf")
        with pytest.raises(RemoteProblem):
            await other.call(IQ["Release"], iq_pb2.ReleaseRequest(tx_id="x", context_id=call.context_id))
        final = await call.release()
        assert next(row.packets_in for row in final.statistics if row.side == iq_pb2.ACCESS) == 23
        assert (await call.audit()).contexts == []


@async_test
async def test_without_patience_a_killed_gateway_returns_empty(tmp_path: Path, call: Call) -> None:
    scene = Scene(tmp_path)
    async with scene.lab:
        node = await scene.start(relay_patience_s=0)
        await scene.begin(call)
        epoch = (await call.audit()).epoch
        await node.kill()
        await scene.start(relay_patience_s=0)
        audit = await call.audit()
        assert audit.contexts == []
        assert audit.epoch != epoch


@pytest.mark.attack("T8")
@async_test
async def test_no_key_of_a_call_is_in_any_file_of_the_gateway(tmp_path: Path, call: Call) -> None:
    scene = Scene(tmp_path)
    async with scene.lab:
        node = await scene.start()
        await scene.begin(call)
        offered = bytes(call.termination(iq_pb2.ACCESS).streams[0].sdes_local[0].key_salt)
        await node.kill()
        node = await scene.start()
        keys = [call.phone_key.keys[0].key_salt.reveal(), offered]
        spellings = [text for key in keys for text in (key, key.hex().encode())]
        for path in tmp_path.rglob("*"):  # noqa: ASYNC240 - a test
            if path.is_file():
                content = path.read_bytes()
                assert not any(text in content for text in spellings), path
        assert not any(text.decode("latin-1") in line for text in spellings for line in node.text)
