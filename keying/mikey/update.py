"""CSB update: new keys and new crypto sessions in an established bundle, from either side (RFC 6043 5.2).

Every message under the keys of an association has a later T than all before it: that refuses replays, and keeps the IVs
of two KEMACs apart, which is why T may be a fraction of a second ahead of the clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keying.mikey import cipher, codec
from keying.mikey.csmap import (
    Acceptable,
    answer,
    check_answer,
    check_offer,
    check_one_way,
    policies_in,
    policies_of,
    sessions_of,
)
from keying.mikey.errors import (
    InvalidIdentity,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    Replayed,
    Unspecified,
)
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import MessageKeys, Suite
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    CryptoSession,
    GeneralExtension,
    Header,
    Kemac,
    KeyData,
    Message,
    Payload,
    Rand,
    RandRoled,
    SecurityPolicy,
    TicketPayload,
    TicketPolicy,
    Timestamp,
)
from keying.mikey.policy import has
from keying.mikey.profile import Profile
from keying.mikey.protection import (
    check_response,
    check_spis,
    check_strength,
    check_time,
    error_message,
    iv_time,
    open_keys,
    optional,
    protect,
    raise_error,
    read,
    split_keys,
    timestamp,
    verify,
)
from keying.mikey.registry import CsIdMapType, DataType, IdRole, TicketFlag, TsType
from keying.mikey.sessions import SessionKeys, derive

_SUPPLIES = {IdRole.INITIATOR: TicketFlag.L, IdRole.RESPONDER: TicketFlag.M}
_ROLES = (IdRole.INITIATOR, IdRole.RESPONDER)
_TIMES = 1 << 64


def _later(one: bytes, other: bytes) -> bool:
    """Return whether NTP time `one` is after `other`, across the end of an era too."""
    return 0 < (int.from_bytes(one, "big") - int.from_bytes(other, "big")) % _TIMES < _TIMES // 2


def _digests(keys: SessionKeys) -> set[bytes]:
    """Return a digest of master key and salt of each SRTP session, by suite."""
    return {
        hashlib.sha256(b"%s\0%d\0%s" % (each.suite.encode(), each.cs_id, each.tek.joined(each.salt).reveal())).digest()
        for each in keys.by_cs_id.values()
        if each.suite
    }


@dataclass(slots=True, repr=False)
class Association:
    """An established bundle as one side keeps it: the keys that protect its updates, its sessions, its last times.

    `role` is the side's role in the initial exchange, which it keeps whoever starts an update. `protection` are the
    very keys that protected the last message of the initial exchange, not derived anew: RFC 6043 5.2 names neither
    phase nor RANDs for an update, so those of TRANSFER_RESP stay, without one those of TRANSFER_INIT. `session_keys`
    are the keys of the bundle: TGK (forked where the ticket says so), TEK, GTGK, and those of updates, never forked.
    """

    profile: Profile
    role: IdRole
    csb_id: int
    suite: Suite
    policy: TicketPolicy
    protection: MessageKeys
    initiator: Identity
    responder: Identity
    rands: tuple[bytes, bytes]
    session_keys: tuple[KeyData, ...]
    sessions: tuple[CryptoSession, ...]
    policies: dict[int, SecurityPolicy]
    acceptable: Acceptable
    last_time: bytes
    """T of the latest message under `protection`, as 64 bits."""
    keys: SessionKeys = field(init=False)
    """The session keys in force."""
    left: set[bytes] = field(init=False, default_factory=set)
    """Digests of session keys that were in force and are not any more."""

    def __post_init__(self) -> None:
        self.keys = self.derive(self.sessions, self.policies, self.session_keys)

    @property
    def identities(self) -> bytes:
        """What the MAC of an update covers behind it: the initiator of the initial exchange first (assumed)."""
        return self.initiator.data + self.responder.data

    def derive(
        self, sessions: Sequence[CryptoSession], policies: Mapping[int, SecurityPolicy], keys: Sequence[KeyData]
    ) -> SessionKeys:
        """Return the keys of `sessions`; the RANDs are those of the initial exchange (RFC 6043 5.2)."""
        return derive(self.suite.prf, self.csb_id, sessions, policies, keys, self.rands)

    def enforce(
        self,
        sessions: Sequence[CryptoSession],
        policies: Mapping[int, SecurityPolicy],
        keys: Sequence[KeyData],
    ) -> SessionKeys:
        """Put sessions, policies and keys of a finished update in force and return the session keys.

        Raises Unspecified for an update that goes back to session keys it left: ROC and replay list of that time are
        gone (RFC 3711 9.1, 9.2).
        """
        derived = self.derive(sessions, policies, keys)
        before, after = _digests(self.keys), _digests(derived)
        if after & self.left:
            raise Unspecified("SPI", "session keys that were in force before")
        self.left |= before - after
        self.keys, self.sessions, self.policies, self.session_keys = (
            derived,
            tuple(sessions),
            dict(policies),
            tuple(keys),
        )
        return derived

    def start(
        self,
        now: float,
        *,
        keys: Sequence[KeyData] = (),
        policies: Sequence[SecurityPolicy] = (),
        sessions: Sequence[CryptoSession] | None = None,
        extensions: Sequence[GeneralExtension] = (),
        response: bool = True,
    ) -> UpdateStarted:
        """Return an update this side starts: `keys` need L (initiator) or M (responder), `sessions` replace the map.

        Raises InvalidTicketPolicy where the flags forbid keys. The old keys stay in force until the update is done.
        """
        return UpdateStarted(
            self,
            now,
            tuple(keys),
            tuple(policies),
            self.sessions if sessions is None else tuple(sessions),
            extensions,
            response,
        )

    def receive(self, octets: bytes, now: float) -> UpdateReceived:
        """Return the update the peer starts, verified. Raises AuthenticationFailure, Replayed and other MikeyErrors."""
        return UpdateReceived(self, octets, now)

    def next_time(self, now: float) -> Timestamp:
        """Return a T for `now` that is later than every T before it under the same keys.

        The lowest bit is the role's: both sides encrypt under one key, so updates that cross must not share an IV.
        """
        moment = t64(timestamp(self.profile, now))
        later = int.from_bytes(moment if _later(moment, self.last_time) else self.last_time, "big") + 1
        later += (later ^ (self.role is IdRole.RESPONDER)) & 1
        self.last_time = (later % _TIMES).to_bytes(8, "big")
        # Eight octets, as only they can be a fraction later.
        return Timestamp(TsType.NTP_UTC, self.last_time)

    def check_later(self, message: Message, now: float) -> None:
        """Check T of the peer's message. Raises InvalidTimestamp, Replayed."""
        check_time(self.profile, message, now)
        if not _later(iv_time(message), self.last_time):
            raise Replayed("T", "not later than the last message of this bundle")

    def write(
        self,
        data_type: DataType,
        moment: Timestamp,
        sessions: Sequence[CryptoSession],
        middle: Sequence[Payload],
        keys: Sequence[KeyData],
        extensions: Sequence[GeneralExtension],
        *,
        verification: bool,
        suffix: bytes,
    ) -> bytes:
        """Return an update message: HDR, T, `middle` (IDR, SP), [KEMAC], extensions, V."""
        header = Header(data_type, self.csb_id, self.suite.prf, verification, CsIdMapType.GENERIC_ID, tuple(sessions))
        payloads: list[Payload] = [moment, *middle]
        if keys:
            self.check_supplied(self.role, keys)
            payloads.append(cipher.seal_kemac(self.suite.encr_alg, self.protection, self.csb_id, t64(moment), keys))
        return protect(header, (*payloads, *extensions), self.suite, self.protection.auth, suffix)

    def check_supplied(self, role: IdRole, keys: Sequence[KeyData]) -> None:
        """Check that the side in `role` may supply these keys beside those of the bundle.

        Raises InvalidTicketPolicy without the L or M flag, MalformedMessage for SPIs that are not new.
        """
        if not has(self.policy, _SUPPLIES[role]):
            raise InvalidTicketPolicy("KEMAC", f"the {role.name.lower()} may not supply keys with this ticket")
        split_keys(keys, 0)
        check_spis((*self.session_keys, *keys))
        check_strength(self.suite, keys)

    def supplied(self, message: Message, role: IdRole) -> tuple[KeyData, ...]:
        """Return the keys that a verified message of the side in `role` supplies."""
        if optional(message, Kemac, "KEMAC") is None:
            return ()
        keys = open_keys(message, self.protection)
        self.check_supplied(role, keys)
        return keys

    def check_static(self, message: Message) -> None:
        """Check that an update brings no RAND and no TICKET (RFC 6043 5.2) and its own parties. Raises MikeyError."""
        if any(isinstance(each, (Rand, RandRoled, TicketPayload)) for each in message.payloads):
            raise MalformedMessage("update", "RANDs and tickets are not for a CSB update")
        for role, known in zip(_ROLES, (self.initiator, self.responder), strict=True):
            named = identity(message.payloads, role)
            if named is not None and named != known:
                raise InvalidIdentity(f"IDR {role.name}", "not a party of this bundle")

    def named(self, *roles: IdRole) -> tuple[Payload, ...]:
        """Return the IDR payloads of the parties in `roles`."""
        parties = {IdRole.INITIATOR: self.initiator, IdRole.RESPONDER: self.responder}
        return tuple(parties[role].payload(role) for role in roles)

    @property
    def peer_role(self) -> IdRole:
        """The other side's role in the initial exchange."""
        return IdRole.RESPONDER if self.role is IdRole.INITIATOR else IdRole.INITIATOR

    def error(self, octets: bytes, error: MikeyError, now: float) -> bytes | None:
        """Return the authenticated Error message about an update of the peer that verified; None to stay silent."""
        return error_message(octets, error, self.profile, now, auth=(self.suite, self.protection.auth))


class UpdateStarted:
    """An update under way; `message` is to be sent as it stands."""

    def __init__(
        self,
        association: Association,
        now: float,
        keys: tuple[KeyData, ...],
        policies: tuple[SecurityPolicy, ...],
        sessions: tuple[CryptoSession, ...],
        extensions: Sequence[GeneralExtension],
        response: bool,
    ) -> None:
        self._association = association
        self._keys = (*association.session_keys, *keys)
        self._policies = policies_of(policies, association.policies)
        self._sessions = sessions
        self._response = response
        if not response:
            check_one_way(sessions)
            association.derive(sessions, self._policies, self._keys)
        self._moment = association.next_time(now)
        self.message = association.write(
            DataType.TRANSFER_INIT,
            self._moment,
            sessions,
            (*association.named(association.role, association.peer_role), *policies),
            keys,
            extensions,
            verification=response,
            suffix=association.identities,
        )
        self._header, _, _ = codec.decode_header(self.message)

    def receive(self, octets: bytes, now: float) -> SessionKeys:
        """Return the keys that are in force from now on, by a TRANSFER_RESP. Raises PeerError and other MikeyErrors."""
        association = self._association
        auth = (association.suite, association.protection.auth)
        raise_error(octets, self._header, auth)
        if not self._response:
            raise MalformedMessage("TRANSFER_RESP", "no response was wanted")
        message = read(octets, DataType.TRANSFER_RESP)
        check_response(message, self._header)
        verify(message, *auth, self.message)
        association.check_later(message, now)
        association.check_static(message)
        keys = (*self._keys, *association.supplied(message, association.peer_role))
        policies = policies_in(message, self._policies)
        sessions = sessions_of(message.header)
        check_answer(self._sessions, sessions, policies, association.acceptable)
        derived = association.enforce(sessions, policies, keys)
        association.last_time = iv_time(message)
        return derived

    def finish(self) -> SessionKeys:
        """Return the keys that are in force from now on, for an update without response."""
        if self._response:
            raise MalformedMessage("TRANSFER_RESP", "a response is due")
        return self._association.enforce(self._sessions, self._policies, self._keys)


class UpdateReceived:
    """A verified update of the peer, not in force yet."""

    def __init__(self, association: Association, octets: bytes, now: float) -> None:
        self._association = association
        self._octets = octets
        message = read(octets, DataType.TRANSFER_INIT)
        header = message.header
        if (header.version, header.prf, header.csb_id) != (1, association.suite.prf, association.csb_id):
            raise MalformedMessage("HDR", "not of this bundle")
        verify(message, association.suite, association.protection.auth, association.identities)
        association.check_later(message, now)
        association.last_time = iv_time(message)
        association.check_static(message)
        self._keys = (*association.session_keys, *association.supplied(message, association.peer_role))
        self._policies = policies_in(message, association.policies)
        self.sessions: tuple[CryptoSession, ...] = sessions_of(header)
        check_offer(self.sessions, self._policies, association.acceptable)
        self.extensions: tuple[GeneralExtension, ...] = tuple(
            each for each in message.payloads if isinstance(each, GeneralExtension)
        )
        self.response_wanted: bool = header.verification

    def accept(
        self,
        now: float,
        *,
        ssrcs: Mapping[int, int] | None = None,
        chosen: Mapping[int, int] | None = None,
        policies: Sequence[SecurityPolicy] = (),
        keys: Sequence[KeyData] = (),
        extensions: Sequence[GeneralExtension] = (),
    ) -> tuple[bytes | None, SessionKeys]:
        """Return TRANSFER_RESP (None where none is wanted) and the keys that are in force from now on."""
        association = self._association
        if not self.response_wanted:
            if keys or policies:
                raise MalformedMessage("TRANSFER_RESP", "no response is wanted, nothing can be supplied")
            check_one_way(self.sessions)
            return None, association.enforce(self.sessions, self._policies, self._keys)
        in_force = (*self._keys, *keys)
        known = policies_of(policies, self._policies)
        sessions = answer(self.sessions, known, association.acceptable, in_force, ssrcs=ssrcs, chosen=chosen)
        association.derive(sessions, known, in_force)
        response = association.write(
            DataType.TRANSFER_RESP,
            association.next_time(now),
            sessions,
            (*association.named(association.role), *policies),
            keys,
            extensions,
            verification=False,
            suffix=self._octets,
        )
        return response, association.enforce(sessions, known, in_force)
