"""What a user shares with the KMS: Ks_NAF of a bootstrapping, asked of the BSF of his domain over Zn (TS 33.220)."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from keying.mikey.identity import Identity, normalise
from keying.secret import Secret
from nodes.kms.patterns import host_of
from protos import bsf_gba_pb2
from sba.client import SbiClient
from sba.errors import ConfigurationError, RemoteProblem, StoreError
from signalling.aka.gba import BSF_LABEL, KS_NAF_LENGTH, Btid, GbaFormatError, bsf_of, naf_id

STATIC_PLACE: Final = b"kms static psk file"
"""Associated data of the seal of a static key file."""
_CACHE_SIZE: Final = 10_000
_BOOTSTRAPPING = bsf_gba_pb2.DESCRIPTOR.services_by_name["NbsfGba"].methods_by_name["GetBootstrappingInfo"]


class UnknownCredential(Exception):  # noqa: N818 - it says what the credential is
    """Nobody has this B-TID, or its lifetime is over: the UE has to bootstrap."""


class CredentialsUnavailable(Exception):  # noqa: N818 - it says how they are
    """The BSF cannot be asked; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class UserCredential:
    """An authenticated user's key and who he is; `identities` default first, `expires_at` seconds since the epoch."""

    key: Secret
    impi: str
    identities: tuple[Identity, ...]
    expires_at: float


class CredentialSource(Protocol):
    """Finds the credential that IDRpsk names."""

    async def find(self, psk_identity: bytes, now: float) -> UserCredential:
        """Return it. Raises ``UnknownCredential``, ``CredentialsUnavailable``."""


def btid_domain(psk_identity: bytes, home_domains: Sequence[str]) -> str:
    """Home domain of the BSF in a B-TID (TS 33.220 4.5.2).

    Raises ``UnknownCredential`` when it is no B-TID or of another home domain: each KMS serves its own users.
    """
    try:
        domain = Btid.parse(psk_identity.decode("ascii")).bsf.removeprefix(BSF_LABEL)
    except (UnicodeDecodeError, GbaFormatError):
        raise UnknownCredential from None
    if domain not in home_domains:
        raise UnknownCredential
    return domain


def own_identities(found: Sequence[str], home_domains: Sequence[str]) -> tuple[Identity, ...]:
    """Those identities a BSF of these home domains may vouch for: their SIP URIs, and tel URIs.

    Judged in the form in which they are compared later, so that no spelling is one user's here and another's there.
    """

    def own(name: str) -> bool:
        return "*" not in name and (name.startswith("tel:") or host_of(name) in home_domains)

    return tuple(Identity.uri(text) for text in found if own(normalise(text)))


class BootstrappedCredentials:
    """Credentials from the BSF, kept for a short while. `naf` is this KMS's name; it serves users of `home_domains`."""

    def __init__(
        self, sbi: SbiClient, naf: str, home_domains: Sequence[str], *, cache_s: float, timeout_s: float
    ) -> None:
        self._sbi = sbi
        self._naf_id = naf_id(naf)
        self._home_domains = tuple(home_domains)
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        self._known: OrderedDict[bytes, tuple[float, UserCredential]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[UserCredential]] = {}

    async def find(self, psk_identity: bytes, now: float) -> UserCredential:
        """Return the user whose B-TID this is. Raises ``UnknownCredential``, ``CredentialsUnavailable``."""
        domain = btid_domain(psk_identity, self._home_domains)
        kept = self._known.get(psk_identity)
        if kept is not None and now < kept[0]:
            return kept[1]
        asking = self._asking.get(psk_identity)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(psk_identity, domain, now))
            self._asking[psk_identity] = asking
            asking.add_done_callback(lambda done: self._answered(psk_identity, done))
        return await asyncio.shield(asking)

    def _answered(self, psk_identity: bytes, done: asyncio.Task[UserCredential]) -> None:
        self._asking.pop(psk_identity, None)
        if not done.cancelled():
            done.exception()

    async def _ask(self, psk_identity: bytes, domain: str, now: float) -> UserCredential:
        """Ask a BSF whose certificate says that it is the one of the domain."""
        self._known.pop(psk_identity, None)
        request = bsf_gba_pb2.BootstrappingInfoRequest(btid=psk_identity.decode("ascii"), naf_id=self._naf_id)
        try:
            answer = await self._sbi.call(
                _BOOTSTRAPPING, request, timeout=self._timeout_s, home_domain=domain, tls_name=bsf_of(domain)
            )
        except RemoteProblem as problem:
            if problem.code is grpc.StatusCode.NOT_FOUND:
                raise UnknownCredential from problem
            raise CredentialsUnavailable(str(problem)) from problem
        if answer.expires_at <= now:
            raise UnknownCredential
        identities = own_identities(answer.public_identities, self._home_domains)
        if len(answer.ks_naf) != KS_NAF_LENGTH or not answer.impi or not identities:
            raise CredentialsUnavailable("the BSF's answer has no usable key or identity")
        credential = UserCredential(Secret(answer.ks_naf), answer.impi, identities, answer.expires_at)
        self._known[psk_identity] = (min(now + self._cache_s, answer.expires_at), credential)
        if len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)
        return credential


class _StaticEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    psk_identity: str = Field(min_length=1)
    psk: str = Field(min_length=2 * KS_NAF_LENGTH, pattern=r"^([0-9a-fA-F]{2})+$")
    impi: str = Field(min_length=1)
    identities: tuple[str, ...] = Field(min_length=1)


def read_static(path: Path, unseal: Callable[[bytes, bytes], bytes]) -> dict[bytes, UserCredential]:
    """Read a sealed file of static keys: JSON, a list of psk_identity, psk (hex), impi and identities.

    Raises ``ConfigurationError``, whose text holds nothing of the content.
    """
    try:
        entries = TypeAdapter(list[_StaticEntry]).validate_python(json.loads(unseal(path.read_bytes(), STATIC_PLACE)))
    except (OSError, StoreError, ValueError, ValidationError):
        raise ConfigurationError("the file of static keys cannot be used") from None
    return {
        entry.psk_identity.encode(): UserCredential(
            Secret(bytes.fromhex(entry.psk)), entry.impi, tuple(map(Identity.uri, entry.identities)), float("inf")
        )
        for entry in entries
    }


class WithStatic:
    """Static keys first, then another source. NON-SECURE: for labs without GBA."""

    def __init__(self, static: dict[bytes, UserCredential], then: CredentialSource) -> None:
        self._static = static
        self._then = then

    async def find(self, psk_identity: bytes, now: float) -> UserCredential:
        """Return the static key of that name or what the other source has."""
        found = self._static.get(psk_identity)
        return found if found is not None else await self._then.find(psk_identity, now)
