"""Proof of origin and SDP IDs: what a TRANSFER_INIT says of what it travels with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.mikey.errors import AuthenticationFailure, InvalidHash
from keying.mikey.origin import check_proof_of_origin, check_sdp_ids, proof_of_origin, sdp_ids
from keying.mikey.payloads import GeneralExtension
from keying.mikey.profile import DEFAULT_PROFILE
from tests.keying.mikey.stage import Stage

BODY = b"the CMS object"


@pytest.mark.clause("TS 33.328", "K-1")
def test_a_body_is_bound_to_the_transfer_it_comes_with():
    stage = Stage()
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    initiator = stage.initiate(ticket, extensions=(proof_of_origin(DEFAULT_PROFILE, BODY),))
    responder, resolution = stage.resolved(initiator.message)
    stage.accept(responder, resolution)
    assert check_proof_of_origin(DEFAULT_PROFILE, responder.extensions, BODY)
    with pytest.raises(AuthenticationFailure):
        check_proof_of_origin(DEFAULT_PROFILE, responder.extensions, BODY + b"!")


@pytest.mark.clause("TS 33.328", "K-1")
def test_a_proof_that_is_absent_doubled_cut_or_of_another_hash_is_told_apart():
    proof = proof_of_origin(DEFAULT_PROFILE, BODY)
    assert not check_proof_of_origin(DEFAULT_PROFILE, (sdp_ids(),), BODY)
    with pytest.raises(AuthenticationFailure):
        check_proof_of_origin(DEFAULT_PROFILE, (proof, proof), BODY)
    with pytest.raises(AuthenticationFailure):
        check_proof_of_origin(DEFAULT_PROFILE, (replace(proof, data=proof.data[:-1]),), BODY)
    for data in (b"", b"\x00" + proof.data[1:], b"\x01" + proof.data[1:17]):
        with pytest.raises(InvalidHash):
            check_proof_of_origin(DEFAULT_PROFILE, (replace(proof, data=data),), BODY)


@pytest.mark.clause("TS 33.328", "K-1")
def test_the_number_of_the_extension_is_the_profile_s():
    other = replace(DEFAULT_PROFILE, genext_proof_of_origin=200)
    assert proof_of_origin(other, BODY).extension_type == 200
    assert not check_proof_of_origin(DEFAULT_PROFILE, (proof_of_origin(other, BODY),), BODY)


@pytest.mark.clause("RFC 4567", "4.1.4")
@pytest.mark.attack("T1")
def test_a_list_of_protocols_that_was_cut_on_its_way_is_noticed():
    sent = (sdp_ids(("mikey", "other")),)
    check_sdp_ids(sent, ("mikey", "other"))
    for seen in (("mikey",), ("other", "mikey"), ()):
        with pytest.raises(AuthenticationFailure):
            check_sdp_ids(sent, seen)
    check_sdp_ids(sent, ("mikey",), ("mikey", "other"))
    check_sdp_ids((), ("mikey",))
    check_sdp_ids((GeneralExtension(0, b"vendor"),), ("mikey",))
