import base64
import io

import pytest

from keying.mikey.identity import Identity
from nodes.https import HttpsClient
from nodes.ue import kms_wiring
from nodes.ue.card import Card
from nodes.ue.config import UeSettings
from nodes.ue.kms_policy import identity_of, wish_for
from nodes.ue.kms_wiring import SealedVault, profile_of
from nodes.ue.network import PinnedNetwork
from nodes.ue.ticket_store import TicketStore
from sba.errors import ConfigurationError
from sba.pki import LabCa
from sba.store import Store
from sba.telemetry import Telemetry
from sba.testing import LabFixture, async_test
from signalling.aka.vectors import Usim
from tests.ue.fake_pcscf import DOMAIN, IMPI, IP, OPC, K
from tests.ue.kms_stand_in import ALICE, BOB, CAROL, StandInKms, management

OWN = Identity.uri(ALICE)


class Memory:
    """A vault that is a dictionary."""

    def __init__(self):
        self.kept = {}

    async def load(self):
        return list(self.kept.items())

    async def save(self, name, content):
        self.kept[name] = content

    async def delete(self, name):
        self.kept.pop(name, None)


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def named(*uris):
    return [identity_of(uri) for uri in uris]


async def store_of(vault=None, *, kept=256, now=None, **policy):
    kms = StandInKms(**({"now": now} if now else {}))
    more = {"now": now} if now else {}
    keys = management(kms, ALICE, vault=vault, tickets_kept=kept, **more, **policy)
    return keys, keys.store


async def obtain(keys, *uris, **policy):
    wanted = keys.policy.model_copy(update=policy)
    return await keys.obtain(OWN, wish_for(wanted, named(*uris)))


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@async_test
async def test_a_ticket_is_for_exactly_those_it_names():
    keys, store = await store_of(reusable=True)
    both = await obtain(keys, BOB, CAROL)
    assert store.find(named(BOB), OWN, keys.now(), forking=True) is None
    assert store.find(named(CAROL, BOB), OWN, keys.now(), forking=True) is both
    assert store.find(named(CAROL, BOB), OWN, keys.now(), forking=False) is None
    assert store.find(named(CAROL, BOB), Identity.uri("tel:+1555"), keys.now(), forking=True) is None


@pytest.mark.clause("RFC 6043", "5.3", "6.10")
@async_test
async def test_a_single_use_ticket_is_found_once():
    keys, store = await store_of()
    held = await obtain(keys, BOB)
    assert store.find(named(BOB), OWN, keys.now(), forking=True) is held
    store.take(held)
    assert store.find(named(BOB), OWN, keys.now(), forking=True) is None
    assert store.get(held.ticket_id) is held


@pytest.mark.clause("RFC 6043", "6.10")
@async_test
async def test_a_ticket_ends_a_little_before_its_time():
    clock = Clock(1_800_000_000.0)
    keys, store = await store_of(now=clock, reusable=True, validity_s=100)
    await obtain(keys, BOB)
    clock.now += 85
    assert store.find(named(BOB), OWN, clock.now, forking=True) is not None
    clock.now += 10
    assert store.find(named(BOB), OWN, clock.now, forking=True) is None


@pytest.mark.attack("T7")
@async_test
async def test_the_store_is_bounded_and_forgets_what_is_spent():
    memory = Memory()
    keys, store = await store_of(memory, kept=3, reusable=True)
    held = [await obtain(keys, f"sip:user{number}@ims.test") for number in range(5)]
    assert len(list(store)) == 3
    assert len(memory.kept) == 3
    assert store.get(held[0].ticket_id) is None


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@pytest.mark.attack("T9")
@async_test
async def test_reusable_tickets_outlive_the_process_and_used_ones_do_not():
    memory = Memory()
    keys, store = await store_of(memory)
    single, again = await obtain(keys, BOB), await obtain(keys, CAROL, reusable=True)
    for held in (single, again):
        store.take(held)
        await store.keep(held)
    later = TicketStore(memory, 256)
    await later.open(keys.now())
    (found,) = list(later)
    assert (found.ticket_id, found.uses, found.kms) == (again.ticket_id, 1, "kms.ims.test")
    assert found.ticket.keys == again.ticket.keys
    assert found.ticket.mpki.key == again.ticket.mpki.key


@async_test
async def test_ended_and_unreadable_tickets_are_dropped_at_the_start():
    memory = Memory()
    keys, _ = await store_of(memory, reusable=True, validity_s=60)
    await obtain(keys, BOB)
    memory.kept["other"] = b'{"ticket": 1}'
    memory.kept["noise"] = b"\xff"
    later = TicketStore(memory, 256)
    await later.open(keys.now() + 3600)
    assert list(later) == []
    assert memory.kept == {}


@pytest.mark.attack("T8")
@async_test
async def test_tickets_are_sealed_for_their_place(tmp_path):
    async with LabFixture(tmp_path, nrf=False) as lab:
        store = await Store.open(lab.add("ue", "alice", nf_types=("UE",)))
        vault = SealedVault(store, await store.key_value("tickets"))
        keys, _ = await store_of(vault, reusable=True)
        held = await obtain(keys, BOB)
        ((name, row),) = await (await store.key_value("tickets")).items()
        assert name == held.ticket_id
        assert set(row) == {"sealed"}
        stored = base64.b64decode(row["sealed"])
        record = held.ticket.to_record()
        assert not any(word.encode() in stored for word in (*record, *map(str, record.values())))
        assert [place for place, _ in await vault.load()] == [name]
        await (await store.key_value("tickets")).put("moved", row)
        assert [place for place, _ in await vault.load()] == [name]
        await store.close()


# wiring ---------------------------------------------------------------------------------------------------------------


def settings(**more):
    return UeSettings(
        impi=IMPI, impu=ALICE, domain=DOMAIN, ip=IP, pcscf={"host": IP, "port": 5061}, key_file="", **more
    )


def built(tmp_path, card, **more):
    LabCa.create(tmp_path / "pki")
    log = io.StringIO()
    telemetry = Telemetry("alice", "UE", stream=log)
    https = HttpsClient(tmp_path / "pki" / "ca.crt", telemetry)

    async def remember():
        return None

    told = settings(**more)
    network = PinnedNetwork.of(told)
    keys = kms_wiring.build(told, card, https, network, telemetry, remember, Memory(), key_export=True)
    return keys, log.getvalue()


KMS = {"host": IP, "port": 8443, "tls_name": "kms.ims.test", "identity": "kms.ims.test"}
BSF = {"host": IP, "port": 8444, "tls_name": "bsf.ims.test"}


def card(psk=None, profile="aka-tls"):
    made = Card(IMPI, DOMAIN, profile, usim=Usim(K, OPC) if profile != "digest" else None)
    made.kms_psk = psk
    return made


def test_without_a_kms_there_is_no_key_management(tmp_path):
    assert built(tmp_path, card()) == (None, "")


def test_a_card_with_aka_and_a_bsf_bootstrap(tmp_path):
    keys, log = built(tmp_path, card(), kms=KMS, bsf=BSF, mikey_profile={"send_sdp_ids": False})
    assert keys.client.identity == Identity.uri("kms.ims.test")
    assert not keys.profile.send_sdp_ids
    assert log == ""


@pytest.mark.parametrize(("profile", "bsf"), [("digest", BSF), ("aka-tls", None)])
def test_no_way_to_a_key_is_told_and_leaves_the_ue_without(tmp_path, profile, bsf):
    keys, log = built(tmp_path, card(profile=profile), kms=KMS, bsf=bsf)
    assert keys is None
    assert "ue.no-key-with-kms" in log


@async_test
async def test_a_static_key_is_used_loudly(tmp_path):
    keys, log = built(tmp_path, card(psk=K, profile="digest"), kms=KMS)
    assert (await keys.client.credential()).identity == IMPI.encode()
    assert "ue.non-secure" in log


def test_an_unknown_value_of_the_profile_is_refused():
    with pytest.raises(ConfigurationError):
        profile_of({"no_such_value": 1})


def test_the_card_file_may_have_a_key_of_the_kms():
    content = b'{"password": "aa", "kms_psk": "%s"}' % (b"ab" * 32)
    assert Card.load(content, IMPI, DOMAIN, "digest", {}).kms_psk.reveal() == b"\xab" * 32
