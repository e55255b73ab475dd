"""The subscriber file of the HSS: what stands in it, how it is written and read.

A JSON list, one object per private identity, sealed as one piece with the lab's sealing key. The functions are pure:
the caller gives the sealing function of the HSS instance (``sba.store.Sealer`` or its ``Store``), so keys are never in
the open outside memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keying.secret import Secret
from signalling.aka.milenage import opc_from_op
from signalling.aka.vectors import DEFAULT_AMF

SEALED_PLACE = b"hss subscriber file"
"""Associated data of the seal: the content opens as a subscriber file and as nothing else."""
MediaSecurity = Literal["off", "preferred", "required"]

KEY_OCTETS = 16
"""Length of K, OP and OPc, octets (TS 35.206)."""


class Sealing(Protocol):
    """What seals and opens: a ``Sealer`` for the NF instance of the HSS, or its ``Store``."""

    def seal(self, plain: bytes, aad: bytes = b"") -> bytes:
        """Encrypt."""

    def unseal(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt; raises when altered or sealed for another place or instance."""


class ProvisioningError(Exception):
    """The subscriber file cannot be used; the text never holds key material."""


@dataclass(frozen=True)
class PublicIdentity:
    """A public identity: SIP or tel URI, whether it is barred, and a display name."""

    uri: str
    barred: bool = False
    display_name: str = ""


@dataclass(frozen=True)
class Trigger:
    """A service point trigger; an empty field matches anything (TS 29.228 Annex B)."""

    method: str = ""
    session_case: str = ""
    header: str = ""
    header_pattern: str = ""


@dataclass(frozen=True)
class FilterCriterion:
    """An initial filter criterion: triggers of which any may match, and the application server they lead to."""

    priority: int
    server_uri: str
    triggers: tuple[Trigger, ...] = ()
    terminate_on_failure: bool = False


@dataclass(frozen=True)
class AkaCredentials:
    """Long-term AKA secrets: K and OPc (16 octets each) and AMF (2 octets)."""

    k: Secret
    opc: Secret
    amf: bytes = DEFAULT_AMF


@dataclass(frozen=True)
class Subscriber:
    """A private identity with its credentials and its implicit registration set (default identity first).

    ``credentials`` is ``AkaCredentials`` or, for SIP digest, the password as a ``Secret`` in UTF-8.
    """

    impi: str
    domain: str
    public_identities: tuple[PublicIdentity, ...]
    credentials: AkaCredentials | Secret
    media_security: MediaSecurity = "preferred"
    filter_criteria: tuple[FilterCriterion, ...] = ()
    max_sessions: int = 0
    repository: dict[str, str] = field(default_factory=dict)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _Identity(_Record):
    uri: str = Field(min_length=5)
    barred: bool = False
    display_name: str = ""


class _Trigger(_Record):
    method: str = ""
    session_case: Literal["", "orig", "term", "orig-unreg", "term-unreg"] = ""
    header: str = ""
    header_pattern: str = ""


class _Criterion(_Record):
    priority: int = Field(ge=0)
    server_uri: str
    triggers: list[_Trigger] = Field(default_factory=list)
    terminate_on_failure: bool = False


class _Entry(_Record):
    impi: str = Field(min_length=3, pattern=r"^[^\s@]+@[^\s@]+$")
    domain: str = Field(min_length=1)
    k: str | None = None
    opc: str | None = None
    op: str | None = None
    amf: str = DEFAULT_AMF.hex()
    password: str | None = None
    impus: list[_Identity | str] = Field(min_length=1)
    media_security: MediaSecurity = "preferred"
    filter_criteria: list[_Criterion] = Field(default_factory=list)
    max_sessions: int = Field(default=0, ge=0)
    repository: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind_of_credentials(self) -> _Entry:
        aka = self.k is not None and (self.opc is None) != (self.op is None)
        if aka == (self.password is not None) or (self.password is not None and self.k is not None):
            raise ValueError("give k with opc or op, or a password, and not both")
        return self


def build_provisioning(subscribers: Iterable[Subscriber], sealing: Sealing) -> bytes:
    """Return the sealed content of a subscriber file, to be written to the HSS setting ``provisioning_file``."""
    return sealing.seal(json.dumps([_entry(subscriber) for subscriber in subscribers]).encode(), SEALED_PLACE)


def read_provisioning(sealed: bytes, sealing: Sealing) -> tuple[Subscriber, ...]:
    """Open and check a subscriber file.

    Raises ``ProvisioningError`` when the content is no JSON list of subscribers, a key has the wrong length, or an
    identity is owned twice. What ``sealing`` raises passes through.
    """
    return parse_subscribers(sealing.unseal(sealed, SEALED_PLACE))


def parse_subscribers(text: bytes) -> tuple[Subscriber, ...]:
    """Read the JSON list of an opened subscriber file. Raises ``ProvisioningError``."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ProvisioningError("the subscriber file is not JSON") from None
    if not isinstance(content, list):
        raise ProvisioningError("the subscriber file is not a list")
    subscribers = tuple(_subscriber(index, item) for index, item in enumerate(content))
    _check_owners(subscribers)
    return subscribers


def _subscriber(index: int, item: object) -> Subscriber:
    try:
        entry = _Entry.model_validate(item)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, fault["loc"])) or "entry" for fault in error.errors(include_input=False))
        raise ProvisioningError(f"subscriber {index}: not valid: {places}") from None
    identities = tuple(
        PublicIdentity(item) if isinstance(item, str) else PublicIdentity(item.uri, item.barred, item.display_name)
        for item in entry.impus
    )
    if not any(identity.uri.startswith("sip:") for identity in identities):
        raise ProvisioningError(f"subscriber {index}: at least one public identity is a SIP URI (ID-4)")
    return Subscriber(
        impi=entry.impi,
        domain=entry.domain,
        public_identities=identities,
        credentials=_credentials(index, entry),
        media_security=entry.media_security,
        filter_criteria=tuple(
            FilterCriterion(
                criterion.priority,
                criterion.server_uri,
                tuple(Trigger(**trigger.model_dump()) for trigger in criterion.triggers),
                criterion.terminate_on_failure,
            )
            for criterion in sorted(entry.filter_criteria, key=lambda criterion: criterion.priority)
        ),
        max_sessions=entry.max_sessions,
        repository=entry.repository,
    )


def _credentials(index: int, entry: _Entry) -> AkaCredentials | Secret:
    if entry.password is not None:
        return Secret(entry.password.encode())
    k = _octets(index, "k", entry.k, KEY_OCTETS)
    if entry.opc is not None:
        opc = Secret(_octets(index, "opc", entry.opc, KEY_OCTETS))
    else:
        opc = opc_from_op(Secret(k), Secret(_octets(index, "op", entry.op, KEY_OCTETS)))
    return AkaCredentials(Secret(k), opc, _octets(index, "amf", entry.amf, len(DEFAULT_AMF)))


def _octets(index: int, name: str, text: str | None, length: int) -> bytes:
    try:
        octets = bytes.fromhex(text or "")
    except ValueError:
        raise ProvisioningError(f"subscriber {index}: {name} is not hexadecimal") from None
    if len(octets) != length:
        raise ProvisioningError(f"subscriber {index}: {name} is {len(octets)} octets long, not {length}")
    return octets


def _check_owners(subscribers: Sequence[Subscriber]) -> None:
    seen: set[str] = set()
    for subscriber in subscribers:
        for name in (subscriber.impi, *(identity.uri for identity in subscriber.public_identities)):
            if name in seen:
                raise ProvisioningError(f"the identity {name} is provisioned twice")
            seen.add(name)


def _entry(subscriber: Subscriber) -> dict[str, object]:
    entry: dict[str, object] = {
        "impi": subscriber.impi,
        "domain": subscriber.domain,
        "impus": [
            {"uri": identity.uri, "barred": identity.barred, "display_name": identity.display_name}
            for identity in subscriber.public_identities
        ],
        "media_security": subscriber.media_security,
        "filter_criteria": [
            {
                "priority": criterion.priority,
                "server_uri": criterion.server_uri,
                "terminate_on_failure": criterion.terminate_on_failure,
                "triggers": [vars(trigger) for trigger in criterion.triggers],
            }
            for criterion in subscriber.filter_criteria
        ],
        "max_sessions": subscriber.max_sessions,
        "repository": subscriber.repository,
    }
    if isinstance(subscriber.credentials, AkaCredentials):
        aka = subscriber.credentials
        entry |= {"k": aka.k.reveal().hex(), "opc": aka.opc.reveal().hex(), "amf": aka.amf.hex()}
    else:
        entry["password"] = subscriber.credentials.reveal().decode()
    return entry
