"""NRF, HSS and BSF of a home network, and whoever talks to the BSF."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keying.secret import Secret
from nodes.bsf.node import Bsf
from nodes.hss.node import Hss
from nodes.https import HttpResponse, HttpsAddress, HttpsClient
from nodes.ue.card import Card
from nodes.ue.gba import GbaClient, GbaKey
from nodes.ue.network import PinnedNetwork
from protos import bsf_gba_pb2
from sba.client import SbiClient
from sba.telemetry import Telemetry
from sba.testing import LabFixture, NodeProcess, free_port
from signalling.aka.digest import DigestChallenge, DigestCredentials, aka_password, answer_challenge
from signalling.aka.gba import naf_id
from signalling.aka.vectors import Usim, parse_nonce
from tests.cscf.home import ALICE, OPC, SUBSCRIBERS, K, provision

GET_INFO = bsf_gba_pb2.DESCRIPTOR.services_by_name["NbsfGba"].methods_by_name["GetBootstrappingInfo"]
KMS = "kms.ims.test"
BSF = "bsf.ims.test"
UB = "127.88.0.1"
"""Address of Ub: the kernel gives its ports to nobody else meanwhile."""


class Ue:
    """A UE with a card of its own, in this process; `remembered` is what it stored of the card."""

    def __init__(self, home: Home, impi: str = ALICE.impi, usim: Usim | None = None) -> None:
        self.remembered: list[dict[str, int]] = []
        self.usim = usim or Usim(K, OPC)
        self.card = Card(impi, "ims.test", "aka-tls", usim=self.usim)
        self.offset = 0.0
        network = PinnedNetwork(bsf=home.address)
        self.gba = GbaClient(
            home.client, self.card, home.address.name, network, home.telemetry, self._remember, now=home.now
        )

    async def _remember(self) -> None:
        self.remembered.append(self.card.sequence())

    async def key_anew(self, naf: str) -> GbaKey:
        """Bootstrap once more, as after a 401 of the NAF."""
        self.gba.invalidate((await self.gba.credential(naf)).btid)
        return await self.gba.credential(naf)


class Home:
    """The home network under test."""

    def __init__(self, folder: Path) -> None:
        self.lab = LabFixture(folder)
        self.folder = folder
        self.port = free_port(UB)
        self.address = HttpsAddress(host=UB, port=self.port, tls_name=BSF)
        self.log = io.StringIO()
        self.spans = InMemorySpanExporter()
        self.telemetry = Telemetry("ue-test", "UE", stream=self.log)
        self.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.client = HttpsClient(folder / "pki" / "ca.crt", self.telemetry)
        self.offset = 0.0
        self.settings: dict[str, Any] = {}
        self.bsf: Any = None
        self.kms: SbiClient

    def now(self) -> float:
        import time

        return time.time() + self.offset

    async def start_bsf(self, **settings: Any) -> Any:
        self.settings = {"ub": {"host": UB, "port": self.port}, **settings}
        self.bsf = await self.lab.start("bsf", "bsf", self.settings, cls=Bsf)
        return self.bsf

    async def spawn_bsf(self, **settings: Any) -> NodeProcess:
        self.settings = {"ub": {"host": UB, "port": self.port}, **settings}
        return await self.lab.spawn("bsf", "bsf", self.settings, nf_types=("BSF",))

    # Ub by hand.

    async def get(self, credentials: DigestCredentials | str | None, target: str = "/", **more: Any) -> HttpResponse:
        text = credentials.format() if isinstance(credentials, DigestCredentials) else credentials
        headers = () if text is None else (("Authorization", text),)
        return await self.client.request(more.pop("method", "GET"), self.address, target, headers=headers, **more)

    async def challenge(self, impi: str = ALICE.impi) -> DigestChallenge:
        response = await self.get(DigestCredentials(impi, BSF, "/"))
        assert response.status == 401, response.status
        return DigestChallenge.parse(response.header("WWW-Authenticate") or "")

    # Zn.

    async def info(self, btid: str, naf: bytes = naf_id(KMS), client: SbiClient | None = None) -> Any:
        request = bsf_gba_pb2.BootstrappingInfoRequest(btid=btid, naf_id=naf)
        return await (client or self.kms).call(GET_INFO, request, timeout=8.0)


def answered(challenge: DigestChallenge, usim: Usim, impi: str = ALICE.impi, **more: Any) -> DigestCredentials:
    """What a UE with this USIM answers."""
    rand, autn = parse_nonce(challenge.nonce)
    result = usim.authenticate(rand, autn)
    password = aka_password("AKAv1-MD5", result.res, result.ik, result.ck)
    return answer(challenge, password, impi, **more)


def answer(challenge: DigestChallenge, password: Secret, impi: str = ALICE.impi, **more: Any) -> DigestCredentials:
    """Credentials under a password; `qop` other than auth-int is a fault."""
    chosen = dataclasses.replace(challenge, qop=(more.pop("qop", "auth-int"),))
    return answer_challenge(
        chosen, username=impi, password=password, method="GET", uri=more.pop("uri", "/"), cnonce="c0ffee", **more
    )


@contextlib.asynccontextmanager
async def home(folder: Path, *, bsf: bool = True, **settings: Any) -> AsyncIterator[Home]:
    """NRF and HSS in this process, the KMS as a client, and the BSF unless told otherwise."""
    found = Home(folder)
    async with found.lab:
        await found.lab.start("hss", "hss", provision(found.lab, "hss", SUBSCRIBERS), cls=Hss)
        found.kms = await found.lab.client("KMS", "kms")
        if bsf:
            await found.start_bsf(**settings)
        yield found
