"""Every message of a forked mode-1 exchange, octet for octet, made by the exchanges from their inputs alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from keying.mikey.authority import Authority, Granted
from keying.mikey.identity import Identity
from keying.mikey.ntp import UNIX_EPOCH
from keying.mikey.payloads import SecurityPolicy
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import Resolution, TicketResolve
from keying.mikey.sessions import SessionKeys, srtp_session
from keying.mikey.ticket import Ticket, TicketProtectionKey
from keying.mikey.transfer import Accepted, TransferInitiator, TransferResponder
from keying.secret import Secret
from tests.keying.mikey import vectors as v

PROFILE = replace(
    DEFAULT_PROFILE,
    request_rand_octets=32,
    transfer_rand_octets=16,
    resolve_rand_octets=32,
    kms_rand_octets=16,
    ticket_rand_octets=16,
    spi_octets=1,
)
ALICE, BOB, KMS = (Identity.uri(each.decode()) for each in (v.ALICE, v.BOB, v.KMS))
SPI_MPK, SPI_TGK, SPI_MPKR = b"\x01", b"\x02", b"\x03"


class Script:
    """An entropy source that gives out the octets of a list, each at the length it is asked for."""

    def __init__(self, *octets: bytes) -> None:
        self._octets: Iterator[bytes] = iter(octets)

    def __call__(self, length: int) -> bytes:
        octets = next(self._octets)
        assert len(octets) == length
        return octets


def at(place: int) -> float:
    """Unix seconds of the T in the message at `place`, counted from 0."""
    return float(0xD5A0B0C0 + place - UNIX_EPOCH)


def csb(number: int) -> bytes:
    return number.to_bytes(4, "big")


def request() -> TicketRequest:
    wish = Wish(responders=(BOB,), validity_s=None)
    credential = PskCredential(v.BTID_ALICE, Secret(v.PSK_I))
    entropy = Script(csb(v.CSB_REQUEST), v.RAND_I_REQUEST)
    return TicketRequest(PROFILE, credential, initiator=ALICE, kms=KMS, wish=wish, now=at(0), entropy=entropy)


def granted() -> Granted:
    entropy = Script(v.MPK, SPI_MPK, v.TGK, SPI_TGK, SPI_MPKR, v.RAND_TICKET)
    authority = Authority(PROFILE, KMS, entropy=entropy)
    pending = authority.read_request(v.REQUEST_INIT_PSK, at(0))
    authentic = pending.authenticate(Secret(v.PSK_I), at(0))
    return authentic.grant(TicketProtectionKey(b"", Secret(v.TPK)), at(1))


def ticket() -> Ticket:
    return request().receive(v.REQUEST_RESP, at(1))


def initiator() -> TransferInitiator:
    sessions = (srtp_session(1, (0,), 0x01020304, SPI_TGK), srtp_session(2, (0,), 0, SPI_TGK))
    return TransferInitiator(
        PROFILE,
        ticket(),
        own=ALICE,
        peer=BOB,
        sessions=sessions,
        policies=(SecurityPolicy(0),),
        now=at(2),
        entropy=Script(csb(v.CSB_TRANSFER), v.RAND_I_TRANSFER),
    )


def responder() -> TransferResponder:
    return TransferResponder(PROFILE, v.TRANSFER_INIT, own=(BOB,), now=at(2), entropy=Script(v.RAND_R_TRANSFER))


def resolve() -> TicketResolve:
    return TicketResolve(
        PROFILE,
        PskCredential(v.BTID_BOB, Secret(v.PSK_R)),
        responder().ticket,
        responder=BOB,
        kms=KMS,
        now=at(3),
        entropy=Script(csb(v.CSB_RESOLVE), v.RAND_R_RESOLVE),
    )


def resolved() -> tuple[Resolution, bytes]:
    authority = Authority(PROFILE, KMS, entropy=Script(v.RAND_KMS, SPI_MPKR))
    authentic = authority.read_resolve(v.RESOLVE_INIT_PSK, at(3)).authenticate(Secret(v.PSK_R), at(3))
    key = TicketProtectionKey(b"", Secret(v.TPK))
    resolution = authority.resolve_ticket(authentic.ticket, (authentic.responder,), lambda _: key, at(3))
    return resolution, authentic.answer(resolution, at(4))


def accepted() -> Accepted:
    resolution = resolve().receive(v.RESOLVE_RESP, at(4))
    return responder().accept(resolution, at(5), ssrcs={2: 0x0A0B0C0D})


def hexed(keys: SessionKeys) -> dict[int, tuple[str, str]]:
    return {each.cs_id: (each.tek.reveal().hex(), each.salt.reveal().hex()) for each in keys.by_cs_id.values()}


@pytest.mark.clause("RFC 6043", "4.2.1.2")
@pytest.mark.clause("TS 33.328", "6.2.3.4.1-1")
def test_the_request_has_the_octets_of_the_example():
    assert request().message == v.REQUEST_INIT_PSK


@pytest.mark.clause("RFC 6043", "A.1")
def test_the_ticket_data_have_the_octets_of_the_example():
    assert granted().ticket.ticket_data == v.TICKET_DATA


@pytest.mark.clause("RFC 6043", "4.2.1.5")
def test_the_response_of_the_kms_has_the_octets_of_the_example():
    assert granted().response == v.REQUEST_RESP


def test_the_initiator_holds_the_keys_of_the_example():
    held = ticket()
    assert held.mpki.key.reveal().hex() == v.MPKI
    assert held.mpkr is not None
    assert held.mpkr.key.reveal().hex() == v.MPKR
    assert [key.key.reveal() for key in held.keys] == [v.TGK]


@pytest.mark.clause("RFC 6043", "4.2.2.1")
def test_the_transfer_has_the_octets_of_the_example():
    assert initiator().message == v.TRANSFER_INIT


@pytest.mark.clause("RFC 6043", "4.2.3.2")
def test_the_resolve_request_has_the_octets_of_the_example():
    assert resolve().message == v.RESOLVE_INIT_PSK


@pytest.mark.clause("RFC 6043", "4.2.3.5")
def test_the_resolve_response_has_the_octets_and_forked_keys_of_the_example():
    resolution, response = resolved()
    assert response == v.RESOLVE_RESP
    assert resolution.forked_mpkr is not None
    assert resolution.forked_mpkr.key.reveal().hex() == v.FORKED_MPKR
    assert [key.key.reveal().hex() for key in resolution.keys] == [v.FORKED_TGK]


@pytest.mark.clause("RFC 6043", "4.2.2.3")
def test_the_transfer_response_has_the_octets_of_the_example():
    assert accepted().response == v.TRANSFER_RESP


@pytest.mark.clause("RFC 6043", "5.1.3")
def test_both_sides_have_the_session_keys_of_the_example():
    established = initiator().receive(v.TRANSFER_RESP, at(5))
    assert hexed(established.keys) == hexed(accepted().keys) == v.SESSION_KEYS
    assert established.responder == BOB
    assert [established.keys[cs_id].ssrc for cs_id in (1, 2)] == [0x01020304, 0x0A0B0C0D]
