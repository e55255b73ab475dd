"""Three instances each of P-CSCF, IMS access gateway and KMS: work is spread, and one of each is killed under load."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.scale.crowd import CALLERS, SCALED, Crowd, OngoingCall

pytestmark = [pytest.mark.lab, pytest.mark.attack("T9"), pytest.mark.timeout(300)]

CLEAR = frozenset({408, 430, 480, 500, 503, 504})
"""What a set-up may be told whose P-CSCF, gateway or KMS died under it."""
LOSS = 0.02
"""Share of media packets that a busy machine may lose by itself."""


def instances(nf: str) -> list[str]:
    return [nf, *(f"{nf}-{number}" for number in range(2, SCALED[nf] + 1))]


def at_each(crowd: Crowd, nf: str) -> bool:
    """Whether each P-CSCF has a UE; where one has none, as it was too slow to be there in time, its share comes anew."""
    served = {name: crowd.serving(name) for name in CALLERS}
    if set(served.values()) == set(instances(nf)):
        return True
    crowded, _ = Counter(served.values()).most_common(1)[0]
    crowd.again(next(name for name, pcscf in served.items() if pcscf == crowded))
    return False


def test_every_instance_gets_its_share(crowd: Crowd) -> None:
    crowd.lab.wait(lambda: at_each(crowd, "pcscf-a"), 60, "one P-CSCF has no UE")
    before = {kms: crowd.decisions(kms) for kms in instances("kms")}
    calls = [crowd.call(name, "bob", media="off", security="e2e-kms", seconds=0.5) for name in CALLERS]
    verdicts = [call.join() for call in calls]
    assert [verdict["result"] for verdict in verdicts] == ["established"] * len(CALLERS), calls
    again = [crowd.call(name, "bob", security="e2ae-sdes", seconds=1.0) for name in CALLERS]
    for call in again:
        assert call.join()["result"] == "established", call
    carried = Counter(call.gateway for call in (*calls, *again))
    assert set(carried) == set(instances("imsagw-a")), carried
    assert min(carried.values()) >= 2, carried
    asked = {kms: crowd.decisions(kms) - before[kms] for kms in before}
    assert all(asked.values()), asked


def test_one_of_each_killed_under_load_loses_its_own_set_ups_alone(crowd: Crowd) -> None:
    homes = {name: crowd.serving(name) for name in CALLERS}
    doomed, _ = Counter(homes.values()).most_common(1)[0]
    busy, idle = [name for name, pcscf in homes.items() if pcscf == doomed][:2]
    talking = [crowd.call(busy, "bob", security="e2ae-sdes", seconds=12)]
    others = [name for name, pcscf in homes.items() if pcscf != doomed]
    talking += [crowd.call(name, "bob", security="e2ae-sdes", seconds=12) for name in others[:2]]
    crowd.lab.wait(lambda: all(call.established for call in talking), 40, "the calls do not come about")

    setups = [crowd.call(name, "carol", media="off", security="none", seconds=0.3) for name in others[2:]]
    dead = {instance: crowd.lab.kill(instance) for instance in (doomed, "imsagw-a-2", "kms-2")}
    setups += [crowd.call(name, "carol", media="off", security="none", seconds=0.3) for name in others[:2]]
    tickets = [crowd.ask("ticket-request", user=name, responders=["carol"]) for name in others]

    after = crowd.call(idle, "carol", media="off", security="none", seconds=0.3)
    assert after.join()["result"] == "established", after
    assert len(tickets) == len(others), "any other instance of the KMS serves"
    for call in setups:
        verdict = call.join()
        assert verdict["result"] == "established" or verdict["sip_status"] in CLEAR, call
        assert verdict["result"] == "established" or verdict["reason"], call
    once_more = [crowd.call(name, "carol", media="off", security="none", seconds=0.3) for name in others]
    assert [call.join()["result"] for call in once_more] == ["established"] * len(others), once_more

    for call in talking:
        verdict = call.join()
        assert (verdict["result"], verdict["reason"]) == ("established", "talk time over"), call
        assert {audio["heard"] for audio in verdict["audio"].values()} == {True}, call
        assert all(audio["loss"] <= LOSS for audio in verdict["audio"].values()), call
    crowd.lab.wait(lambda: crowd.ask("status")["media_streams"] == 0, 30, "streams of ended calls remain")
    for instance, pid in dead.items():
        crowd.lab.wait_back(instance, pid)


def test_those_that_were_killed_take_work_again(crowd: Crowd) -> None:
    """A UE comes to every P-CSCF in turn, as it registers anew."""
    found: set[str] = set()
    for name in (*CALLERS, *CALLERS):
        crowd.again(name)
        found.add(crowd.serving(name))
    assert found == set(instances("pcscf-a"))
    before = crowd.decisions("kms-2")
    calls: list[OngoingCall] = []
    for security in ("e2e-kms", "e2ae-sdes"):
        calls += [crowd.call(name, "bob", media="off", security=security, seconds=0.3) for name in CALLERS]
        for call in calls:
            assert call.join()["result"] == "established", call
    assert "imsagw-a-2" in {call.gateway for call in calls}
    assert crowd.decisions("kms-2") > before
