"""The tap of a node: nothing is rendered for nobody, nobody is waited for, what is missed is counted."""

from __future__ import annotations

import asyncio

import pytest

from protos import capture_pb2
from sba.tap import MOST_MESSAGES, MOST_OCTETS, MOST_READERS, Tap, TooManyReadersError
from sba.testing import async_test

SIP, SBA = capture_pb2.CAPTURE_SIP, capture_pb2.CAPTURE_SBA


def message(payload: bytes = b"", comment: str = "") -> capture_pb2.CapturedMessage:
    return capture_pb2.CapturedMessage(kind=SIP, payload=payload, comment=comment)


class Renderer:
    """Counts how often it is asked to render."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def __call__(self, with_keys: bool) -> capture_pb2.CapturedMessage:
        self.asked.append(with_keys)
        return message(comment="with keys" if with_keys else "masked")


def test_nothing_is_rendered_while_nobody_watches() -> None:
    tap, render = Tap(), Renderer()
    assert not tap.wants(SIP)
    tap.put(SIP, render)
    with tap.reading([SBA], with_keys=False):
        assert tap.wants(SBA)
        assert not tap.wants(SIP)
        tap.put(SIP, render)
    assert not tap.wants(SBA)
    assert render.asked == []


@async_test
async def test_one_rendering_for_all_who_may_see_the_same() -> None:
    tap, render = Tap(), Renderer()
    with (
        tap.reading([], with_keys=False) as one,
        tap.reading([SIP], with_keys=False) as two,
        tap.reading([SIP], with_keys=True) as three,
    ):
        tap.put(SIP, render)
        assert sorted(render.asked) == [False, True]
        for reader, seen in ((one, "masked"), (two, "masked"), (three, "with keys")):
            item = await anext(reader.items())
            assert item.message.comment == seen


@async_test
async def test_a_slow_reader_loses_messages_and_is_told_how_many() -> None:
    tap = Tap()
    with tap.reading([SIP], with_keys=False) as reader:
        for _ in range(MOST_MESSAGES + 7):
            tap.put(SIP, lambda _keys: message())
        items = reader.items()
        kinds = [(await anext(items)).WhichOneof("item") for _ in range(MOST_MESSAGES)]
        assert set(kinds) == {"message"}
        assert (await anext(items)).lost.items == 7
        tap.put(SIP, lambda _keys: message(comment="later"))
        assert (await anext(items)).message.comment == "later"


@async_test
async def test_octets_that_wait_are_bounded_too() -> None:
    tap, large = Tap(), bytes(1 << 20)
    with tap.reading([SIP], with_keys=False) as reader:
        for _ in range(40):
            tap.put(SIP, lambda _keys: message(large))
        assert reader.lost >= 40 - MOST_OCTETS // len(large)
        for _ in range(40 - reader.lost):
            await anext(reader.items())


@async_test
async def test_a_reader_waits_for_what_comes_later() -> None:
    tap = Tap()
    with tap.reading([SIP], with_keys=False) as reader:
        waiting = asyncio.ensure_future(anext(reader.items()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert not waiting.done()
        tap.put(SIP, lambda _keys: message(comment="now"))
        assert (await waiting).message.comment == "now"


def test_captures_of_one_node_are_limited() -> None:
    tap = Tap()
    opened = [tap.reading([], with_keys=False) for _ in range(MOST_READERS)]
    for one in opened:
        one.__enter__()
    with pytest.raises(TooManyReadersError), tap.reading([], with_keys=False):
        pass
    opened[0].__exit__(None, None, None)
    with tap.reading([], with_keys=False):
        pass
