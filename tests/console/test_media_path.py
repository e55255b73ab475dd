"""The media path: where a call is protected, by what key, who could listen, and where it is in the clear."""

from __future__ import annotations

import dataclasses
import random

import pytest

from lab.console.mediapath import End, Leg, Surroundings, ends_of_audit, ends_of_spans, legs_of, protections
from lab.console.mediawords import document, readers
from protos import iq_pb2
from tests.lab.traced import call_spans

KINDS = {
    **dict.fromkeys(("alice", "bob"), "ue"),
    **dict.fromkeys(("pcscf-a", "pcscf-b"), "pcscf"),
    **dict.fromkeys(("gw-a", "gw-b"), "imsagw"),
    "cscf": "cscf",
    "kms": "kms",
}
NETWORKS = {"pcscf-a": "access-a", "gw-a": "access-a", "pcscf-b": "access-b", "gw-b": "access-b"}
HOSTS = {
    "10.0.0.1": "alice",
    "10.0.0.9": "bob",
    "10.0.0.2": "gw-a",
    "10.0.0.5": "gw-a",
    "10.0.0.6": "gw-b",
    "10.0.0.8": "gw-b",
}
AROUND = Surroundings(
    "alice", "bob", "e2ae-sdes", ("alice", "pcscf-a", "gw-a", "cscf", "gw-b", "pcscf-b", "bob"), KINDS, NETWORKS, HOSTS
)
ALICE, GW_A, GW_AC, GW_BC, GW_B, BOB = (
    "10.0.0.1:4000",
    "10.0.0.2:5000",
    "10.0.0.5:5002",
    "10.0.0.6:6002",
    "10.0.0.8:6000",
    "10.0.0.9:7000",
)


def ends(
    access: str = "SRTP", core: str = "RTP", ue: str = "SRTP", scope: str = "e2ae", keying: str = "SDES"
) -> list[End]:
    return [
        End("alice", "end", "1", ue, keying, "SUITE", scope, "", ALICE, GW_A, 100, 101),
        End("gw-a", "access", "1", access, "", "", "", "c1", GW_A, ALICE, 101, 100, lost=2, jitter_ms=1.5),
        End("gw-a", "core", "1", core, "", "", "", "c1", GW_AC, GW_BC, 100, 101, drops={"not_rtp": 3}),
        End("gw-b", "core", "1", core, "", "", "", "c2", GW_BC, GW_AC, 101, 100),
        End("gw-b", "access", "1", access, "", "", "", "c2", GW_B, BOB, 99, 101),
        End("bob", "end", "1", ue, keying, "SUITE", scope, "", BOB, GW_B, 101, 99),
    ]


def ways(legs: list[Leg]) -> list[str]:
    return [f"{leg.source}-{leg.target} {leg.side}" for leg in legs]


WHOLE = ["alice-gw-a access", "gw-a-gw-b core", "gw-b-bob access"]


@pytest.mark.parametrize("seed", range(5))
def test_the_path_goes_from_caller_to_callee_whatever_the_order_of_reports(seed):
    shuffled = ends()
    random.Random(seed).shuffle(shuffled)
    assert ways(legs_of(shuffled, AROUND)) == WHOLE


def test_the_path_of_a_call_in_progress_is_known_from_the_gateways_alone():
    gateways = [dataclasses.replace(end, remote="" if end.side == "core" else end.remote) for end in ends()[1:5]]
    assert ways(legs_of(gateways, AROUND)) == WHOLE


def test_a_foreign_client_at_an_address_nobody_knows_is_the_caller_all_the_same():
    away = [dataclasses.replace(end, remote="192.0.2.1:9") if end.remote == ALICE else end for end in ends()[1:]]
    assert ways(legs_of(away, AROUND)) == ["alice-gw-a access", "gw-a-gw-b core", "gw-b-bob access"]


def test_one_gateway_that_serves_both_ends_keeps_its_two_contexts_apart():
    shared = [dataclasses.replace(end, node="gw-a") if end.node == "gw-b" else end for end in ends()]
    assert ways(legs_of(shared, AROUND)) == ["alice-gw-a access", "gw-a-gw-a core", "gw-a-bob access"]


def test_a_gateway_that_said_nothing_ends_the_path_and_nothing_is_invented():
    assert ways(legs_of(ends()[:1], AROUND)) == ["alice-gw-a access"]
    assert legs_of([], AROUND) == []


def test_ends_that_point_at_each_other_in_a_ring_end_the_path():
    ring = [
        End(
            f"n{i}", "core" if i % 2 else "access", "1", "RTP", context="c", local=f"h{i}:1", remote=f"h{(i + 1) % 6}:1"
        )
        for i in range(6)
    ]
    assert len(legs_of(ring, AROUND)) <= 16


def media(found: list[End], around: Surroundings = AROUND) -> list[dict[str, object]]:
    [stream] = document({"1": found}, ["audio"], around)["streams"]
    return stream["legs"]


def names(leg: dict[str, object]) -> list[str]:
    return [reader["name"] for reader in leg["readable_by"]]


def test_e2ae_is_protected_on_the_access_and_in_the_clear_in_the_core():
    near, core, far = media(ends())
    assert [leg["clear"] for leg in (near, core, far)] == [False, True, False]
    assert [(leg["protection"], leg["scope"], leg["keying"]) for leg in (near, far)] == [("SRTP", "e2ae", "SDES")] * 2
    assert names(near) == ["alice", "gw-a", "pcscf-a"]
    assert names(core) == ["gw-a", "gw-b", "*"]
    assert names(far) == ["bob", "gw-b", "pcscf-b"]
    assert "gw-a, where the protection ends" in near["key"]
    assert "Iq" in near["key"]


def test_e2e_sdes_is_read_by_every_node_the_keys_pass_in_sdp_and_by_no_gateway():
    around = dataclasses.replace(AROUND, security="e2e-sdes")
    legs = media(ends(access="opaque", core="opaque", scope="e2e"), around)
    assert [leg["protection"] for leg in legs] == ["SRTP"] * 3
    for leg in legs:
        assert (leg["clear"], leg["scope"]) == (False, "e2e")
        assert set(names(leg)) == {"alice", "bob", "pcscf-a", "pcscf-b", "cscf"}


def test_e2e_kms_is_read_by_the_two_and_their_kms():
    around = dataclasses.replace(AROUND, security="e2e-kms", kms=("kms",))
    for leg in media(ends(access="opaque", core="opaque", scope="e2e", keying="MIKEY-TICKET"), around):
        assert names(leg) == ["alice", "bob", "kms"]
        assert "ticket of kms" in leg["key"]


def test_a_mode_of_a_package_is_read_by_the_two_alone():
    around = dataclasses.replace(AROUND, security="e2e-sealed")
    legs = media(ends(access="opaque", core="opaque", scope="e2e", keying="SEALED"), around)
    assert [names(leg) for leg in legs] == [["alice", "bob"]] * 3
    assert "by SEALED" in legs[0]["key"]
    silent = media(ends(access="opaque", core="opaque")[1:5], around)
    assert [leg["keying"] for leg in silent] == ["sealed"] * 3


def test_a_key_in_signalling_that_anybody_reads_is_anybodys():
    around = dataclasses.replace(AROUND, clear_gm=frozenset({"bob"}))
    near, _, far = media(ends(), around)
    assert "*" not in names(near)
    assert "*" in names(far)
    whole = dataclasses.replace(around, security="e2e-sdes")
    assert all("*" in names(leg) for leg in media(ends(access="opaque", core="opaque", scope="e2e"), whole))


def test_a_plain_call_is_in_the_clear_everywhere():
    for leg in media(ends(access="RTP", ue="RTP", scope="", keying=""), dataclasses.replace(AROUND, security="none")):
        assert leg["clear"]
        assert "*" in names(leg)
        assert leg["key"].startswith("No key")


def test_opaque_media_of_which_nobody_speaks_is_called_neither_safe_nor_clear():
    around = dataclasses.replace(AROUND, security="")
    for leg in media(ends(access="opaque", core="opaque")[1:5], around):
        assert (leg["protection"], leg["clear"], leg["readable_by"]) == ("opaque", False, [])


def test_what_the_ue_says_counts_more_than_what_the_gateway_guesses():
    found = ends(access="opaque", core="opaque", scope="e2e")
    for kept in protections(legs_of(found, dataclasses.replace(AROUND, security="e2e-sdes")), "e2e-sdes"):
        assert kept.suite == "SUITE"


def test_a_call_nobody_answered_has_nothing_to_read():
    [stream] = document({"1": ends()}, [], dataclasses.replace(AROUND, answered=False))["streams"]
    assert not stream["clear"]
    for leg in stream["legs"]:
        assert leg["readable_by"] == []
        assert leg["key"].startswith("No media")


def test_what_was_only_reserved_for_a_call_nobody_answered_is_no_media():
    reserved = [dataclasses.replace(end, packets_in=0, packets_out=0, drops={}) for end in ends()]
    assert document({"1": reserved}, [], dataclasses.replace(AROUND, answered=False))["streams"] == []
    [stream] = document({"1": reserved}, [], AROUND)["streams"]
    assert len(stream["legs"]) == 3, "of an answered call it is worth a look"


def test_counters_are_those_of_the_end_that_received():
    near, core, _ = media(ends())
    assert near["a_to_b"] == {
        "packets": 101,
        "lost": 2,
        "jitter_ms": 1.5,
        "auth_failures": 0,
        "replays": 0,
        "drops": {},
    }
    assert near["b_to_a"]["packets"] == 100
    assert core["b_to_a"]["drops"] == {"not_rtp": 3}


def test_streams_have_the_media_types_of_the_offer():
    found = document({"2": ends(), "1": ends()}, ["audio", "video"], AROUND)["streams"]
    assert [(stream["n"], stream["kind"]) for stream in found] == [(1, "audio"), (2, "video")]


def test_who_reads_a_leg_is_never_a_gateway_without_keys():
    leg = Leg("alice", "gw-a", "access", *ends(access="opaque", scope="e2e")[:2])
    [kept] = protections([leg], "e2e-sdes")
    assert "gw-a" not in readers(leg, kept, AROUND)


def test_ends_are_read_from_spans_of_ues_and_gateways_and_from_an_audit():
    found = ends_of_spans(call_spans())
    assert {(end.node, end.side, end.protection) for end in found} == {
        ("imsagw-a", "access", "SRTP"),
        ("alice", "end", "SRTP"),
        ("imsagw-a", "core", "RTP"),
    }
    audit = iq_pb2.AuditResponse(
        contexts=[
            iq_pb2.ContextAudit(
                context_id="c",
                correlation="call",
                terminations=[
                    iq_pb2.TerminationInfo(
                        termination_id="t", streams=[iq_pb2.LocalInfo(stream_id=1, ip="2001:db8::1", port=9)]
                    )
                ],
                statistics=[
                    iq_pb2.StreamStatistics(
                        stream_id=1,
                        termination_id="t",
                        side=iq_pb2.ACCESS,
                        protection="SRTP",
                        drops=[iq_pb2.Drop(cause="mki", packets=2)],
                    )
                ],
            )
        ]
    )
    [end] = ends_of_audit("gw", audit, "call")
    assert (end.local, end.keying, end.drops, end.side) == ("[2001:db8::1]:9", "SDES", {"mki": 2}, "access")
    assert ends_of_audit("gw", audit, "other") == []


@pytest.mark.attack("T1")
def test_what_a_gateway_did_only_its_own_certificate_can_say():
    own = next(span for span in call_spans() if span.name == "media.association" and span.text("side") == "access")
    for name in ("node", "media.node", "imslab.media.node", "imslab.node"):
        lie = dataclasses.replace(own, node="bob", nf_type="UE", attributes={**own.attributes, name: own.node})
        assert [end.node for end in ends_of_spans([own, lie])] == [own.node, "bob"]
