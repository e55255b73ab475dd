"""An offer that the edge makes by itself leaves the session timer of the call as both ends agreed on it (RFC 4028)."""

from __future__ import annotations

import pytest

from nodes.pcscf.media_plan import Side
from nodes.pcscf.session_timer import SessionTimer
from sba.testing import async_test
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import make_response
from tests.pcscf.edge import audio, edge, ok
from tests.pcscf.test_rekeying import ANSWER, FRESH, lose_keys, rekeyed
from tests.pcscf.test_sessions import call_out

pytestmark = pytest.mark.attack("T9")
KNOWS = ("Supported", "timer")


def expires(seconds: int, role: str = "") -> tuple[str, str]:
    return "Session-Expires", f"{seconds};refresher={role}" if role else str(seconds)


def told(request: SipRequest) -> tuple[str | None, str | None, bool]:
    """Session-Expires, Min-SE, and whether the sender says that it knows session timers."""
    headers = request.headers
    return headers.get("Session-Expires"), headers.get("Min-SE"), "timer" in headers.values("Supported")


@pytest.mark.clause("RFC 4028", "7.4", "9")
@pytest.mark.parametrize(
    ("agreed", "carried"),
    [
        ([KNOWS, expires(1800, "uac")], ("1800;refresher=uas", None, True)),
        ([expires(1800, "uas")], ("1800;refresher=uac", None, True)),
        ([expires(1800, "uac")], ("1800", None, False)),
        ([KNOWS], ("1800;refresher=uas", None, True)),
        ([], ("1800", None, False)),
    ],
    ids=["the-ue", "the-far-end", "the-ue-for-a-far-end-that-knows-no-timer", "the-ue-alone", "the-ue-by-itself"],
)
@async_test
async def test_who_refreshes_goes_on_to(tmp_path, agreed, carried):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, asked=[KNOWS, expires(1800)], agreed=agreed)
        assert told((await rekeyed(it, alice)).request) == carried


@async_test
async def test_a_call_without_session_timer_gets_none(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, asked=[KNOWS], agreed=[KNOWS])
        assert told((await rekeyed(it, alice)).request) == (None, None, False)


@pytest.mark.clause("RFC 4028", "7.2", "7.4")
@async_test
async def test_the_last_refresh_counts_also_after_a_restart(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice, asked=[KNOWS, expires(1800)], agreed=[KNOWS, expires(1800, "uac")])
        body = audio(40000, "RTP/SAVP", "3ge2ae:requested", FRESH, version=2)
        attempt = call.from_ue("UPDATE", body, headers=[KNOWS, expires(1200, "uas"), ("Min-SE", "600")])
        update = await it.core.next("UPDATE")
        far = f"<{it.core_uri('bob')}>"
        update.respond(ok(update, audio(50000, version=2), contact=far, headers=[KNOWS, expires(1200, "uas")]))
        assert (await attempt.final()).status == 200
        await it.restart()
        await alice.sign_on()
        again = audio(40000, "RTP/SAVP", f"crypto:2 AES_CM_128_HMAC_SHA1_80 inline:{'B' * 40}", version=3)
        assert told((await rekeyed(it, alice, again)).request) == ("1200;refresher=uac", "600", True)


@pytest.mark.clause("RFC 4028", "7.3", "7.4")
@async_test
async def test_an_interval_that_is_too_small_for_the_ue_is_asked_for_anew_and_the_call_goes_on(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, asked=[KNOWS, expires(900)], agreed=[expires(900, "uas")])
        lose_keys(it)
        first = await alice.next("INVITE")
        first.respond(make_response(first.request, 422, headers=[("Min-SE", "1000")]))
        second = await alice.next("INVITE")
        assert told(second.request) == ("1000;refresher=uac", "1000", True)
        second.respond(ok(second, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()


def request(method: str = "INVITE", *headers: tuple[str, str], number: int = 1) -> SipRequest:
    return SipRequest(method, "sip:x", [("CSeq", f"{number} {method}"), *headers])


def answered(timer: SessionTimer, to: SipRequest, *headers: tuple[str, str], by: Side, now: float = 0.0) -> None:
    timer.request_seen(to, by.other)
    timer.response_seen(to, SipResponse(200, "OK", [("CSeq", to.headers.get("CSeq") or ""), *headers]), by, now)


@pytest.mark.clause("RFC 4028", "10")
def test_a_ue_that_refreshes_does_so_in_time_for_the_far_end_that_did_not_hear_of_the_offer():
    timer = SessionTimer()
    answered(timer, request("INVITE", KNOWS), KNOWS, expires(1800, "uac"), by=Side.CORE)
    assert dict(timer.headers(Side.CORE, 800))["Session-Expires"] == "1800;refresher=uas"
    late = dict(timer.headers(Side.CORE, 1200))["Session-Expires"]
    assert late == "1136;refresher=uas", "half of it ends 32 s before the far end gives up"
    assert dict(timer.headers(Side.CORE, 1790))["Session-Expires"] == "90;refresher=uas", "no less than allowed"
    assert dict(timer.headers(Side.ACCESS, 1200))["Session-Expires"] == "1800;refresher=uac"
    answered(timer, request("UPDATE", KNOWS, number=2), expires(1800, "uac"), by=Side.CORE, now=1700)
    assert dict(timer.headers(Side.CORE, 1790))["Session-Expires"] == "1800;refresher=uas"


@pytest.mark.clause("RFC 4028", "7.2")
def test_a_2xx_without_session_timer_ends_it_and_a_repeated_one_counts_once():
    timer = SessionTimer()
    first = request("INVITE", KNOWS, expires(1800))
    answered(timer, first, expires(1800, "uas"), by=Side.CORE)
    answered(timer, first, expires(1800, "uas"), by=Side.CORE, now=20)
    assert timer.expires_at == 1800
    answered(timer, request("INFO", number=2), by=Side.CORE)
    assert timer.headers(Side.CORE, 0)
    answered(timer, request("INVITE", number=3), by=Side.CORE)
    assert timer.headers(Side.CORE, 0) == []


@pytest.mark.parametrize("written", ["", "x", "-1", "1800;refresher", "99999999999", "1800;;;", '90;refresher="uac"'])
def test_what_cannot_be_read_names_nobody(written):
    timer = SessionTimer()
    answered(timer, request("INVITE", KNOWS), ("Session-Expires", written), by=Side.CORE)
    assert all("refresher" not in value for _, value in timer.headers(Side.CORE, 0))


def test_what_is_stored_comes_back():
    timer = SessionTimer()
    answered(timer, request("INVITE", KNOWS, ("Min-SE", "120")), KNOWS, expires(300, "uas"), by=Side.ACCESS, now=7)
    assert SessionTimer.from_dict(timer.to_dict()).headers(Side.ACCESS, 7) == timer.headers(Side.ACCESS, 7)
    assert SessionTimer.from_dict({}).headers(Side.ACCESS, 7) == []
