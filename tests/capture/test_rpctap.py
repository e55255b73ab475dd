"""What a capture shows of an RPC: never a token, never a field that its contract calls secret."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from protos import capture_pb2, hss_ueau_pb2, iq_pb2, ue_control_pb2
from sba.contracts import all_contracts, method_contract
from sba.rpctap import MOST_BODY, RpcWatch, is_secret, mask_secrets, masked_headers, peer_address
from sba.tap import Tap, TapReader
from sba.testing import async_test

VECTORS = hss_ueau_pb2.DESCRIPTOR.services_by_name["NhssImsUeAuthentication"].methods_by_name["GenerateVectors"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STEP = capture_pb2.SbaStep


def every_message() -> list[Descriptor]:
    """Every message type that a contract of the lab has, nested ones included."""
    found: dict[str, Descriptor] = {}

    def walk(kind: Descriptor) -> None:
        if kind.full_name not in found:
            found[kind.full_name] = kind
            for field in kind.fields:
                if field.message_type is not None:
                    walk(field.message_type)

    for contract in all_contracts():
        for method in contract.methods.values():
            walk(method.descriptor.input_type)
            walk(method.descriptor.output_type)
    return list(found.values())


def fill(message: Message, depth: int = 0) -> list[bytes]:
    """Fill every field, secrets with values that can be found again; returns those."""
    secrets: list[bytes] = []
    for number, field in enumerate(message.DESCRIPTOR.fields):
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry or depth > 3:
                continue
            part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
            if not field.is_repeated:
                part.SetInParent()
            secrets += fill(part, depth + 1)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            text = f"{'SECRET' if is_secret(field) else 'plain'}-{field.full_name}-{number}-{depth}"
            value: str | bytes = text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
            if is_secret(field):
                secrets.append(text.encode())
    return secrets


@pytest.mark.attack("T8")
def test_no_secret_field_of_any_contract_is_left() -> None:
    with_secrets = 0
    for kind in every_message():
        message = message_factory.GetMessageClass(kind)()
        fill(message)
        assert mask_secrets(message) or b"SECRET-" not in message.SerializeToString()
        left = message.SerializeToString()
        assert b"SECRET-" not in left, kind.full_name
        with_secrets += b"<redacted>" in left
    assert with_secrets > 8, "the contracts have messages with secrets"


def test_what_is_no_secret_stays() -> None:
    vector = hss_ueau_pb2.GenerateVectorsResponse()
    part = vector.aka.add()
    part.rand, part.ck = b"r" * 16, b"c" * 16
    assert mask_secrets(vector) == 1
    assert part.rand == b"r" * 16
    assert part.ck == b"<redacted>"


@pytest.mark.attack("T8")
def test_keys_in_texts_and_maps_are_masked_as_in_sip() -> None:
    order = ue_control_pb2.CallRequest(options={"a": "inline:WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ"})
    order.suites.append("k=clear:letmein")
    mask_secrets(order)
    assert "WnD7" not in order.options["a"]
    assert "letmein" not in order.suites[0]


@pytest.mark.attack("T8")
def test_a_token_never_shows_and_other_metadata_only_with_keys() -> None:
    given = [
        ("authorization", "Bearer eyJhbGciOi.abc.def"),
        ("3gpp-sbi-client-credentials", "eyJhbGciOi.cca.x"),
        ("traceparent", TRACEPARENT),
        ("x-session-cookie", "crumbs"),
        ("x-other", "value"),
    ]
    for with_keys in (False, True):
        shown = {header.name: header.value for header in masked_headers(given, with_keys=with_keys)}
        assert "eyJ" not in str(shown)
        assert "crumbs" not in str(shown)
        assert shown["authorization"] == "Bearer <redacted>"
        assert shown["traceparent"] == TRACEPARENT
        assert (shown["x-other"] == "value") is with_keys


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", ("::1", 5000)),
        ("ipv6:[::1]:7", ("::1", 7)),
        ("unix:/tmp/x", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_the_name_of_a_peer_is_read(peer: str, address: tuple[str, int]) -> None:
    assert peer_address(peer) == address


def watch(tap: Tap, method: object = VECTORS) -> RpcWatch:
    metadata = [("traceparent", TRACEPARENT), ("authorization", "Bearer eyJx")]
    ends = ("127.0.0.1", 40000), ("127.1.1.3", 50000)
    return RpcWatch(tap, method_contract(method), metadata, *ends, authority="hss.ims.test", outgoing=False)


async def taken(reader: TapReader, count: int) -> list[capture_pb2.CapturedMessage]:
    items = reader.items()
    return [(await anext(items)).message for _ in range(count)]


def secret_response() -> bytes:
    response = hss_ueau_pb2.GenerateVectorsResponse()
    fill(response)
    return response.SerializeToString()


@async_test
async def test_without_keys_a_call_is_its_peers_path_sizes_and_status() -> None:
    tap = Tap()
    with tap.reading([], with_keys=False) as reader:
        seen = watch(tap)
        seen.request(b"\n\x05alice")
        seen.response(secret_response())
        seen.end(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        asked, answered, ended = await taken(reader, 3)
    assert [one.sba.phase for one in (asked, answered, ended)] == [STEP.REQUEST, STEP.RESPONSE, STEP.END]
    assert asked.sba.path.endswith("/GenerateVectors")
    assert (asked.source_port, asked.destination_port) == (40000, 50000)
    assert (answered.source_port, answered.destination_port) == (50000, 40000)
    assert asked.sba.size == 7
    assert (asked.sent, answered.sent) == (False, True)
    assert (ended.sba.status, ended.sba.status_message) == (7, "not for you")
    for one in (asked, answered, ended):
        assert not one.sba.shown
        assert one.sba.body == b""
        assert one.trace_id == TRACEPARENT[3:35]
        assert b"alice" not in one.SerializeToString()
        assert b"SECRET" not in one.SerializeToString()


@async_test
async def test_with_keys_the_message_is_there_and_its_secrets_are_not() -> None:
    tap = Tap()
    with tap.reading([], with_keys=True) as reader:
        watch(tap).response(secret_response())
        (answered,) = await taken(reader, 1)
    assert answered.sba.shown
    assert b"plain-" in answered.sba.body
    assert b"SECRET" not in answered.sba.body
    assert "masked" in answered.comment


@pytest.mark.parametrize("body", [b"\xff\xff\xff", bytes(MOST_BODY + 1)], ids=["malformed", "too long"])
@async_test
async def test_what_cannot_be_judged_is_not_shown(body: bytes) -> None:
    tap = Tap()
    with tap.reading([], with_keys=True) as reader:
        watch(tap).request(body)
        (asked,) = await taken(reader, 1)
    assert not asked.sba.shown
    assert "left out" in asked.comment


@async_test
async def test_fields_no_contract_knows_are_left_out() -> None:
    unknown = b"\xfa\x3f\x06hidden"  # field 1023
    tap = Tap()
    with tap.reading([], with_keys=True) as reader:
        watch(tap).request(b"\n\x05alice" + unknown)
        (asked,) = await taken(reader, 1)
    assert asked.sba.body == b"\n\x05alice"


@async_test
async def test_both_ends_give_the_same_message_the_same_name() -> None:
    tap = Tap()
    with tap.reading([], with_keys=False) as reader:
        there = watch(tap)
        here = RpcWatch(
            tap,
            method_contract(VECTORS),
            [("traceparent", TRACEPARENT)],
            ("127.1.1.5", 0),
            ("127.1.1.3", 50000),
            authority="hss.ims.test",
            outgoing=True,
        )
        for end in (here, there):
            end.request(b"")
            end.response(b"")
            end.response(b"")
            end.end()
        seen = await taken(reader, 8)
    assert [one.pair for one in seen[:4]] == [one.pair for one in seen[4:]]
    assert len({one.pair for one in seen}) == 4
    assert seen[0].sent
    assert not seen[4].sent


def test_a_capture_never_shows_itself() -> None:
    tap = Tap()
    methods: Iterator[object] = itertools.chain.from_iterable(
        service.methods for service in capture_pb2.DESCRIPTOR.services_by_name.values()
    )
    with tap.reading([], with_keys=True) as reader:
        for method in methods:
            watch(tap, method).response(b"\x01\x02")
        watch(tap, iq_pb2.DESCRIPTOR.services_by_name["Iq"].methods_by_name["Heartbeat"]).end()
        assert len(reader._waiting) == 1
