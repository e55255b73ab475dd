"""A KMS of several instances: the UE asks the next when one is away, with a message of its own for each (T9)."""

import pytest

from keying.mikey.identity import Identity
from keying.mikey.profile import Profile
from nodes.https import HttpError, HttpFault, HttpResponse, HttpsAddress
from nodes.ue.config import KmsAddress, KmsPolicy
from nodes.ue.gba import GbaError
from nodes.ue.kms_client import KmsClient, KmsRefused, KmsUnreachable
from nodes.ue.kms_policy import identity_of, wish_for
from nodes.ue.network import NotFound, Server
from sba.testing import async_test
from tests.ue.kms_stand_in import ALICE, BOB, Direct, Keys, StandInKms

pytestmark = pytest.mark.attack("T9")
WISH = wish_for(KmsPolicy(), (identity_of(BOB),))


class Set:
    """Instances of one KMS by name, and what is wrong with each; the HTTPS client of the UE and its network at once."""

    def __init__(self, kms, **wrong):
        self.kms, self.wrong = kms, wrong
        self.direct = Direct(kms)
        self.asked, self.bodies, self.suspects = [], [], []

    async def kms_servers(self):
        return [Server(HttpsAddress(host=name, port=1, tls_name="kms.ims.test"), name) for name in self.wrong]

    def failed(self, instance_id):
        self.suspects.append(instance_id)

    def answered(self, instance_id):
        self.suspects = [name for name in self.suspects if name != instance_id]

    async def request(self, method, address, target, *, headers=(), body=b"", timeout_s=0.0):
        self.asked.append(address.host)
        self.bodies.append(body)
        wrong = self.wrong[address.host]
        if isinstance(wrong, HttpFault):
            raise HttpError(wrong, address.host)
        if isinstance(wrong, int) and wrong:
            return HttpResponse(wrong)
        return await self.direct.request(method, address, target, headers=headers, body=body)


class Network:
    def __init__(self, instances):
        self.kms = instances.kms_servers
        self.failed, self.answered = instances.failed, instances.answered


def client_of(instances, keys=None):
    kms = instances.kms
    address = KmsAddress(identity="kms.ims.test")
    return KmsClient(instances, address, keys or Keys(kms, ALICE), kms.profile, Network(instances), timeout_s=1.0)


def instances(**wrong):
    return Set(StandInKms(profile=Profile()), **wrong)


@pytest.mark.parametrize(
    "wrong", [HttpFault.UNREACHABLE, HttpFault.TIMEOUT, HttpFault.TLS, HttpFault.PROTOCOL, 502, 503, 504]
)
@async_test
async def test_the_next_is_asked_when_one_is_away(wrong):
    found = instances(first=wrong, second=0)
    ticket, _ = await client_of(found).request(Identity.uri(ALICE), WISH)
    assert [each.text for each in ticket.responders] == [BOB]
    assert found.asked == ["first", "second"]
    assert found.suspects == ["first"]
    assert found.bodies[0] != found.bodies[1], "what one may have seen, none takes again"


@pytest.mark.parametrize("status", [400, 403, 429])
@async_test
async def test_a_refusal_is_one_wherever_it_was_said(status):
    found = instances(first=status, second=0)
    with pytest.raises(KmsRefused):
        await client_of(found).request(Identity.uri(ALICE), WISH)
    assert found.asked == ["first"]
    assert found.suspects == []


@async_test
async def test_when_all_are_away_the_last_says_why():
    found = instances(first=HttpFault.UNREACHABLE, second=HttpFault.TIMEOUT)
    with pytest.raises(KmsUnreachable, match="timeout"):
        await client_of(found).request(Identity.uri(ALICE), WISH)
    assert found.asked == ["first", "second"]


@async_test
async def test_a_kms_that_nobody_names_is_not_reachable():
    found = instances()

    async def nobody():
        raise NotFound("no KMS of ims.test can be reached from here")

    found.kms_servers = nobody
    with pytest.raises(KmsUnreachable, match="no KMS of"):
        await client_of(found).request(Identity.uri(ALICE), WISH)


@async_test
async def test_without_a_key_no_instance_is_asked():
    found = instances(first=0, second=0)

    class NoKeys:
        async def credential(self):
            raise KmsUnreachable(f"no key shared with the KMS, {GbaError('unreachable', 'no BSF')}")

    with pytest.raises(KmsUnreachable, match="no BSF"):
        await client_of(found, NoKeys()).request(Identity.uri(ALICE), WISH)
    assert found.asked == []
