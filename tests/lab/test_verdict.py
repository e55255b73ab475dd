from __future__ import annotations

from lab.calls import audited_legs
from lab.ladder import MediaEnd
from lab.verdict import Audio, Verdict, explain, join_legs
from protos import iq_pb2

A, B = "127.1.1.13:4000", "127.1.1.14:4002"


def leg(
    node: str, side: str, protection: str = "SRTP", *, local: str = "", remote: str = "", packets: int = 10
) -> MediaEnd:
    return MediaEnd(node, side, protection, "SDES", "S", "1", local, remote, packets, packets, 0, 0)


def names(legs: tuple[MediaEnd, ...]) -> list[tuple[str, str, str]]:
    return [(each.node, each.side, each.local) for each in legs]


def test_legs_stand_in_the_order_of_the_media_path() -> None:
    given = [
        leg("bob", "end"), leg("imsagw-b", "access"), leg("imsagw-b", "core"), leg("imsagw-a", "core"),
        leg("imsagw-a", "access"), leg("alice", "end"),
    ]  # fmt: skip
    joined = join_legs(given, order=["alice", "imsagw-a", "imsagw-b", "bob"])
    assert [(each.node, each.side) for each in joined] == [
        ("alice", "end"),
        ("imsagw-a", "access"),
        ("imsagw-a", "core"),
        ("imsagw-b", "core"),
        ("imsagw-b", "access"),
        ("bob", "end"),
    ]


def test_two_contexts_of_one_gateway_are_four_legs() -> None:
    given = [
        leg("gw", "access", local="g:3", remote=B),
        leg("gw", "core", local="g:2"),
        leg("gw", "core", local="g:4"),
        leg("gw", "access", local="g:1", remote=A),
        leg("carol", "end", local=A, remote="g:1"),
        leg("bob", "end", local=B, remote="g:3"),
    ]
    joined = names(join_legs(given, order=["carol", "gw", "bob"]))
    assert joined[0] == ("carol", "end", A)
    assert joined[1] == ("gw", "access", "g:1")
    assert {each[1] for each in joined[2:4]} == {"core"}
    assert joined[4:] == [("gw", "access", "g:3"), ("bob", "end", B)]


def test_of_two_reports_the_later_one_counts_and_nothing_known_is_lost() -> None:
    early = leg("gw", "access", local="g:1", remote=A, packets=5)
    late = MediaEnd("gw", "access", "SRTP", "", "", "1", "g:1", "", 50, 49, 2, 1)
    (joined,) = join_legs([early], [late])
    assert (joined.packets_in, joined.packets_out, joined.auth_failures, joined.replays) == (50, 49, 2, 1)
    assert (joined.remote, joined.suite, joined.keying) == (A, "S", "SDES")


def test_an_audit_gives_the_legs_of_one_call_with_their_own_addresses() -> None:
    audit = iq_pb2.AuditResponse()
    for call_id in ("mine", "other"):
        context = audit.contexts.add(correlation=call_id)
        context.terminations.add(termination_id="t", side=iq_pb2.ACCESS).streams.add(
            stream_id=1, ip="127.0.0.1", port=9
        )
        context.statistics.add(stream_id=1, termination_id="t", side=iq_pb2.ACCESS, protection="SRTP", packets_in=3)
    (found,) = audited_legs("gw", audit, "mine")
    assert (found.side, found.local, found.keying, found.packets_in) == ("access", "127.0.0.1:9", "SDES", 3)


def test_the_document_of_a_call_has_the_documented_keys() -> None:
    verdict = Verdict("c", "t", "established", 200, 12.345, "e2ae-sdes", legs=(leg("a", "end"),), audio={
        "alice->bob": Audio(heard=True, snr_db=37.26, loss=0.0, jitter_ms=1.234)
    })  # fmt: skip
    document = verdict.document()
    assert document["audio"] == {"alice->bob": {"heard": True, "snr_db": 37.3, "loss": 0.0, "jitter_ms": 1.23}}
    assert verdict.exit_code == 0
    assert Verdict("c", "t", "refused", 488, 0, "").exit_code == 1


def test_the_reason_of_a_refusal_is_said() -> None:
    refused = Verdict("c", "t", "refused", 488, 0, "", reason="media-sec:e2ae-not-announced")
    assert explain(refused) == "SIP 488: media-sec:e2ae-not-announced"
    deaf = Verdict(
        "c", "t", "established", 200, 1, "none", audio={"a->b": Audio(heard=False, snr_db=0, loss=1, jitter_ms=0)}
    )
    assert "not heard: a->b" in explain(deaf)
