"""A capture over nodes that answer late, refuse, die, come later or tell half: what it has and what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from lab.capture import CaptureOrder, LiveCapture
from lab.capture_merge import Merger, Seen, of_message
from lab.capture_streams import Streams, Wanted
from lab.control import ControlError
from protos import capture_pb2, nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.testing import async_test
from tests.sba.gateway import until

UNREACHED = grpc.StatusCode.UNAVAILABLE
REFUSED = grpc.StatusCode.PERMISSION_DENIED
END = object()


@dataclass
class Node:
    """A node: how it fails before it tells that a capture began, and what it tells then."""

    name: str
    failures: list[grpc.StatusCode] = field(default_factory=list)
    services: tuple[str, ...] = ("nnf-capture",)
    status: nrf_nfm_pb2.NfStatus = nrf_nfm_pb2.REGISTERED
    asked: int = 0
    number: int = 1

    def __post_init__(self) -> None:
        self.items: asyncio.Queue[object] = asyncio.Queue()

    @property
    def host(self) -> str:
        return f"127.1.1.{self.number}"

    def profile(self) -> nrf_nfm_pb2.NfProfile:
        profile = nrf_nfm_pb2.NfProfile(instance_name=self.name, fqdn=f"{self.name}.ims.test", host=self.host, port=1)
        profile.nf_instance_id, profile.status = self.name, self.status
        for service in self.services:
            profile.services.add(service_name=service)
        return profile

    def message(self, far: Node, *, sent: bool, payload: bytes = b"INVITE") -> capture_pb2.CapturedMessage:
        """Tell of a message to or from another node."""
        source, destination = (self, far) if sent else (far, self)
        return capture_pb2.CapturedMessage(
            kind=capture_pb2.CAPTURE_SIP, time_ns=time.time_ns(), sent=sent, transport="TLS", payload=payload,
            source_ip=source.host, source_port=5060, destination_ip=destination.host, destination_port=5060,
        )  # fmt: skip

    def tell(self, far: Node, *, sent: bool, payload: bytes = b"INVITE") -> None:
        message = self.message(far, sent=sent, payload=payload)
        self.items.put_nowait(capture_pb2.NodeCaptureItem(message=message))


class Nodes:
    """An operator of such nodes; every one is a gateway too where its services say so."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = {node.name: node for node in nodes}
        for number, node in enumerate(nodes, 1):
            node.number = number

    async def profiles(self) -> list[nrf_nfm_pb2.NfProfile]:
        return [node.profile() for node in self.nodes.values()]

    async def node_messages(
        self, profile: nrf_nfm_pb2.NfProfile, kinds: object, *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.NodeCaptureItem]:
        assert kinds
        assert not with_keys
        node = self.nodes[profile.instance_name]
        node.asked += 1
        if node.failures:
            raise RemoteProblem(node.failures.pop(0), message="told to")
        yield capture_pb2.NodeCaptureItem(started=True)
        while (item := await node.items.get()) is not END:
            assert isinstance(item, capture_pb2.NodeCaptureItem)
            yield item

    async def capture_of(
        self, instance_id: str, correlation: str, *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.CaptureItem]:
        assert not correlation
        assert not with_keys
        if "refuses-media" in self.nodes[instance_id].services:
            raise RemoteProblem(REFUSED, message="no media")
        yield capture_pb2.CaptureItem(started=True)
        await asyncio.Event().wait()


class Running:
    """A capture, what it wrote and what it told."""

    def __init__(self, *nodes: Node, **order: Any) -> None:
        operator: Any = Nodes(*nodes)
        self.capture = LiveCapture(operator, CaptureOrder(**order), {})
        self.written = b""
        self.news: list[tuple[str, str]] = []

    async def emit(self, octets: bytes) -> None:
        self.written += octets

    async def tell(self, what: str, name: str) -> None:
        self.news.append((what, name))

    async def begin(self) -> asyncio.Task[Any]:
        await self.capture.start()
        return asyncio.create_task(self.capture.run(self.emit, self.tell))


@async_test
async def test_a_node_that_was_not_reached_is_asked_again_before_the_capture_begins() -> None:
    alice = Node("alice", [UNREACHED, UNREACHED])
    running = Running(alice, Node("cscf"), seconds=0.01)
    run = await running.begin()
    assert running.capture.nodes == ["alice", "cscf"]
    assert running.capture.absent == {}
    assert alice.asked == 3
    assert (await run)["faults"] == {}
    assert running.news == []


@async_test
async def test_a_node_that_refuses_is_named_and_asked_no_more_while_others_begin() -> None:
    alice, cscf = Node("alice", [REFUSED] * 9), Node("cscf", [UNREACHED] * 2)
    running = Running(alice, cscf, seconds=0.01)
    run = await running.begin()
    await asyncio.sleep(0)
    assert running.capture.nodes == ["cscf"]
    assert "told to" in running.capture.absent["alice"]
    assert (alice.asked, cscf.asked) == (1, 3)
    assert "told to" in (await run)["faults"]["alice"]


@async_test
async def test_a_node_that_never_answers_is_named_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture_streams.START_WAIT_S", 0.3)
    dead = Node("dead", [UNREACHED] * 1000)
    running = Running(dead, Node("cscf"), seconds=0.01)
    result = await (await running.begin())
    assert "UNAVAILABLE" in running.capture.absent["dead"]
    assert "UNAVAILABLE" in result["faults"]["dead"]
    assert dead.asked <= 3


@async_test
async def test_a_node_that_finishes_its_work_is_captured_but_not_waited_for() -> None:
    retiring = Node("old", [UNREACHED], status=nrf_nfm_pb2.SUSPENDED)
    running = Running(retiring, Node("cscf"))
    await running.capture.start()
    assert retiring.asked == 1
    assert list(running.capture.absent) == ["old"]
    await running.capture.stop()


@async_test
async def test_where_every_node_refuses_there_is_no_capture() -> None:
    with pytest.raises(ControlError, match="told to"):
        await Running(Node("alice", [REFUSED]), Node("cscf", [REFUSED])).capture.start()


@async_test
async def test_one_that_is_ended_while_nodes_begin_says_so() -> None:
    running = Running(Node("alice", [UNREACHED] * 1000), Node("cscf"))
    start = asyncio.create_task(running.capture.start())
    await until(lambda: running.capture.nodes)
    start.cancel()
    with pytest.raises(ControlError, match="ended before it began"):
        await start


@async_test
async def test_what_joins_and_what_returns_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture.LOOK_EVERY_S", 0.05)
    alice, cscf = Node("alice", [REFUSED]), Node("cscf")
    running = Running(alice, cscf)
    run = await running.begin()
    await until(lambda: running.news == [("joined", "alice")])
    cscf.items.put_nowait(END)
    await until(lambda: running.news[1:] == [("returned", "cscf")])
    run.cancel()
    result = await run
    assert (result["ended"], result["nodes"]) == ("stopped", ["alice", "cscf"])
    assert len(running.written) == result["octets"] > 0


@async_test
async def test_a_gateway_whose_media_are_refused_is_captured_and_its_media_are_named() -> None:
    running = Running(Node("imsagw-a", services=("nnf-capture", "nimsagw-capture", "refuses-media")), seconds=0.01)
    run = await running.begin()
    assert running.capture.nodes == ["imsagw-a"]
    assert list(running.capture.absent) == ["media of imsagw-a"]
    assert "no media" in (await run)["faults"]["media of imsagw-a"]


@async_test
async def test_a_message_whose_sender_tells_later_stands_there_as_its_senders() -> None:
    a, b = Node("a"), Node("b")
    running = Running(a, b)
    run = await running.begin()
    b.tell(a, sent=False)
    await asyncio.sleep(0.9)
    a.tell(b, sent=True)
    run.cancel()
    assert (await run)["packets"] == 1
    assert b"a: " in running.written
    assert b"b: " not in running.written


@async_test
async def test_the_end_waits_a_moment_for_what_was_told_by_one_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture.END_LOOKS", 200)
    a, b = Node("a"), Node("b")
    running = Running(a, b)
    run = await running.begin()
    b.tell(a, sent=False)
    await until(lambda: running.capture._merger.awaits)
    run.cancel()
    await asyncio.sleep(0.1)
    a.tell(b, sent=True)
    assert (await run)["packets"] == 1
    assert b"a: " in running.written
    assert b"b: " not in running.written


@async_test
async def test_an_end_told_of_while_the_end_waits_loses_nothing() -> None:
    a, b = Node("a"), Node("b")
    running = Running(a, b, seconds=0.1)
    run = await running.begin()
    b.tell(a, sent=False)
    await asyncio.sleep(0.25)
    run.cancel()
    result = await run
    assert (result["ended"], result["packets"]) == ("time is up", 1)
    assert b"b: " in running.written


@async_test
async def test_the_end_comes_between_two_writes_and_every_octet_once() -> None:
    a, b = Node("a"), Node("b")
    running, begun = Running(a, b), asyncio.Event()

    async def slowly(octets: bytes) -> None:
        for at in range(0, len(octets), 100_000):
            running.written += octets[at : at + 100_000]
            if len(running.written) > 200_000:
                begun.set()
            await asyncio.sleep(0.01)

    await running.capture.start()
    run = asyncio.create_task(running.capture.run(slowly, running.tell))
    for number in range(3000):
        a.tell(b, sent=True, payload=b"#%04d#" % number + bytes(1000))
        b.tell(a, sent=False, payload=b"#%04d#" % number + bytes(1000))
    await begun.wait()
    run.cancel()
    result = await run
    assert result["packets"] == 3000
    assert [running.written.count(b"#%04d#" % number) for number in range(3000)] == [1] * 3000


@async_test
async def test_a_silent_nrf_holds_up_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture.LOOK_EVERY_S", 0.01)
    a, b = Node("a"), Node("b")
    running = Running(a, b)
    run = await running.begin()

    asked = asyncio.Event()

    async def silent() -> list[nrf_nfm_pb2.NfProfile]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    running.capture._operator.profiles = silent  # type: ignore[method-assign]
    await asked.wait()
    a.tell(b, sent=True, payload=b"while it is silent")
    b.tell(a, sent=False, payload=b"while it is silent")
    await until(lambda: b"while it is silent" in running.written)
    run.cancel()
    assert (await run)["packets"] == 1


@async_test
async def test_a_node_that_is_gone_is_not_waited_for() -> None:
    a, b = Node("a"), Node("b")
    operator: Any = Nodes(a, b)
    merger = Merger()
    streams = Streams(operator, Wanted((), (capture_pb2.CAPTURE_SIP,), media=False, with_keys=False), merger, never)
    await streams.begin(await operator.profiles())
    merger.add(sight(b, a))
    assert merger.awaits
    a.items.put_nowait(END)
    await until(lambda: streams.faults)
    assert not merger.awaits
    await streams.close()


def sight(node: Node, far: Node) -> Seen:
    return of_message(node.name, node.message(far, sent=False))


def never(gateway: str, key: object) -> None:
    raise AssertionError((gateway, key))


@async_test
async def test_a_reader_that_goes_ends_the_capture_at_every_node() -> None:
    a = Node("a")
    running = Running(a)

    async def gone(_: bytes) -> None:
        raise ConnectionError

    await running.capture.start()
    with pytest.raises(ConnectionError):
        await running.capture.run(gone, running.tell)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in others if "_follow" in repr(task)]


@async_test
async def test_a_file_is_no_larger_than_it_may_be_though_more_waits() -> None:
    a, b = Node("a"), Node("b")
    running = Running(a, b, most_octets=1_000_000)
    run = await running.begin()
    for number in range(3000):
        a.tell(b, sent=True, payload=b"%04d" % number + bytes(1000))
    result = await run
    assert result["ended"] == "the file is as large as it may be"
    assert 1_000_000 <= result["octets"] < 2_500_000


@pytest.mark.attack("T9")
@async_test
async def test_a_node_that_says_it_began_again_and_again_is_heard_once() -> None:
    loud, dead = Node("loud"), Node("dead", [UNREACHED] * 100_000)
    for _ in range(5000):
        loud.items.put_nowait(capture_pb2.NodeCaptureItem(started=True))
    running = Running(loud, dead)
    start = asyncio.create_task(running.capture.start())
    await until(loud.items.empty)
    assert dead.asked < 30
    start.cancel()
    with pytest.raises(ControlError):
        await start
    assert running.capture._streams.news() == []
