"""Keys of a KMS go through the edge as they are: nothing here reads, needs or changes them (TS 33.328 7.2.3, 4.2.3-1)."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from nodes.pcscf.alg_answers import answer_from_access, answer_from_core
from nodes.pcscf.alg_media import answer_work, offer_work, streams_after
from nodes.pcscf.config import MediaPolicy
from nodes.pcscf.ims_alg import offer_from_access, offer_from_core
from nodes.pcscf.media_plan import Address, AlgPolicy, LocalStream, Side, StreamState, Treatment
from protos import iq_pb2
from sba.testing import async_test
from signalling.sdp import parse_sdp
from tests.pcscf.edge import CRYPTO_1, REQUESTED, audio, edge, ok
from tests.pcscf.test_sessions import answer_next, call_out

TICKET_INIT = bytes.fromhex("010e0580556677880202") + bytes(range(80))
TICKET_RESP = bytes.fromhex("010f0500556677880202") + bytes(range(80, 160))
PSK_INIT = bytes.fromhex("01000580556677880100") + bytes(60)
AGREED = AlgPolicy(agreed=True)
CLEAR = replace(AGREED, gm_encrypted=False, mw_encrypted=False)
OFFERS = {"access": offer_from_access, "core": offer_from_core}


def managed(message: bytes = TICKET_INIT) -> str:
    return f"key-mgmt:mikey {base64.b64encode(message).decode()}"


def description(*session: str, port: int = 40000, proto: str = "RTP/SAVP", media: tuple[str, ...] = ()) -> bytes:
    """A description with attributes at session level."""
    lines = "".join(f"a={attribute}\r\n" for attribute in session).encode()
    return audio(port, proto, *media).replace(b"t=0 0\r\n", b"t=0 0\r\n" + lines)


def decided(side: str, body: bytes, policy: AlgPolicy = AGREED, previous=None):
    return OFFERS[side](parse_sdp(body), policy, previous)


@pytest.mark.clause("TS 33.328", "7.2.3", "4.2.3-1")
@pytest.mark.clause("TS 24.229", "GE-7")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("level", ["session", "media"])
@pytest.mark.parametrize("policy", [AGREED, AlgPolicy(), replace(AGREED, e2ae=MediaPolicy.REQUIRED)])
def test_a_stream_with_a_ticket_is_end_to_end_and_opaque_to_the_gateway(side, level, policy):
    body = description(managed()) if level == "session" else description(media=(managed(),))
    decision = decided(side, body, policy)
    assert decision.plans[0].treatment is Treatment.E2E
    for work in (*offer_work(decision).access, *offer_work(decision).core):
        assert (work.transport, work.local_suites, work.remote_crypto) == ("OPAQUE_UDP", (), None)


@pytest.mark.clause("TS 33.328", "4.1.2.2-2")
@pytest.mark.clause("RFC 6043", "12")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("policy", [CLEAR, replace(AGREED, e2e_sdes=False), replace(CLEAR, e2e_sdes=False)])
def test_a_ticket_needs_no_encrypted_signalling_and_is_no_sdes(side, policy):
    assert decided(side, description(managed()), policy).plans[0].treatment is Treatment.E2E


@pytest.mark.clause("RFC 4568", "8.3")
@pytest.mark.attack("T1")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("media", [(CRYPTO_1,), (managed(PSK_INIT),), (managed(), CRYPTO_1), ("key-mgmt:keyp1 AQEB",)])
def test_what_may_have_its_keys_in_the_clear_does(side, media):
    refusal = decided(side, description(media=media), CLEAR).refusal
    assert refusal is not None
    assert (refusal.status, refusal.token) == (488, "bad-key")


@pytest.mark.clause("TS 33.328", "7.5")
def test_no_end_to_end_keys_on_an_emergency_call():
    decision = decided("access", description(managed()), replace(AGREED, emergency=True))
    assert decision.plans[0].treatment is Treatment.REFUSED


def settled() -> tuple[dict[int, StreamState], AlgPolicy]:
    """A session with keys of the KMS, as the edge remembers it."""
    decision = decided("access", description(managed()))
    answer = answer_from_core(parse_sdp(description(managed(TICKET_RESP), port=50000)), decision.plans, AGREED)
    assert answer.violation is None
    assert {work.transport for work in answer_work(decision, answer, gate_open=True).access} == {"OPAQUE_UDP"}
    given = {(side, 0): LocalStream(Address("127.0.0.1", port, port + 1)) for side, port in
             ((Side.ACCESS, 30000), (Side.CORE, 20000))}  # fmt: skip
    return streams_after(decision, answer, given), AGREED


@pytest.mark.clause("TS 33.328", "7.4-10")
@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.parametrize("side", OFFERS)
def test_a_later_offer_and_answer_may_say_nothing_of_the_keys(side):
    streams, policy = settled()
    restored = {index: StreamState.from_dict(state.to_dict()) for index, state in streams.items()}
    decision = decided(side, description(), policy, restored)
    assert decision.plans[0].treatment is Treatment.E2E
    answer = parse_sdp(description(port=50000))
    if side == "access":
        assert answer_from_core(answer, decision.plans, policy).violation is None
    else:
        assert answer_from_access(answer, decision.plans, {}, policy).violation is None


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
def test_the_first_answer_has_to_have_keys():
    decision = decided("access", description(managed()))
    violation = answer_from_core(parse_sdp(description(port=50000)), decision.plans, AGREED).violation
    assert violation is not None
    assert violation.token == "downgrade-refused"


@pytest.mark.clause("TS 33.328", "7.4-8")
def test_a_protected_access_leg_may_become_end_to_end():
    first = decided("access", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1))
    answer = answer_from_core(parse_sdp(audio(50000)), first.plans, AGREED)
    given = {(side, 0): LocalStream(Address("127.0.0.1", 30000, 30001)) for side in Side}
    decision = decided("access", description(managed()), AGREED, streams_after(first, answer, given))
    assert decision.plans[0].treatment is Treatment.E2E


@pytest.mark.clause("TS 33.328", "7.2.3", "7.3.3", "4.2.3-1")
@async_test
async def test_messages_of_a_call_pass_a_running_edge_octet_for_octet(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", description(managed())), alice.hop)
        invite = await it.core.next("INVITE")
        assert parse_sdp(invite.request.body).key_mgmt == (managed().partition(":")[2],)
        invite.respond(ok(invite, description(managed(TICKET_RESP), port=50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        assert parse_sdp(final.body).key_mgmt == (managed(TICKET_RESP).partition(":")[2],)
        specs = [
            spec
            for method in ("Reserve", "Configure")
            for request in it.iq.requests(method)
            for termination in request.terminations
            for spec in termination.streams
        ]
        assert specs
        assert {spec.transport for spec in specs} == {iq_pb2.OPAQUE_UDP}
        assert not any(list(spec.sdes_remote) or spec.HasField("sdes_local_request") for spec in specs)
        assert it.iq.keys == []


@pytest.mark.clause("TS 33.328", "7.4-10", "7.2.3-7")
@async_test
async def test_an_update_of_the_keys_passes_too(tmp_path):
    later, response = TICKET_INIT + b"\x01", TICKET_RESP + b"\x01"
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice, description(managed()), description(managed(TICKET_RESP), port=50000))
        update = call.from_ue("UPDATE", description(managed(later)))
        answer = description(managed(response), port=50000)
        received = await answer_next(it.core, "UPDATE", answer, "<sip:b@127.0.0.1>")
        assert parse_sdp(received.request.body).key_mgmt == (managed(later).partition(":")[2],)
        final = await update.final()
        assert (final.status, parse_sdp(final.body).key_mgmt) == (200, (managed(response).partition(":")[2],))
