"""How a capture begins: at every node that can be reached, and it says which it does not have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from lab.capture import CaptureOrder, LiveCapture
from lab.control import ControlError
from protos import capture_pb2, nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.testing import async_test
from tests.sba.gateway import until

UNREACHED = grpc.StatusCode.UNAVAILABLE
REFUSED = grpc.StatusCode.PERMISSION_DENIED


class Nodes:
    """An operator whose nodes fail as often as told before they tell that a capture began."""

    def __init__(self, **failures: list[grpc.StatusCode]) -> None:
        self.failures = failures
        self.asked: list[str] = []

    async def profiles(self) -> list[nrf_nfm_pb2.NfProfile]:
        return [self.profile(name) for name in self.failures]

    @staticmethod
    def profile(name: str) -> nrf_nfm_pb2.NfProfile:
        profile = nrf_nfm_pb2.NfProfile(instance_name=name, fqdn=f"{name}.ims.test", host="127.1.1.1", port=1)
        profile.services.add(service_name="nnf-capture")
        return profile

    async def node_messages(
        self, profile: nrf_nfm_pb2.NfProfile, _kinds: object, *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.NodeCaptureItem]:
        assert not with_keys
        name = profile.instance_name
        self.asked.append(name)
        if self.failures[name]:
            raise RemoteProblem(self.failures[name].pop(0), message="told to")
        yield capture_pb2.NodeCaptureItem(started=True)
        await asyncio.Event().wait()


def capture_of(nodes: Any) -> LiveCapture:
    return LiveCapture(nodes, CaptureOrder(), {})


@async_test
async def test_a_node_that_was_not_reached_is_asked_again_before_the_capture_begins() -> None:
    nodes = Nodes(alice=[UNREACHED, UNREACHED], cscf=[])
    capture = capture_of(nodes)
    await capture.start()
    assert capture.nodes == ["alice", "cscf"]
    assert (capture.absent, capture.faults) == ({}, {})
    assert nodes.asked == ["alice", "cscf", "alice", "alice"]
    await capture.stop()


@async_test
async def test_a_node_that_refuses_is_named_and_not_waited_for() -> None:
    nodes = Nodes(alice=[REFUSED] * 9, cscf=[])
    capture = capture_of(nodes)
    async with asyncio.timeout(4):
        await capture.start()
    assert capture.nodes == ["cscf"]
    assert "told to" in capture.absent["alice"]
    assert nodes.asked == ["alice", "cscf"]
    await capture.stop()


@async_test
async def test_where_every_node_refuses_there_is_no_capture() -> None:
    with pytest.raises(ControlError, match="told to"):
        await capture_of(Nodes(alice=[REFUSED], cscf=[REFUSED])).start()


@async_test
async def test_a_node_that_begins_later_and_one_that_comes_back_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.capture.LOOK_EVERY_S", 0.05)
    nodes = Nodes(alice=[REFUSED], cscf=[])
    capture = capture_of(nodes)
    await capture.start()
    news: list[tuple[str, str]] = []

    written: list[bytes] = []

    async def emit(octets: bytes) -> None:
        written.append(octets)

    async def tell(what: str, node: str) -> None:
        news.append((what, node))

    running = asyncio.create_task(capture.run(emit, tell))
    await until(lambda: news == [("joined", "alice")])
    capture._tasks["cscf", "messages"].cancel()
    await until(lambda: news[1:] == [("returned", "cscf")])
    running.cancel()
    result = await running
    assert isinstance(result, dict)
    assert sum(map(len, written)) == result["octets"] > 0
    assert (result["ended"], result["nodes"]) == ("stopped", ["alice", "cscf"])
