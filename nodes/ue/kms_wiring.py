"""Puts a UE's key management together: HTTPS, GBA or a static key, the profile, the sealed memory of tickets."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping

from keying.mikey.profile import Profile
from keying.mikey.profile_values import ProfileError, read_profile
from keying.mikey.request import PskCredential
from nodes.https import HttpsClient
from nodes.ue.card import Card
from nodes.ue.config import KmsAddress, UeSettings
from nodes.ue.gba import GbaClient
from nodes.ue.key_management import KeyManagement
from nodes.ue.kms_client import Credentials, GbaCredentials, KmsClient, StaticCredentials
from nodes.ue.network import Network
from nodes.ue.ticket_store import TicketStore, Vault
from sba.errors import ConfigurationError, StoreError
from sba.store import KeyValueTable, Store
from sba.telemetry import Telemetry
from signalling.aka.gba import bsf_of

_PLACE = b"ue ticket "


class SealedVault:
    """Tickets in a table of the UE's store, each sealed with the lab's key for its own name."""

    def __init__(self, store: Store, table: KeyValueTable) -> None:
        self._store = store
        self._table = table

    async def load(self) -> list[tuple[str, bytes]]:
        """Return name and content of what opens; the rest is forgotten."""
        found = []
        for name, row in await self._table.items():
            try:
                sealed = base64.b64decode(str(row.get("sealed", "")), validate=True)
                found.append((name, self._store.unseal(sealed, _PLACE + name.encode())))
            except (StoreError, binascii.Error, ValueError):
                await self._table.delete(name)
        return found

    async def save(self, name: str, content: bytes) -> None:
        """Seal and keep."""
        sealed = self._store.seal(content, _PLACE + name.encode())
        await self._table.put(name, {"sealed": base64.b64encode(sealed).decode()})

    async def delete(self, name: str) -> None:
        """Forget."""
        await self._table.delete(name)


def profile_of(changes: Mapping[str, object]) -> Profile:
    """Return the MIKEY profile with some values set anew. Raises ConfigurationError for one that does not fit."""
    try:
        return read_profile(changes)
    except ProfileError as error:
        raise ConfigurationError(f"mikey_profile: {error}") from None


def build(
    settings: UeSettings,
    card: Card,
    https: HttpsClient,
    network: Network,
    telemetry: Telemetry,
    remember: Callable[[], Awaitable[None]],
    vault: Vault,
    *,
    key_export: bool,
) -> KeyManagement | None:
    """Return the key management of a UE, None where it has no KMS or no way to a key with it.

    Raises ConfigurationError for a profile that is none.
    """
    if settings.kms is None:
        return None
    credentials = _credentials(settings, settings.kms, card, https, network, telemetry, remember)
    if credentials is None:
        reason = "there is no BSF, or the card has no AKA, and no static key"
        telemetry.log("ue.no-key-with-kms", level="warning", reason=reason)
        return None
    profile = profile_of(settings.mikey_profile)
    client = KmsClient(
        https,
        settings.kms,
        credentials,
        profile,
        network,
        timeout_s=settings.kms_policy.timeout_s,
    )
    store = TicketStore(vault, settings.kms_policy.tickets_kept)
    return KeyManagement(settings.kms_policy, client, store, profile, key_export=key_export)


def _credentials(
    settings: UeSettings,
    kms: KmsAddress,
    card: Card,
    https: HttpsClient,
    network: Network,
    telemetry: Telemetry,
    remember: Callable[[], Awaitable[None]],
) -> Credentials | None:
    if card.kms_psk is not None:
        telemetry.log("ue.non-secure", level="warning", reason="the key shared with the KMS is a static one of the lab")
        return StaticCredentials(PskCredential(settings.impi.encode(), card.kms_psk))
    if settings.bsf is None or card.usim is None:
        return None
    name = settings.bsf.name or bsf_of(settings.domain)
    return GbaCredentials(GbaClient(https, card, name, network, telemetry, remember), kms.fqdn)
