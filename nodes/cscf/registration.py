"""What the registrar knows of a user: the registration of an implicit set and its contact bindings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from nodes.cscf.filter_criteria import FilterCriterion, TriggerPoint

Parameters = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Identity:
    """A public identity in canonical form, and whether it is barred from use."""

    uri: str
    barred: bool = False
    display_name: str = ""


@dataclass(frozen=True)
class Profile:
    """The service profile of an implicit registration set, default identity first (TS 29.562)."""

    impi: str
    identities: tuple[Identity, ...]
    filter_criteria: tuple[FilterCriterion, ...] = ()
    media_security: str = "preferred"
    max_sessions: int = 0

    @property
    def usable(self) -> tuple[str, ...]:
        """Identities that are not barred, default first: the content of P-Associated-URI."""
        return tuple(identity.uri for identity in self.identities if not identity.barred)

    @property
    def home_domain(self) -> str:
        """Domain of the first SIP identity."""
        return next((one.uri.rpartition("@")[2] for one in self.identities if one.uri.startswith("sip:")), "")

    @property
    def default_impu(self) -> str:
        """The first SIP identity (ID-4: there is one)."""
        return next((one.uri for one in self.identities if one.uri.startswith("sip:")), "")

    def holds(self, impu: str) -> bool:
        """Say whether the set has this identity, barred or not."""
        return any(identity.uri == impu for identity in self.identities)


@dataclass(frozen=True)
class Binding:
    """A contact address bound to the set (RFC 3261 10.3, RFC 3327 5.3, RFC 5626 6).

    ``params`` are the Contact header parameters but for ``expires``; times are seconds since the epoch; ``brought_by``
    is the NF instance id of the P-CSCF, "" where Mw has no certificates.
    """

    contact: str
    params: Parameters
    path: tuple[str, ...]
    call_id: str
    cseq: int
    registered_at: float
    expires_at: float
    contact_id: str
    instance_id: str = ""
    reg_id: int | None = None
    q: float = 1.0
    brought_by: str = ""

    def remaining(self, now: float) -> int:
        """Whole seconds left, at least 0."""
        return max(0, round(self.expires_at - now))


@dataclass(frozen=True)
class Registration:
    """A registered implicit set: who, how authenticated, where reachable.

    ``token`` is the user part of its Service-Route URI, ``icid`` and ``orig_ioi`` come from the REGISTER (SC-9).
    """

    profile: Profile
    token: str
    scheme: str
    bindings: tuple[Binding, ...]
    icid: str = ""
    orig_ioi: str = ""

    @property
    def impi(self) -> str:
        """The private identity."""
        return self.profile.impi

    def live(self, now: float) -> tuple[Binding, ...]:
        """Bindings that have not expired."""
        return tuple(binding for binding in self.bindings if binding.expires_at > now)

    def with_bindings(self, bindings: tuple[Binding, ...]) -> Registration:
        """The same registration with other bindings."""
        return replace(self, bindings=bindings)

    def to_record(self) -> dict[str, object]:
        """The form kept in the store; holds no secret."""
        record: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return record

    @classmethod
    def from_record(cls, record: dict[str, object]) -> Registration:
        """Read what ``to_record`` wrote. Raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        content = json.loads(json.dumps(record))
        profile = content["profile"]
        return cls(
            profile=Profile(
                impi=profile["impi"],
                identities=tuple(Identity(**identity) for identity in profile["identities"]),
                filter_criteria=tuple(
                    FilterCriterion(
                        criterion["priority"],
                        criterion["server_uri"],
                        tuple(TriggerPoint(**trigger) for trigger in criterion["triggers"]),
                        criterion["terminate_on_failure"],
                    )
                    for criterion in profile["filter_criteria"]
                ),
                media_security=profile["media_security"],
                max_sessions=profile["max_sessions"],
            ),
            token=content["token"],
            scheme=content["scheme"],
            bindings=tuple(
                Binding(
                    **{
                        **binding,
                        "params": tuple((name, value) for name, value in binding["params"]),
                        "path": tuple(binding["path"]),
                    }
                )
                for binding in content["bindings"]
            ),
            icid=content["icid"],
            orig_ioi=content["orig_ioi"],
        )
