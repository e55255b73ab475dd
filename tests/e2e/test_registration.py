"""Registration of every profile through every process, and each way it may fail (E-1 to E-22)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from lab.state import StateFolder
from lab.tracestore import TraceStore
from sba.store import Sealer
from signalling.aka.digest import DigestChallenge
from tests.e2e.lab import Lab, running
from tests.e2e.live import behaving
from tests.e2e.rawsip import DigestPhone

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def _more_users(description: dict[str, Any]) -> None:
    """frank's digest client is a UE of the lab; grace uses AKA with ipsec-3gpp over UDP; dave stays a foreign client."""
    description["digest_algorithms"] = ["SHA-256", "MD5"]
    more = {"domain": "ims.test", "access": "access-a", "announces": ["sdes-srtp"]}
    description["users"] += [
        {"name": "grace", "impi": "001010000000009@ims.test", "profile": "aka-udp", **more},
        {"name": "frank", "impi": "frank@ims.test", "profile": "digest", **more},
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(tmp_path_factory.mktemp("registration"), _more_users) as lab:
        yield lab


def ue(lab: Lab, user: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(lab.run("ue", "status", user).stdout)
    return status


def lines(lab: Lab, trace_id: str, node: str) -> list[str]:
    """Start lines of the SIP messages that `node` sent or received in a trace, in their order."""
    lab.run("flow", check=False)  # asks the lab to settle: every span has arrived
    store = TraceStore(StateFolder.at(lab.state).traces, read_only=True)
    try:
        events = [
            (event.time_ns, event.text("start_line"))
            for span in store.spans_of_trace(trace_id)
            if span.node == node
            for event in span.events
            if event.name == "sip.message"
        ]
    finally:
        store.close()
    return [line for _, line in sorted(events)]


def rounds(lab: Lab, answer: dict[str, Any], user: str) -> list[str]:
    """The registration as its UE saw it: ``REGISTER`` and status codes."""
    words = (line.split() for line in lines(lab, answer["trace_id"], user))
    short = [word[1] if word[0] == "SIP/2.0" else word[0] for word in words]
    return [word for word in short if word != "100"]


@pytest.mark.clause("ims-signalling", "UE-1", "UE-4", "PC-2", "3.6")
@pytest.mark.parametrize(
    ("user", "agreed"),
    [("alice", ["sdes-srtp"]), ("carol", []), ("grace", []), ("frank", [])],
    ids=["aka-tls", "aka-tls without mediasec", "aka-udp", "digest"],
)
def test_every_profile_registers_with_one_challenge_and_keys_are_agreed_on_encrypted_gm_alone(
    home: Lab, user: str, agreed: list[str]
) -> None:
    home.run("deregister", user)
    answer = home.json("register", user)
    assert (answer["registered"], answer["sip_status"]) == (True, 200)
    assert rounds(home, answer, user) == ["REGISTER", "401", "REGISTER", "200"]
    assert f"sip:{user}@ims.test" in answer["associated_uris"]
    assert answer["media_mechanisms"] == agreed, "sdes-srtp on a clear Gm would show the keys (GE-5)"


@pytest.mark.clause("ims-signalling", "RR-1", "RR-2")
@pytest.mark.parametrize("user", ["alice", "grace", "frank"])
def test_registering_again_keeps_the_registration_and_is_not_challenged_more_than_once(home: Lab, user: str) -> None:
    first = home.json("register", user)
    before = rounds(home, first, user)
    answer = home.json("register", user)
    assert answer["registered"]
    assert answer["trace_id"] == first["trace_id"]  # one Call-ID (RFC 3261 10.2.4), one trace
    again = rounds(home, answer, user)[len(before) :]
    assert again in (["REGISTER", "200"], ["REGISTER", "401", "REGISTER", "200"])
    assert ue(home, user)["expires_in_s"] > 599_000


@pytest.mark.clause("RFC 8760", "2.1")
def test_digest_users_are_challenged_with_every_algorithm_of_the_lab_best_first(home: Lab) -> None:
    with foreign(home) as phone:
        refused = phone.exchange(phone.message("REGISTER", "sip:ims.test", "Expires: 600"))
    challenges = refused.headers.get_all("WWW-Authenticate")
    assert [DigestChallenge.parse(value).algorithm for value in challenges] == ["SHA-256", "MD5"]


@contextlib.contextmanager
def foreign(lab: Lab) -> Iterator[DigestPhone]:
    """dave's phone, driven by hand."""
    dave = lab.resolved["users"]["dave"]
    password = json.loads(lab.run("user", "dave", "--show-password", "--json").stdout)["password"]
    pcscf = (dave["pcscf"]["host"], dave["pcscf"]["port"])
    with DigestPhone(pcscf, dave["address"], dave["impu"], dave["impi"], password) as phone:
        yield phone


@pytest.mark.clause("ims-signalling", "DR-1")
def test_deregistered_user_is_unreachable(home: Lab) -> None:
    with foreign(home) as phone:
        assert phone.register(600).status == 200
        for user in ("bob", "grace", "frank"):
            home.run("register", user)
            assert user in home.json("status")["registrations"]
            assert home.json("deregister", user)["sip_status"] == 200
            assert not ue(home, user)["registered"]
            assert user not in home.json("status")["registrations"]
            assert phone.exchange(phone.invite(f"sip:{user}@ims.test")).status == 480, user
        assert phone.register(0).status == 200


@pytest.mark.clause("ims-signalling", "DR-1")
def test_deregistered_user_cannot_call(home: Lab) -> None:
    home.run("register", "bob")
    with foreign(home) as phone, behaving(home, "bob", reject_status=486):
        assert phone.register(600).status == 200
        assert phone.exchange(phone.invite("sip:bob@ims.test")).status == 486, "a registered phone reaches bob"
        assert phone.register(0).status == 200
        assert phone.exchange(phone.invite("sip:bob@ims.test")).status == 403


@pytest.mark.clause("ims-signalling", "E-14")
@pytest.mark.clause("RFC 3261", "10.3")
def test_too_short_a_registration_is_answered_423_and_asked_for_again(home: Lab) -> None:
    home.run("deregister", "alice")
    answer = home.json("register", "alice", "--expires", "20")
    assert "423" in rounds(home, answer, "alice")
    assert answer["registered"]
    assert answer["expires"] >= 60
    assert 0 < ue(home, "alice")["expires_in_s"] <= answer["expires"]


@pytest.mark.clause("ims-signalling", "E-1")
def test_wrong_proof_of_the_user_is_answered_403_and_leaves_no_registration(home: Lab) -> None:
    for user in ("alice", "grace", "frank"):
        home.run("deregister", user)
        answer = home.json("register", user, "--option", "bad_response=true", status=1)
        assert (answer["registered"], answer["sip_status"]) in {(False, 403), (False, 401)}, user
        assert not ue(home, user)["registered"]
        assert home.json("register", user)["registered"], f"{user} recovers with the right answer"


@pytest.mark.clause("ims-signalling", "E-3", "E-4", "E-6")
def test_phone_gives_up_by_itself_after_two_challenges_it_cannot_verify(home: Lab) -> None:
    for user in ("alice", "grace"):
        home.run("deregister", user)
        answer = home.json("register", user, "--option", "fail_mac=true", status=1)
        assert not answer["registered"]
        assert rounds(home, answer, user).count("REGISTER") <= 3 + 1
        assert home.json("register", user)["registered"]


@pytest.mark.clause("ims-signalling", "E-5")
def test_phone_that_says_out_of_range_is_resynchronised_and_registered_at_once(home: Lab) -> None:
    for user in ("alice", "grace"):
        home.run("deregister", user)
        answer = home.json("register", user, "--option", "fail_sync=true")
        assert answer["registered"]
        assert rounds(home, answer, user) == ["REGISTER", "401", "REGISTER", "401", "REGISTER", "200"]


@pytest.mark.attack("T1")
@pytest.mark.clause("ims-signalling", "E-11", "E-12")
@pytest.mark.parametrize("tampering", ["alter", "drop", "reorder", "omit"])
def test_altered_signalling_agreement_of_aka_udp_is_answered_494(home: Lab, tampering: str) -> None:
    home.run("deregister", "grace")
    answer = home.json("register", "grace", "--option", f"tamper_verify={tampering}", status=1)
    assert (answer["registered"], answer["sip_status"]) == (False, 494)
    assert home.json("register", "grace")["registered"]


@pytest.mark.clause("ims-signalling", "E-7", "DR-4")
def test_binding_of_a_phone_that_fell_silent_expires_and_the_phone_is_unreachable(home: Lab) -> None:
    settings = json.loads((home.state / "lab.json").read_text())
    settings["nodes"]["cscf"]["settings"]["min_expires"] = 2
    (home.state / "lab.json").write_text(json.dumps(settings))
    home.wait_back("cscf", home.kill("cscf"))
    with foreign(home) as phone:
        accepted = phone.register(3)
        assert accepted.status == 200
        assert "expires=3" in (accepted.headers.get("Contact") or "")

        def unreachable() -> bool:
            outcome = home.call("alice", "dave", "--security", "none", "--option", "cancel_after_s=0.1", status=None)
            return outcome["sip_status"] in {404, 480}

        home.wait(unreachable, 20, "the binding outlived its expiry")


@pytest.mark.clause("ims-signalling", "E-17")
def test_registration_while_the_hss_is_dead_fails_cleanly_or_waits_and_works_again(home: Lab) -> None:
    home.run("deregister", "carol")
    dead = home.kill("hss")
    process = home.run("register", "carol", "--json", check=False)
    answer = json.loads(process.stdout)
    assert answer["sip_status"] in {200, 408, 480, 500, 503, 504}, answer
    home.wait_back("hss", dead)
    home.wait(lambda: home.json("register", "carol", status=None)["registered"], 20, "carol did not come back")


@pytest.mark.clause("ims-signalling", "E-5", "RS-2", "RS-5")
def test_home_network_that_lost_its_sequence_numbers_is_resynchronised_by_the_card(own_folder: Any) -> None:
    with running(own_folder) as lab:
        for _ in range(3):
            assert lab.json("register", "alice")["registered"]
            lab.run("deregister", "alice")
        lab.run("down")
        shutil.rmtree(lab.state / "nodes" / "hss")
        lab.run("up", "--config", str(lab.config))
        answer = lab.json("register", "alice")
        assert answer["registered"]
        assert rounds(lab, answer, "alice") == ["REGISTER", "401", "REGISTER", "401", "REGISTER", "200"]
        lab.run("deregister", "alice")
        again = lab.json("register", "alice")
        assert rounds(lab, again, "alice") == ["REGISTER", "401", "REGISTER", "200"], "in step from now on"


@pytest.mark.clause("ims-signalling", "E-3", "E-6")
def test_card_with_another_key_does_not_believe_the_network(own_folder: Any) -> None:
    with running(own_folder) as lab:
        node = lab.node("alice")
        folder = StateFolder.at(lab.state)
        card = {"k": bytes(range(16)).hex(), "opc": bytes(range(16, 32)).hex()}
        sealed = Sealer(folder.sealing_key, node["nf_instance_id"]).seal(json.dumps(card).encode())
        (folder.secrets / "alice.sealed").write_bytes(sealed)
        lab.wait_back("alice", lab.kill("alice"))
        answer = lab.json("register", "alice", status=1)
        assert not answer["registered"]
        seen = rounds(lab, answer, "alice")
        assert "200" not in seen
        assert seen.count("REGISTER") <= 4
        assert lab.json("register", "bob")["registered"]


def test_phone_that_dies_registered_comes_back_registered(home: Lab) -> None:
    home.run("register", "bob")
    home.wait_back("bob", home.kill("bob"))
    home.wait(lambda: ue(home, "bob")["registered"], 20, "bob did not register again")
    with behaving(home, "bob", answer_after_s=0.1):
        assert home.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.6")["result"] == "established"
