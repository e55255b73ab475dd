"""``imslab scale`` in a running lab: instances come, take work, finish it, go, and are there when the lab comes back."""

from __future__ import annotations

import json

import pytest

from sba.identity import read_identity
from sba.pki import LabCa
from tests.scale.crowd import Crowd

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def functions(crowd: Crowd) -> dict[str, list[str]]:
    return {row["nf"]: row["instances"] for row in crowd.lab.json("scale")["functions"]}


def bob_at(crowd: Crowd, pcscf: str) -> None:
    """Have the UE of bob register until its turn is at that P-CSCF, which it knows once the NRF's answer is renewed."""

    def there() -> bool:
        crowd.ask("deregister", user="bob")
        crowd.ask("register", user="bob", media_security="", expires=0)
        return crowd.serving("bob") == pcscf

    crowd.lab.wait(there, 20, f"bob never comes to {pcscf}")


def test_an_instance_more_takes_work_and_one_less_finishes_it(crowd: Crowd) -> None:
    assert functions(crowd)["pcscf-b"] == ["pcscf-b"]
    process = crowd.lab.run("scale", "pcscf-b=2", "imsagw-b=2")
    assert ["pcscf-b", "pcscf", "2", "of", "2", "pcscf-b,", "pcscf-b-2"] in map(str.split, process.stdout.splitlines())
    assert process.stderr.splitlines()[:2] == ["pcscf-b-2 starting", "pcscf-b-2 serving"]
    rows = crowd.lab.nodes()
    assert [(rows[name]["nf"], rows[name]["state"]) for name in ("pcscf-b-2", "imsagw-b-2")] == [
        ("pcscf-b", "serving"),
        ("imsagw-b", "serving"),
    ]
    bob_at(crowd, "pcscf-b-2")
    call = crowd.call("u1", security="e2ae-sdes", seconds=5)
    crowd.lab.wait(lambda: call.established, 30, "no call")
    process = crowd.lab.run("scale", "pcscf-b=1", "imsagw-b=1", "--drain", "60")
    assert call.over, "the P-CSCF went before its call"
    assert "pcscf-b-2 retiring: " in process.stderr
    assert "pcscf-b-2 gone" in process.stderr
    verdict = call.join()
    assert (verdict["result"], verdict["reason"]) == ("established", "talk time over"), call
    assert all(audio["loss"] < 0.02 for audio in verdict["audio"].values()), call
    crowd.settled("bob", "pcscf-b")
    last = crowd.call("u1", media="off", security="e2e-kms", seconds=0.3)
    assert last.join()["result"] == "established", last
    assert functions(crowd)["pcscf-b"] == ["pcscf-b"]
    assert not {"pcscf-b-2", "imsagw-b-2"} & set(crowd.lab.nodes())


def test_an_instance_gets_the_certificate_of_what_it_is_and_no_more(crowd: Crowd) -> None:
    crowd.lab.run("scale", "kms=4", "imsagw-b=2")
    authority = LabCa.open(crowd.lab.state / "pki")
    for name, types, names in (
        ("kms-4", ("KMS",), {"kms-4.ims.test", "kms.ims.test"}),
        ("imsagw-b-2", ("IMS_AGW",), {"imsagw-b-2.ims.test", "access-b.access.ims.test"}),
    ):
        identity = read_identity(authority.present(name))
        entry = crowd.lab.node(name)
        assert (identity.nf_types, set(identity.dns_names)) == (types, names)
        assert identity.instance_id == entry["nf_instance_id"]
        assert entry["sbi"]["host"] in identity.addresses
    assert crowd.lab.node("kms-4")["nf_set"] == crowd.lab.node("kms")["nf_set"] == "kms.ims.test"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cscf=2"], "cscf does not scale; there are "),
        (["kms=9"], "NF=N with N from 1 to 8"),
        (["kms=0"], "NF=N with N from 1 to 8"),
        (["kms"], "NF=N with N from 1 to 8"),
        (["kms=2", "kms=3"], "kms is named twice"),
        (["kms-2=1"], "kms-2 does not scale"),
    ],
)
def test_what_cannot_be_scaled_is_said(crowd: Crowd, arguments: list[str], said: str) -> None:
    process = crowd.lab.run("scale", *arguments, check=False)
    assert process.returncode == 2
    assert said in process.stderr


@pytest.mark.attack("T9")
def test_work_that_takes_too_long_is_broken_off_when_its_time_is_over(crowd: Crowd) -> None:
    crowd.lab.run("scale", "pcscf-b=2")
    bob_at(crowd, "pcscf-b-2")
    call = crowd.call("u1", security="e2ae-sdes", seconds=60)
    crowd.lab.wait(lambda: call.established, 30, "no call")
    crowd.lab.run("scale", "pcscf-b=1", "--drain", "1")
    assert not call.over, "its media goes on"
    crowd.ask("hang-up", user="u1", call_id=call.call_id)
    assert call.join()["result"] == "established"
    crowd.settled("bob", "pcscf-b")
    after = crowd.call("u1", media="off", seconds=0.3)
    assert after.join()["result"] == "established", after


def test_a_lab_comes_back_as_it_was_scaled(crowd: Crowd) -> None:
    before = {name: crowd.lab.node(name) for name in ("kms-4", "imsagw-b-2")}
    crowd.lab.run("down")
    crowd.lab.run("up", "--config", str(crowd.lab.config))
    found = functions(crowd)
    assert found["kms"] == ["kms", "kms-2", "kms-3", "kms-4"]
    assert (found["imsagw-b"], found["pcscf-b"]) == (["imsagw-b", "imsagw-b-2"], ["pcscf-b"])
    assert {name: crowd.lab.node(name) for name in before} == before
    assert json.loads((crowd.lab.state / "instances.json").read_text())["kms"] == 4
