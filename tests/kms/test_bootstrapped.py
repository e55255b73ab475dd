"""The whole way: USIM, HSS, BSF and KMS as processes; the keys come out of the card."""

import dataclasses
import time

import pytest

from keying.mikey.request import PskCredential
from nodes.https import HttpsAddress, HttpsClient
from nodes.ue.card import Card
from nodes.ue.gba import GbaClient
from nodes.ue.network import PinnedNetwork
from sba.telemetry import Telemetry
from sba.testing import LabFixture, async_test, free_port
from signalling.aka.vectors import Usim
from tests.cscf.home import ALICE, OPC, SUBSCRIBERS, K, provision
from tests.kms.home import Home, Ue, sent
from tests.kms.parties import uri

BSF_HOST = "127.0.0.1"


class Card2Kms:
    """A UE whose key towards the KMS comes from its USIM."""

    def __init__(self, home, bsf, subscriber):
        telemetry = Telemetry("ue", "UE")
        client = HttpsClient(home.lab.folder / "pki" / "ca.crt", telemetry)
        card = Card(subscriber.impi, "ims.test", "aka-tls", usim=Usim(K, OPC))
        self.home, self.impu = home, uri(subscriber.public_identities[0].uri)
        self.gba = GbaClient(client, card, bsf.name, PinnedNetwork(bsf=bsf), telemetry, self.remember)

    async def remember(self):
        """Keep the card's numbers: this card is thrown away."""

    async def ue(self):
        key = await self.gba.credential("kms.ims.test")
        address = HttpsAddress(host="127.0.0.1", port=self.home.port, tls_name="kms.ims.test")
        return Ue(self.home.lab, self.impu, self.home.identity, address, PskCredential(key.btid.encode(), key.key))


@pytest.mark.clause("TS 33.328", "6.2.3.1-2", "B.1-1", "B.2.2-1")
@pytest.mark.clause("TS 33.220", "4.5.3", "H.3")
@async_test
async def test_keys_from_the_usim_get_a_ticket_and_another_user_its_keys(tmp_path):
    bob = dataclasses.replace(
        ALICE,
        impi="001010000000777@ims.test",
        public_identities=(dataclasses.replace(ALICE.public_identities[0], uri="sip:bob7@ims.test"),),
    )
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        port = free_port()
        home.name_certificate("bsf", "BSF", "bsf")
        home.name_certificate("kms", "KMS", "kms")
        await lab.spawn("hss", "hss", provision(lab, "hss", [*SUBSCRIBERS, bob]), nf_types=("HSS",))
        ub = HttpsAddress(host=BSF_HOST, port=port, tls_name="bsf.ims.test")
        await lab.spawn("bsf", "bsf", {"ub": {"host": BSF_HOST, "port": port}}, nf_types=("BSF",))
        await lab.spawn("kms", "kms", home.settings(), nf_types=("KMS",))
        first, second = Card2Kms(home, ub, ALICE), Card2Kms(home, ub, bob)
        caller, callee = await first.ue(), await second.ue()
        ticket = await caller.ticket(second.impu)
        found = await callee.resolve(sent(ticket))
        assert found.mpki.key == ticket.mpki.key
        assert found.responder == second.impu
        assert (await caller.ticket(first.impu, initiator=second.impu)).status == 403
        stale = PskCredential(b"AAAA" + caller.credential.identity[4:], caller.credential.key)
        response = await dataclasses.replace(caller, credential=stale).ticket(second.impu)
        assert response.status == 401
        assert ticket.validity.covers(time.time())
