"""A KMS process over HTTPS, traced in full, and what its users do towards it from one client process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from bench import sba
from bench.kms_parties import DOMAIN, KMS, PROFILE, Pair, Parties
from bench.kms_store import UNLIMITED
from keying.mikey.resolve import Resolution
from keying.mikey.ticket import Ticket
from keying.mikey.transfer import TransferResponder
from nodes.httpmessage import HttpResponse, HttpsAddress
from nodes.https import HttpsClient
from nodes.kms.credentials import STATIC_PLACE
from sba.store import Sealer
from sba.telemetry import Telemetry
from sba.testing import LabFixture, free_port

KIND = (("Content-Type", PROFILE.http_content_type),)
NOWHERE = "/nothing"
"""A resource that the KMS does not have: an HTTPS request and its answer, and no more."""


@dataclass(frozen=True)
class KmsProcess:
    """A KMS as its users see it, and its process."""

    address: HttpsAddress
    client: HttpsClient
    pid: int

    async def _post(self, target: str, message: bytes) -> HttpResponse:
        body = base64.b64encode(message)
        return await self.client.request("POST", self.address, target, headers=KIND, body=body, timeout_s=60.0)

    async def _ask(self, word: str, message: bytes) -> bytes:
        response = await self._post(f"{PROFILE.http_path}?{PROFILE.http_operation_parameter}={word}", message)
        if response.status != 200:
            raise SystemExit(f"the KMS answered {response.status}: {response.body[:200]!r}")
        return base64.b64decode(response.body)

    async def request(self, pair: Pair) -> Ticket:
        """Ticket Request, from the wish to the ticket in hand."""
        asking = pair.request()
        return asking.receive(await self._ask(PROFILE.http_request_word, asking.message), time.time())

    async def resolve(self, pair: Pair, received: TransferResponder) -> Resolution:
        """Ticket Resolve, from the TRANSFER_INIT that was read to the keys in hand."""
        resolving = pair.resolve(received)
        return resolving.receive(await self._ask(PROFILE.http_resolve_word, resolving.message), time.time())

    async def nothing(self, message: bytes) -> None:
        """Post a message where nobody reads it."""
        if (await self._post(NOWHERE, message)).status != 404:
            raise SystemExit("the KMS has a resource that it should not have")

    def processor_s(self) -> float:
        """Processor time that the process has used, s."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on(cores: AbstractSet[int]) -> Iterator[None]:
    """Run on these cores, and start there what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def kms_process(folder: Path, parties: Parties, core: int, others: AbstractSet[int]) -> AsyncIterator[KmsProcess]:
    """A KMS on `core`, with NRF and trace collector on `others`, whose users share static keys with it."""
    collector_port = free_port()
    otlp = {"endpoint": f"https://127.0.0.1:{collector_port}", "tls_name": f"lab.{DOMAIN}"}
    lab = LabFixture(folder, domain=DOMAIN, nrf="process", otlp=otlp)
    lab.add("lab", "lab", nf_types=("LAB",))
    with on(others):
        collector = sba.Role("collector", str(collector_port), str(folder / "pki"))
        collector.wait_ready()
    try:
        with on(others):
            await lab.__aenter__()
        http_port = free_port()
        environment = lab.add("kms", "kms", settings(folder, http_port), nf_types=("KMS",))
        instance = environment.node.nf_instance_id
        lab.ca.issue("kms", ("KMS",), instance, dns=[environment.node.fqdn, KMS.text], ips=["127.0.0.1"])
        users = Sealer(folder / "sealing.key", instance).seal(json.dumps(static_keys(parties)).encode(), STATIC_PLACE)
        (folder / "users.sealed").write_bytes(users)
        with on({core}), (folder / "kms.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sba.run", "kms", "--instance", "kms", "--config", str(lab.path), stderr=log
            )
        try:
            with on(others):
                await lab.wait_serving("kms", 60.0)
            address = HttpsAddress(host="127.0.0.1", port=http_port, tls_name=KMS.text)
            client = HttpsClient(folder / "pki" / "ca.crt", Telemetry("ue", "UE"))
            yield KmsProcess(address, client, process.pid)
        finally:
            process.terminate()
            await process.wait()
            await lab.stop()
    finally:
        collector.stop()


def settings(folder: Path, port: int) -> dict[str, object]:
    unlimited = UNLIMITED.model_dump()
    return {
        "home_domains": [DOMAIN],
        "http": {"host": "127.0.0.1", "port": port},
        "static_psk_file": str(folder / "users.sealed"),
        "user_rate": unlimited,
        "address_rate": unlimited,
        "heartbeat_s": 3600,
    }


def static_keys(parties: Parties) -> list[dict[str, object]]:
    return [
        {
            "psk_identity": user.credential.identity.decode(),
            "psk": user.credential.key.reveal().hex(),
            "impi": user.identity.text.partition(":")[2],
            "identities": [user.identity.text],
        }
        for pair in parties.pairs
        for user in (pair.caller, pair.callee)
    ]
