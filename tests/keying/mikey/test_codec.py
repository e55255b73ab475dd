"""MIKEY messages as octets: known messages, round trips, and everything that is no message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.codec import (
    MAX_MESSAGE,
    MAX_NESTING,
    MAX_PAYLOADS,
    REFUSED,
    decode,
    decode_chain,
    decode_data_type,
    decode_header,
    decode_initiator_data,
    decode_key_data,
    decode_ticket,
    decode_ticket_data,
    encode,
    encode_chain,
    encode_initiator_data,
    encode_key_data,
    encode_policy,
    encode_ticket,
    encode_ticket_data,
    ticket_mac_input,
    without_initiator_data,
    without_mac,
    without_signature,
)
from keying.mikey.errors import (
    InvalidEncryption,
    InvalidHash,
    InvalidIdentity,
    InvalidMac,
    InvalidPrf,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    UnsupportedDataType,
)
from keying.mikey.payloads import (
    CryptoSession,
    ErrorPayload,
    GeneralExtension,
    Header,
    Id,
    IdRoled,
    Kemac,
    KeyData,
    Message,
    Rand,
    RandRoled,
    SecurityPolicy,
    Signature,
    SrtpIdSession,
    TicketHeader,
    TicketPayload,
    TicketPolicy,
    TicketPolicyPayload,
    Timestamp,
    TimestampRole,
    Verification,
)
from keying.mikey.registry import (
    CsIdMapType,
    DataType,
    EncrAlg,
    ErrorNumber,
    IdRole,
    IdType,
    KeyDataType,
    MacAlg,
    NextPayload,
    PrfFunc,
    RandRole,
    SignType,
    TicketFlag,
    TsRole,
    TsType,
)
from keying.secret import Secret
from tests.keying.mikey import generate, vectors

F = TicketFlag
POLICY = TicketPolicy(
    1,
    1,
    1,
    PrfFunc.MIKEY_1,
    F.D | F.E | F.F | F.G | F.H | F.I | F.N | F.O,
    (
        IdRoled(IdRole.KMS, IdType.URI, vectors.KMS),
        IdRoled(IdRole.INITIATOR, IdType.URI, vectors.ALICE),
        IdRoled(IdRole.RESPONDER, IdType.URI, vectors.BOB),
    ),
)


def ntp(second: int) -> Timestamp:
    return Timestamp(TsType.NTP_UTC, (0xD5A0B0C0 + second).to_bytes(4) + bytes(4))


def mac_of(octets: bytes) -> Verification:
    return Verification(MacAlg.HMAC_SHA_1_160, octets[-20:])


def chain(*payloads):
    return Message(Header(DataType.TRANSFER_INIT, 1), payloads)


@pytest.mark.clause("TS 33.328", "D-1", "D-2")
@pytest.mark.parametrize("name", vectors.MESSAGES)
def test_a_known_message_is_written_as_it_was_read(name: str) -> None:
    octets = vectors.MESSAGES[name]
    message = decode(octets)
    assert message.raw == octets
    assert message.header.data_type.name == name
    assert encode(message) == octets


@pytest.mark.clause("RFC 6043", "4.2.1.2")
def test_request_init_psk_is_what_its_payloads_say() -> None:
    octets = vectors.REQUEST_INIT_PSK
    assert decode(octets) == Message(
        Header(DataType.REQUEST_INIT_PSK, vectors.CSB_REQUEST, verification=True),
        (
            ntp(0),
            RandRoled(RandRole.INITIATOR, vectors.RAND_I_REQUEST),
            IdRoled(IdRole.INITIATOR, IdType.URI, vectors.ALICE),
            IdRoled(IdRole.KMS, IdType.URI, vectors.KMS),
            TicketPolicyPayload(POLICY),
            IdRoled(IdRole.PSK, IdType.BYTE_STRING, vectors.BTID_ALICE),
            mac_of(octets),
        ),
    )


@pytest.mark.clause("RFC 6043", "4.2.2.1", "6.1.1", "6.10")
def test_transfer_init_is_built_octet_by_octet_from_its_payloads() -> None:
    mac = vectors.TRANSFER_INIT[-20:]
    vr = decode_initiator_data(decode(vectors.TRANSFER_INIT).payloads[5].initiator_data)[1]
    initiator_data = encode_initiator_data(Verification(MacAlg.HMAC_SHA_1_160, mac), vr)
    message = Message(
        Header(
            DataType.TRANSFER_INIT,
            vectors.CSB_TRANSFER,
            verification=True,
            map_type=CsIdMapType.GENERIC_ID,
            sessions=(
                CryptoSession(1, policies=(0,), session_data=bytes.fromhex("01020304"), spi=b"\x02"),
                CryptoSession(2, policies=(0,), session_data=bytes(4), spi=b"\x02"),
            ),
        ),
        (
            ntp(2),
            RandRoled(RandRole.INITIATOR, vectors.RAND_I_TRANSFER),
            IdRoled(IdRole.INITIATOR, IdType.URI, vectors.ALICE),
            IdRoled(IdRole.RESPONDER, IdType.URI, vectors.BOB),
            SecurityPolicy(0),
            TicketPayload(POLICY, vectors.TICKET_DATA, initiator_data),
            Verification(MacAlg.HMAC_SHA_1_160, mac),
        ),
    )
    assert encode(message) == vectors.TRANSFER_INIT


@pytest.mark.parametrize("name", vectors.MESSAGES)
def test_spans_cover_a_message_from_its_header_to_its_end(name: str) -> None:
    octets = vectors.MESSAGES[name]
    message = decode(octets)
    start = decode_header(octets)[2]
    for payload, (begin, end) in zip(message.payloads, message.spans, strict=True):
        assert begin == start
        assert decode_chain(encode_chain([payload])[0], b"\0" + octets[begin + 1 : end]) == (payload,)
        start = end
    assert start == len(octets)


@pytest.mark.clause("RFC 6043", "A.1", "A.3")
def test_ticket_data_begins_with_thdr_which_has_no_number() -> None:
    payloads = decode_ticket_data(vectors.TICKET_DATA)
    assert payloads[:3] == (TicketHeader(b""), ntp(1), Rand(vectors.RAND_TICKET))
    assert isinstance(payloads[3], Kemac)
    assert payloads[3].encr_alg is EncrAlg.AES_CM_128
    assert payloads[4] == mac_of(vectors.TICKET_DATA)
    assert encode_ticket_data(payloads) == vectors.TICKET_DATA
    with pytest.raises(MalformedMessage):
        encode_chain(payloads)
    with pytest.raises(MalformedMessage):
        encode_ticket_data(payloads[1:])
    with pytest.raises(MalformedMessage):
        encode_ticket_data(())


# Octets that other implementations write (MIKEY-SAKKE unit tests; the data type is one we read, the rest is theirs).


@pytest.mark.clause("RFC 6043", "6.1.1")
def test_a_foreign_generic_id_map() -> None:
    octets = bytes.fromhex(
        "010e050106a12aea0102"
        "0400010000000" + "80df9bc3906a12aea"
        "0b00ec898da800000000"
        "0e10ca2f5d51ff0866362c1d85a56f84651e"
        "00080100" + "20" + "15a4d5b1" * 8
    )
    message = decode(octets)
    assert message.header == Header(
        DataType.TRANSFER_INIT,
        0x06A12AEA,
        prf=PrfFunc.PRF_HMAC_SHA_256,
        map_type=CsIdMapType.GENERIC_ID,
        sessions=(CryptoSession(4, policies=(0,), spi=bytes.fromhex("0df9bc3906a12aea")),),
    )
    assert message.payloads[2] == IdRoled(IdRole.HASHED_INITIATOR, IdType.URI, bytes.fromhex("15a4d5b1" * 8))
    assert encode(message) == octets


@pytest.mark.clause("RFC 4563", "5")
def test_a_foreign_empty_map() -> None:
    octets = bytes.fromhex(
        "010e050116992638" + "0001" + "0b00ec898da800000000" + "001002a28bddaf984c5e0563bc1ce857df83"
    )
    message = decode(octets)
    assert message.header == Header(DataType.TRANSFER_INIT, 0x16992638, prf=PrfFunc.PRF_HMAC_SHA_256)
    assert message.payloads[1] == Rand(bytes.fromhex("02a28bddaf984c5e0563bc1ce857df83"))
    assert encode(message) == octets
    with pytest.raises(MalformedMessage, match="Empty map"):
        decode(octets[:8] + b"\x01" + octets[9:])


@pytest.mark.clause("RFC 3830", "6.10")
def test_a_foreign_security_policy() -> None:
    octets = bytes.fromhex("000000001b" + "000106010110020104" + "04010c050100060100" + "120104130100140110")
    (policy,) = decode_chain(NextPayload.SP, octets)
    parameters = ((0, 6), (1, 16), (2, 4), (4, 12), (5, 0), (6, 0), (18, 4), (19, 0), (20, 16))
    assert policy == SecurityPolicy(0, 0, tuple((kind, bytes([value])) for kind, value in parameters))
    assert encode_chain([policy]) == (NextPayload.SP, octets)


@pytest.mark.clause("RFC 4567", "4.1.4")
def test_the_srtp_id_map_of_the_sdp_example() -> None:
    octets = bytes.fromhex("01000580cd177e500100" + "00" + "00" * 8 + "0000c8" + "00" * 7)
    message = decode(octets)
    assert message.header == Header(
        DataType.PRE_SHARED,
        0xCD177E50,
        verification=True,
        map_type=CsIdMapType.SRTP_ID,
        sessions=(SrtpIdSession(0, 0, 0),),
    )
    assert encode(message) == octets


@pytest.mark.clause("RFC 6043", "6.1")
@pytest.mark.parametrize("value", range(256))
def test_a_data_type_is_read_or_refused_by_name(value: int) -> None:
    octets = bytes([1, value]) + vectors.REQUEST_INIT_PSK[2:]
    try:
        kind = DataType(value)
    except ValueError:
        with pytest.raises(UnsupportedDataType, match=f"data type {value} ") as unknown:
            decode(octets)
        assert (unknown.value.data_type, unknown.value.number) == (value, ErrorNumber.INVALID_DT)
        return
    assert decode_data_type(octets) is kind
    header, first, position = decode_header(octets)
    assert (header.data_type, first, position) == (kind, NextPayload.T, 10)
    if kind in REFUSED:
        with pytest.raises(UnsupportedDataType, match=kind.name) as refused:
            decode(octets)
        assert refused.value.number is ErrorNumber.INVALID_DT
    else:
        assert decode(octets).header.data_type is kind


# Round trips.


@pytest.mark.clause("RFC 3830", "6")
@given(generate.messages)
def test_every_message_is_read_as_it_was_written(message: Message) -> None:
    octets = encode(message)
    again = decode(octets)
    assert again == message
    assert encode(again) == octets


@given(generate.messages, st.data())
def test_a_message_that_is_cut_short_is_a_typed_error(message: Message, data: st.DataObject) -> None:
    octets = encode(message)
    length = data.draw(st.integers(0, len(octets) - 1))
    with pytest.raises(MikeyError):
        decode(octets[:length])


@pytest.mark.parametrize("name", vectors.MESSAGES)
def test_every_prefix_of_a_known_message_is_a_typed_error(name: str) -> None:
    octets = vectors.MESSAGES[name]
    for length in range(len(octets)):
        with pytest.raises(MikeyError):
            decode(octets[:length])


@given(generate.messages, st.binary(min_size=1, max_size=4))
def test_octets_behind_a_message_are_a_typed_error(message: Message, more: bytes) -> None:
    with pytest.raises(MikeyError):
        decode(encode(message) + more)


@pytest.mark.clause("RFC 3830", "6")
@given(st.binary(max_size=400))
def test_octets_are_a_message_that_is_written_alike_or_a_typed_error(octets: bytes) -> None:
    for start in (octets, vectors.TRANSFER_INIT[:10] + octets, vectors.TRANSFER_RESP[:2] + octets):
        try:
            message = decode(start)
        except MikeyError:
            continue
        assert encode(message) == start


@given(
    st.sampled_from(list(vectors.MESSAGES)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)
)
def test_a_damaged_message_is_written_alike_or_a_typed_error(name: str, damage: list[tuple[int, int]]) -> None:
    octets = bytearray(vectors.MESSAGES[name])
    for place, value in damage:
        octets[place % len(octets)] = value
    try:
        message = decode(bytes(octets))
    except MikeyError:
        return
    assert encode(message) == octets


@given(generate.tickets)
def test_a_ticket_goes_without_its_next_payload_octet(ticket: TicketPayload) -> None:
    octets = encode_ticket(ticket)
    assert decode_ticket(octets) == ticket
    assert octets.startswith(encode_policy(ticket.policy))
    with pytest.raises(MalformedMessage):
        decode_ticket(octets + b"\0")
    with pytest.raises(MikeyError):
        decode_ticket(octets[:-1])


@given(generate.ticket_data)
def test_ticket_data_is_read_as_it_was_written(payloads) -> None:
    octets = encode_ticket_data(payloads)
    assert decode_ticket_data(octets) == payloads
    assert encode_ticket_data(decode_ticket_data(octets)) == octets


@pytest.mark.clause("RFC 6043", "6.2.1")
@given(st.lists(generate.key_data, min_size=1, max_size=5))
def test_key_data_is_read_as_it_was_written(keys: list[KeyData]) -> None:
    octets = encode_key_data(keys)
    assert decode_key_data(octets) == tuple(keys)
    for length in range(len(octets)):
        with pytest.raises(MikeyError):
            decode_key_data(octets[:length])


@given(st.binary(max_size=200), st.integers(0, 255))
def test_the_smaller_readers_raise_typed_errors_alone(octets: bytes, first: int) -> None:
    for read in (decode_ticket, decode_ticket_data, decode_key_data, decode_initiator_data, decode_header):
        try:
            read(octets)
        except MikeyError:
            continue
    try:
        payloads = decode_chain(first, octets)
    except MikeyError:
        return
    assert encode_chain(payloads) == (first, octets)


# What is refused.


def body(number: int, octets: str) -> bytes:
    """A message whose one payload is of `number`."""
    return bytes.fromhex("010e") + bytes([number]) + bytes.fromhex("00" + "00000001" + "0001") + bytes.fromhex(octets)


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        pytest.param(b"\x02" + vectors.TRANSFER_INIT[1:], MalformedMessage, id="version 2"),
        pytest.param(b"", MalformedMessage, id="nothing"),
        pytest.param(bytes.fromhex("010e0000000000010001"), MalformedMessage, id="no payload"),
        pytest.param(bytes.fromhex("010e0502000000010001") + bytes(10), InvalidPrf, id="PRF 2"),
        pytest.param(bytes.fromhex("010e0500000000010003") + bytes(10), MalformedMessage, id="map type 3"),
        pytest.param(body(3, "00" + "00" * 200), MalformedMessage, id="DH payload"),
        pytest.param(body(18, "0000"), MalformedMessage, id="payload 18"),
        pytest.param(body(19, "0000"), MalformedMessage, id="payload 19"),
        pytest.param(body(22, "0000"), MalformedMessage, id="payload 22"),
        pytest.param(body(255, "0000"), MalformedMessage, id="payload 255"),
        pytest.param(body(5, "0004" + "00" * 8), InvalidTimestamp, id="TS type 4"),
        pytest.param(body(13, "000104" + "00" * 8), InvalidTimestamp, id="TR TS type 4"),
        pytest.param(body(9, "0003" + "00" * 32), InvalidMac, id="V Auth alg 3"),
        pytest.param(body(1, "00040000" + "00"), InvalidEncryption, id="KEMAC Encr alg 4"),
        pytest.param(body(1, "00010000" + "03"), InvalidMac, id="KEMAC MAC alg 3"),
        pytest.param(body(6, "00030000"), InvalidIdentity, id="ID type 3"),
        pytest.param(body(14, "0001030000"), InvalidIdentity, id="IDR type 3"),
        pytest.param(body(8, "0003" + "00" * 20), InvalidHash, id="Hash func 3"),
        pytest.param(body(4, "30000000"), MalformedMessage, id="S type 3"),
        pytest.param(body(4, "000100ff"), MalformedMessage, id="payload behind SIGN"),
        pytest.param(body(10, "0000000003000201"), MalformedMessage, id="parameter beyond its SP"),
        pytest.param(body(16, "00000101010000000000"), MalformedMessage, id="TP Data of no octets"),
        pytest.param(body(16, "0000010101fc0000" + "0001" + "00"), InvalidPrf, id="policy PRF 126"),
        pytest.param(body(20, "0070" + "0000"), MalformedMessage, id="key type 7"),
        pytest.param(body(20, "0003" + "0000"), MalformedMessage, id="KV type 3"),
    ],
)
def test_what_cannot_be_read_names_its_fault(octets: bytes, fault: type[MikeyError]) -> None:
    with pytest.raises(MikeyError) as raised:
        decode(octets)
    assert type(raised.value) is fault
    assert raised.value.where
    assert raised.value.reason


@pytest.mark.clause("RFC 6043", "6.5", "6.6")
def test_a_payload_of_a_private_role_is_read_and_left_to_the_caller() -> None:
    message = chain(IdRoled(240, IdType.URI, b"x"), RandRoled(254, b"y"), TimestampRole(250, TsType.COUNTER, bytes(4)))
    assert decode(encode(message)) == message


@pytest.mark.clause("RFC 3830", "6")
def test_payloads_that_a_message_does_not_list_are_read() -> None:
    extra = (Id(IdType.NAI, b"a@b"), GeneralExtension(250, b"whatever"), ErrorPayload(12))
    message = chain(*extra)
    assert decode(encode(message)).payloads == extra


def test_a_message_has_a_longest_length() -> None:
    small = [GeneralExtension(0, bytes(60_000)), GeneralExtension(0, bytes(5_000))]
    assert decode(encode(chain(*small))).payloads == tuple(small)
    with pytest.raises(MalformedMessage, match="more than"):
        encode(chain(*small, GeneralExtension(0, bytes(1_000))))
    with pytest.raises(MalformedMessage, match="more than"):
        decode(bytes(MAX_MESSAGE + 1))
    with pytest.raises(MalformedMessage, match="more than 100"):
        decode(vectors.TRANSFER_INIT, limit=100)
    with pytest.raises(MalformedMessage, match="more than"):
        decode_key_data(bytes(MAX_MESSAGE + 1))


def test_a_message_has_a_largest_number_of_payloads() -> None:
    octets = encode(chain(*[Rand(b"")] * MAX_PAYLOADS))
    assert len(decode(octets).payloads) == MAX_PAYLOADS
    with pytest.raises(MalformedMessage, match="payloads"):
        decode(encode(chain(*[Rand(b"")] * (MAX_PAYLOADS + 1))))


def test_payloads_inside_a_ticket_policy_count_too() -> None:
    policy = TicketPolicy(1, 1, 1, PrfFunc.MIKEY_1, 0, (Rand(b""),) * 100)
    octets = encode(chain(*[TicketPolicyPayload(policy)] * 3))
    with pytest.raises(MalformedMessage, match="payloads"):
        decode(octets)


def test_ticket_policies_inside_one_another_end_somewhere() -> None:
    payload = Rand(b"")
    for _ in range(MAX_NESTING - 1):
        payload = TicketPolicyPayload(TicketPolicy(1, 1, 1, PrfFunc.MIKEY_1, 0, (payload,)))
    assert decode(encode(chain(payload))).payloads == (payload,)
    payload = TicketPolicyPayload(TicketPolicy(1, 1, 1, PrfFunc.MIKEY_1, 0, (payload,)))
    with pytest.raises(MalformedMessage, match="nested"):
        decode(encode(chain(payload)))


@pytest.mark.parametrize(
    "payload",
    [
        Rand(bytes(256)),
        RandRoled(256, b""),
        IdRoled(1, IdType.URI, bytes(65_536)),
        Timestamp(TsType.NTP_UTC, bytes(4)),
        TimestampRole(TsRole.START, TsType.NTP_UTC_32, bytes(8)),
        Verification(MacAlg.HMAC_SHA_1_160, bytes(19)),
        Kemac(EncrAlg.AES_CM_128, b"", MacAlg.NULL, b"x"),
        Signature(SignType.RSA_PSS, bytes(4096)),
        SecurityPolicy(0, 0, ((0, bytes(256)),)),
        SecurityPolicy(256),
        KeyData(KeyDataType.TGK, Secret(bytes(16)), salt=Secret(bytes(14))),
        KeyData(KeyDataType.TGK_SALT, Secret(bytes(16))),
        KeyData(KeyDataType.TGK, Secret(bytes(16)), spi=b"1", interval=(b"1", b"2")),
        TicketHeader(b""),
        TicketPolicyPayload(replace(POLICY, flags=1)),
        TicketPolicyPayload(replace(POLICY, reserved=0x20)),
        TicketPolicyPayload(replace(POLICY, ticket_type=65_536)),
        TicketPayload(POLICY, bytes(65_536)),
        GeneralExtension(-1, b""),
    ],
)
def test_a_value_that_does_not_fit_is_not_written(payload) -> None:
    with pytest.raises(MalformedMessage):
        encode(chain(payload))


@pytest.mark.parametrize(
    "header",
    [
        Header(DataType.TRANSFER_INIT, 1 << 32),
        Header(DataType.TRANSFER_INIT, 1, version=2),
        Header(DataType.TRANSFER_INIT, 1, sessions=(CryptoSession(1),)),
        Header(DataType.TRANSFER_INIT, 1, map_type=CsIdMapType.GENERIC_ID, sessions=(SrtpIdSession(0, 0, 0),)),
        Header(DataType.TRANSFER_INIT, 1, map_type=CsIdMapType.SRTP_ID, sessions=(CryptoSession(1),)),
        Header(DataType.TRANSFER_INIT, 1, map_type=CsIdMapType.GENERIC_ID, sessions=(CryptoSession(1),) * 256),
        Header(
            DataType.TRANSFER_INIT,
            1,
            map_type=CsIdMapType.GENERIC_ID,
            sessions=(CryptoSession(1, policies=(0,) * 128),),
        ),
    ],
)
def test_a_header_that_does_not_fit_is_not_written(header: Header) -> None:
    with pytest.raises(MalformedMessage):
        encode(Message(header, (Rand(b""),)))


def test_a_message_without_payloads_and_a_payload_behind_sign_are_not_written() -> None:
    with pytest.raises(MalformedMessage):
        encode(chain())
    with pytest.raises(MalformedMessage):
        encode(chain(Signature(SignType.RSA_PSS, b"s"), Rand(b"")))
    with pytest.raises(MalformedMessage):
        encode_key_data(())


# What MACs cover.


@pytest.mark.clause("RFC 6043", "5.5")
@pytest.mark.parametrize("name", vectors.MESSAGES)
def test_the_mac_of_a_message_covers_all_but_itself(name: str) -> None:
    octets = vectors.MESSAGES[name]
    assert without_mac(octets) == octets[:-20]
    assert without_mac(decode(octets)) == octets[:-20]


@pytest.mark.clause("RFC 6043", "5.5")
def test_the_mac_of_transfer_init_leaves_initiator_data_and_its_length_out() -> None:
    octets = vectors.TRANSFER_INIT
    covered = without_initiator_data(octets)
    ticket_end = decode(octets).spans[5][1]
    assert covered == octets[: ticket_end - 0x2D - 2] + octets[ticket_end:-20]
    plain = encode(
        replace(
            decode(octets),
            payloads=tuple(
                replace(payload, initiator_data=b"") if isinstance(payload, TicketPayload) else payload
                for payload in decode(octets).payloads
            ),
        )
    )
    assert without_initiator_data(plain) == covered


def test_a_csb_update_has_no_ticket_and_is_covered_whole() -> None:
    update = chain(ntp(9), Verification(MacAlg.HMAC_SHA_1_160, bytes(20)))
    assert without_initiator_data(update) == encode(update)[:-20]


def test_two_tickets_in_one_message_have_no_mac() -> None:
    ticket = TicketPayload(POLICY, b"")
    with pytest.raises(MalformedMessage, match="more than once"):
        without_initiator_data(chain(ticket, ticket, Verification(MacAlg.HMAC_SHA_1_160, bytes(20))))


def test_a_message_that_does_not_end_with_v_or_sign_has_no_mac() -> None:
    message = chain(Verification(MacAlg.HMAC_SHA_1_160, bytes(20)), Rand(b""))
    for cut in (without_mac, without_signature, without_initiator_data):
        with pytest.raises(MalformedMessage, match="last payload"):
            cut(message)


def test_a_signature_covers_all_but_itself() -> None:
    octets = encode(chain(ntp(0), Signature(SignType.RSA_PSS, b"signed")))
    assert without_signature(octets) == octets[:-6]


@pytest.mark.clause("RFC 6043", "A.1")
def test_the_mac_of_a_ticket_begins_behind_the_next_payload_octet() -> None:
    ticket = decode(vectors.TRANSFER_INIT).payloads[5]
    octets = encode_ticket(ticket)
    end = len(encode_policy(ticket.policy)) + 2 + len(vectors.TICKET_DATA)
    assert ticket_mac_input(ticket.policy, ticket.ticket_data) == octets[: end - 20]
    with pytest.raises(MalformedMessage, match="end with V"):
        ticket_mac_input(ticket.policy, encode_ticket_data((TicketHeader(), Rand(b""))))


@pytest.mark.clause("RFC 6043", "6.10")
def test_initiator_data_is_read_whether_vi_says_last_or_v() -> None:
    vi = Verification(MacAlg.HMAC_SHA_1_160, bytes(range(20)))
    vr = Verification(MacAlg.HMAC_SHA_1_160, bytes(range(20, 40)))
    octets = encode_initiator_data(vi, vr)
    assert octets[:2] == b"\x09\x09"
    assert decode_initiator_data(octets) == (vi, vr)
    assert decode_initiator_data(octets[:1] + b"\0" + octets[2:]) == (vi, vr)
    for broken in (b"", b"\x09", octets[:23], octets[:-1], octets + b"\0", b"\x05" + octets[1:], b"\x09\x00"):
        with pytest.raises(MikeyError):
            decode_initiator_data(broken)


# Secrets.


def test_keys_are_in_no_printed_message() -> None:
    key = Secret(bytes(range(100, 116)))
    data = KeyData(KeyDataType.TGK, key, spi=b"\x01")
    kemac = Kemac(EncrAlg.NULL, encode_key_data([data]))
    message = decode(encode(chain(data, kemac)))
    shown = repr(message) + str(message) + repr(data) + repr(decode_key_data(kemac.encr_data))
    assert repr(key.reveal())[2:-1] not in shown
    assert key.reveal().hex() not in shown
    assert "<secret 16 bytes>" in shown


@given(st.binary(min_size=24, max_size=24))
def test_no_error_shows_key_octets(key: bytes) -> None:
    octets = encode_key_data([KeyData(KeyDataType.TGK, Secret(key), spi=b"\x01")])
    for length in range(len(octets)):
        with pytest.raises(MikeyError) as raised:
            decode_key_data(octets[:length])
        assert key[:8].hex() not in str(raised.value)
        assert repr(key[:8])[2:-1] not in str(raised.value)
