import pytest
from signalling import SessionCase

from call_screening.procedure import is_listed, screen

ORIGINATING, TERMINATING = SessionCase.ORIGINATING, SessionCase.TERMINATING


@pytest.mark.parametrize(
    ("identity", "listed", "found"),
    [
        ("sip:eve@ims.test", ["sip:eve@ims.test"], True),
        ("sip:eve@ims.test", ["*@ims.test"], True),
        ("sip:eve@ims.test", ["*@partner.test", "sip:ev@ims.test"], False),
        ("sip:eve@sub.ims.test", ["*@ims.test"], False),
        ("tel:+15550100", ["tel:+15550100"], True),
        ("tel:+15550100", ["*@ims.test"], False),
        ("", ["*@", "*@ims.test"], False),
    ],
)
def test_an_identity_is_listed_itself_or_by_its_domain(identity: str, listed: list[str], *, found: bool) -> None:
    assert is_listed(identity, listed) is found


def test_the_called_user_is_spared_a_caller_whatever_he_is_called() -> None:
    callers = ["sip:eve@ims.test", "tel:+15550199"]
    for refused in (["sip:eve@ims.test"], ["tel:+15550199"], ["*@ims.test"]):
        refusal = screen(TERMINATING, callers, "sip:bob@ims.test", refused, [])
        assert refusal is not None
        assert refusal.status == 603
    assert screen(TERMINATING, callers, "sip:bob@ims.test", ["sip:mallory@ims.test"], ["sip:bob@ims.test"]) is None


def test_the_calling_user_does_not_reach_a_barred_target() -> None:
    refusal = screen(ORIGINATING, ["sip:alice@ims.test"], "tel:+19005550100", [], ["tel:+19005550100"])
    assert refusal is not None
    assert refusal.status == 403
    assert screen(ORIGINATING, ["sip:alice@ims.test"], "sip:bob@ims.test", ["*@ims.test"], []) is None
