"""Subscriber secrets of a lab: made at random once, kept sealed, given sealed to the HSS and to each software UE.

K and OPc (16 octets each) for AKA users, a password for digest users. In the open they exist in memory only, inside
``keying.Secret``; no argument vector, environment or state file holds them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keying.secret import Secret
from lab.config import LabConfig, User, Usim
from lab.config_services import criteria_of, server_uri
from lab.mode_keys import mode_keys, on_card
from lab.resolve_kms import kms_name
from lab.security_modes import enabled_modes
from lab.state import StateFolder
from nodes.hss.provision import (
    AkaCredentials,
    FilterCriterion,
    PublicIdentity,
    Subscriber,
    Trigger,
    build_provisioning,
)
from sba.config import set_seal
from sba.pki import write_private
from sba.store import Sealer, create_sealing_key
from signalling.aka.milenage import opc_from_op

KEY_OCTETS = 16
"""Length of K and OPc, octets (TS 35.206)."""
PASSWORD_OCTETS = 12
"""Randomness of a digest password, octets."""
AMF = b"\x80\x00"
"""Authentication management field with the separation bit (TS 33.102 Annex H)."""
KMS_PSK_OCTETS = 32
"""Length of a key shared with the KMS, octets; that of Ks_NAF."""
_KEEPER = "lab subscribers"
_STATIC_PLACE = b"kms static psk file"
"""``STATIC_PLACE`` of ``nodes/kms/credentials.py``, not imported: that would load the KMS into every command."""


@dataclass(frozen=True)
class SubscriberSecrets:
    """The secrets of one user: ``k`` and ``opc``, or ``password``; ``kms_psk`` in a lab with static KMS keys."""

    k: Secret | None = None
    opc: Secret | None = None
    password: Secret | None = None
    kms_psk: Secret | None = None


def _new(user: User) -> SubscriberSecrets:
    if user.usim is not None:
        return _of_card(user.usim)
    if user.profile == "digest":
        return SubscriberSecrets(password=Secret(secrets.token_urlsafe(PASSWORD_OCTETS).encode()))
    return SubscriberSecrets(k=Secret(secrets.token_bytes(KEY_OCTETS)), opc=Secret(secrets.token_bytes(KEY_OCTETS)))


def _of_card(card: Usim) -> SubscriberSecrets:
    k = Secret(bytes.fromhex(card.k))
    if card.opc is not None:
        return SubscriberSecrets(k=k, opc=Secret(bytes.fromhex(card.opc)))
    return SubscriberSecrets(k=k, opc=opc_from_op(k, Secret(bytes.fromhex(card.op or ""))))


def _fits(user: User, kept: SubscriberSecrets) -> bool:
    if user.usim is not None:
        wanted = _of_card(user.usim)
        return kept.k == wanted.k and kept.opc == wanted.opc
    return (kept.password is not None) == (user.profile == "digest")


def load(folder: StateFolder) -> dict[str, SubscriberSecrets]:
    """Open the sealed secrets of the lab in ``folder``; empty when there are none.

    Raises ``sba.errors.StoreError`` when the file was altered and ``ConfigurationError`` without a sealing key.
    """
    path = folder.secrets / "subscribers.sealed"
    if not path.exists():
        return {}
    content = json.loads(Sealer(folder.sealing_key, _KEEPER).unseal(path.read_bytes()))
    return {
        name: SubscriberSecrets(**{field: Secret(bytes.fromhex(text)) for field, text in entry.items()})
        for name, entry in content.items()
    }


def _with_kms_psk(own: SubscriberSecrets, *, wanted: bool) -> SubscriberSecrets:
    if not wanted:
        return replace(own, kms_psk=None)
    return own if own.kms_psk is not None else replace(own, kms_psk=Secret(secrets.token_bytes(KMS_PSK_OCTETS)))


def _kms_keys(users: Sequence[User], kept: Mapping[str, SubscriberSecrets], sealer: Sealer) -> bytes:
    """The file of static keys as ``nodes/kms/credentials.py`` reads it; the name of a key is the private identity."""
    entries = []
    for user in users:
        psk = kept[user.name].kms_psk
        assert psk is not None
        identities = [user.impu, *([f"tel:{user.tel}"] if user.tel else [])]
        entries.append(
            {"psk_identity": user.impi, "psk": psk.reveal().hex(), "impi": user.impi, "identities": identities}
        )
    return sealer.seal(json.dumps(entries).encode(), _STATIC_PLACE)


def _save(folder: StateFolder, kept: Mapping[str, SubscriberSecrets]) -> None:
    content = {
        name: {field: value.reveal().hex() for field, value in vars(entry).items() if value is not None}
        for name, entry in kept.items()
    }
    sealed = Sealer(folder.sealing_key, _KEEPER).seal(json.dumps(content).encode())
    write_private(folder.secrets / "subscribers.sealed", sealed)


def _criteria(user: User, config: LabConfig) -> tuple[FilterCriterion, ...]:
    return tuple(
        FilterCriterion(
            criterion.priority,
            server_uri(config, criterion.server),
            tuple(Trigger(**trigger.model_dump(exclude_none=True)) for trigger in criterion.triggers),
            criterion.default_handling == "refuse",
        )
        for criterion in criteria_of(config, user.service_profile)
    )


def _subscriber(user: User, own: SubscriberSecrets, config: LabConfig) -> Subscriber:
    identities = [PublicIdentity(user.impu, display_name=user.name.capitalize())]
    if user.tel is not None:
        identities.append(PublicIdentity(f"tel:{user.tel}"))
    credentials: AkaCredentials | Secret
    if own.password is not None:
        credentials = own.password
    else:
        assert own.k is not None
        assert own.opc is not None
        amf = AMF if user.usim is None else bytes.fromhex(user.usim.amf)
        credentials = AkaCredentials(own.k, own.opc, amf)
    return Subscriber(
        impi=user.impi,
        domain=user.domain,
        public_identities=tuple(identities),
        credentials=credentials,
        media_security=user.subscription,
        filter_criteria=_criteria(user, config),
    )


def provision(config: LabConfig, folder: StateFolder, instance_ids: Mapping[str, str]) -> None:
    """Make the secrets that are missing and write the sealed files of each HSS and each software UE.

    ``instance_ids`` are NF instance ids by instance name: a file opens only for the node it is meant for.
    """
    create_sealing_key(folder.sealing_key)
    shared = mode_keys(folder, enabled_modes(config))
    kept = load(folder)
    for user in config.users:
        if user.name not in kept or not _fits(user, kept[user.name]):
            kept[user.name] = _new(user)
        kept[user.name] = _with_kms_psk(kept[user.name], wanted=config.kms.static_psk)
    _save(folder, kept)
    for hss in dict.fromkeys(home.hss for home in config.home_domains):
        served = {home.name for home in config.home_domains if home.hss == hss}
        subscribers = [_subscriber(user, kept[user.name], config) for user in config.users if user.domain in served]
        sealer = Sealer(folder.sealing_key, instance_ids[hss])
        write_private(folder.secrets / f"{hss}.sealed", build_provisioning(subscribers, sealer))
    for home in config.home_domains:
        if home.kms is not None and config.kms.static_psk:
            users = [user for user in config.users if user.domain == home.name]
            sealer = Sealer(folder.sealing_key, set_seal(kms_name(home.name)))
            write_private(folder.secrets / f"{home.kms}.sealed", _kms_keys(users, kept, sealer))
    for user in config.users:
        own = kept[user.name]
        if user.software_ue:
            card = {field: value.reveal().hex() for field, value in vars(own).items() if value is not None}
            card |= on_card(shared, config.extensions.modes_of(user.name))
            sealer = Sealer(folder.sealing_key, instance_ids[user.name])
            write_private(folder.secrets / f"{user.name}.sealed", sealer.seal(json.dumps(card).encode()))
