"""Calls through the edge on real sockets: FLOW-5, FLOW-6 and what follows."""

from __future__ import annotations

import pytest

from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, REQUESTED, audio, edge, ok


@pytest.mark.clause("TS 33.328", "7.2.1-3", "7.2.1-4", "5.5.2-1")
@async_test
async def test_an_originating_e2ae_call_is_srtp_on_access_and_plain_without_keys_in_the_core(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        assert (await alice.sign_on()).status == 200
        call = alice.send(alice.invite("sip:bob@ims.test", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)), alice.hop)
        invite = await it.core.next("INVITE")
        offered = parse_sdp(invite.request.body).media[0]
        assert (offered.proto, offered.crypto, offered.e2ae) == ("RTP/AVP", [], None)
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        answer = await call.final()
        assert answer.status == 200
        line = parse_sdp(answer.body).media[0]
        assert line.proto == "RTP/SAVP"
        assert len(line.crypto) == 1
        assert line.crypto[0].startswith("1 AES_CM_128_HMAC_SHA1_80 inline:")
        assert line.crypto[0] != CRYPTO_1.partition(":")[2]


@pytest.mark.clause("TS 33.328", "7.3.1-2", "7.3.1-6")
@async_test
async def test_a_terminating_call_to_an_agreed_ue_is_offered_as_srtp_with_applied(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        call = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        offered = parse_sdp(invite.request.body).media[0]
        assert (offered.proto, offered.e2ae) == ("RTP/SAVP", "applied")
        assert len(offered.crypto) == 3
        tag, suite, _ = offered.crypto[2].split(" ")
        assert suite == "AES_CM_128_HMAC_SHA1_80"
        own = CRYPTO_2.replace("crypto:1", f"crypto:{tag}")
        invite.respond(ok(invite, audio(41000, "RTP/SAVP", own), contact=bob.contact))
        answer = await call.final()
        line = parse_sdp(answer.body).media[0]
        assert (line.proto, line.crypto, line.e2ae) == ("RTP/AVP", [], None)
        dialog = Dialog.from_uac(call.txn.request, answer)
        ack = dialog.ack_for(answer)
        it.core.stack.send_ack(ack, it.mw_hop(), "mw")
        await bob.next_ack()
