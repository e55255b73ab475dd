"""The KMS's side of Ticket Request and Ticket Resolve: octets and keys in, octets out; no store, no network.

No state is made before a sender is authenticated (RFC 6043 12.3): ``read_*`` only reads, ``authenticate`` checks the
MAC and then the replay cache, and only its result can grant, answer or resolve.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey import cipher, codec
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    UnsupportedDataType,
)
from keying.mikey.grant import grant
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import MessageKeys, Phase, Suite, message_keys
from keying.mikey.kmsexchange import REQUEST, RESOLVE, Shape
from keying.mikey.payloads import (
    CertificateHash,
    EnvelopeKey,
    Header,
    KeyData,
    Message,
    Payload,
    RandRoled,
    Signature,
    TicketPayload,
    TicketPolicy,
    TicketPolicyPayload,
)
from keying.mikey.pk import KmsKeyPair, Trust, der_chain, verify_signature
from keying.mikey.policy import Limits, check_granted, check_valid, has, kms_of, responders_of
from keying.mikey.profile import Profile
from keying.mikey.protection import (
    Entropy,
    check_empty_map,
    check_rand,
    check_suite,
    check_time,
    error_message,
    iv_time,
    needed_rand,
    one,
    optional,
    protect,
    read,
    timestamp,
    verification_of,
    verify,
)
from keying.mikey.registry import IdRole, KeyDataType, RandRole, TicketFlag
from keying.mikey.replay import ReplayCache
from keying.mikey.resolve import Resolution, fork_keys
from keying.mikey.ticket import (
    FindTicketKey,
    TicketProtectionKey,
    check_initiator_data,
    check_initiator_data_presence,
    fresh_spi,
    make_ticket,
    open_ticket,
    protection_keys,
    ticket_octets,
)
from keying.secret import Secret

MAX_MODIFIER = 64
"""Octets of the longest RANDRkms that is made without a store: one HMAC-SHA-512."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A ticket that was granted: the REQUEST_RESP to send, and what was granted, for the KMS's records."""

    response: bytes
    ticket: TicketPayload
    keys: tuple[KeyData, ...]

    @property
    def altered(self) -> bool:
        """The K flag: the policy is not the one asked for."""
        return has(self.ticket.policy, TicketFlag.K)


class Authority:
    """A KMS's engine. `identity` is its IDRkms.

    `modifier_secret` makes RANDRkms of a ticket, IDRr and endpoint always the same without any store (RFC 6043 5.3);
    without it, or where no endpoint is given, each resolution has a fresh one.
    """

    def __init__(
        self,
        profile: Profile,
        identity: Identity,
        *,
        replay: ReplayCache | None = None,
        modifier_secret: Secret | None = None,
        pk: KmsKeyPair | None = None,
        trust: Trust | None = None,
        entropy: Entropy = token_bytes,
    ) -> None:
        self.profile = profile
        self.identity = identity
        if replay is None:  # an empty cache is false, and may know what it must reject
            replay = ReplayCache(
                skew_s=profile.clock_skew_s, size=profile.replay_cache_size, senders=profile.replay_cache_senders
            )
        self.replay = replay
        self.modifier_secret = modifier_secret
        self.pk = pk
        self.trust = trust
        self.entropy = entropy

    def read_request(self, octets: bytes, now: float) -> PendingRequest:
        """Return a REQUEST_INIT that is well formed and timely, not authenticated. Raises MikeyError."""
        return PendingRequest(self, octets, now)

    def read_resolve(self, octets: bytes, now: float) -> PendingResolve:
        """Return a RESOLVE_INIT that is well formed and timely, not authenticated. Raises MikeyError."""
        return PendingResolve(self, octets, now)

    def error(self, octets: bytes, error: MikeyError, now: float) -> bytes | None:
        """Return the unauthenticated Error message for a request that could not be read; None to stay silent."""
        return error_message(octets, error, self.profile, now)

    def resolve_ticket(
        self,
        ticket: TicketPayload,
        responders: Sequence[Identity],
        find_tpk: FindTicketKey,
        now: float,
        *,
        groups: Groups = NO_GROUPS,
        endpoint: bytes | None = None,
    ) -> Resolution:
        """Resolve a ticket for a responder that has been authenticated: also for another KMS's (RFC 6043 10).

        `responders` are all of its public identities, the one in IDRr first. `endpoint` names the device (e.g. its
        B-TID): with it the modifier is the same each time. Checks type, TPK, MAC, owner, validity, IDRr or group, and
        Initiator Data (I=1). Raises InvalidTicket, InvalidTicketPolicy, InvalidIdentity, AuthenticationFailure.
        """
        contents = open_ticket(self.profile, ticket, find_tpk)
        policy = ticket.policy
        check_valid(policy, now)
        match = groups.match(responders_of(policy), responders)
        if match is None:
            raise InvalidIdentity("IDRr", "the ticket is for others")
        check_initiator_data_presence(ticket)
        mpki, mpkr = protection_keys(policy, contents)
        if not has(policy, TicketFlag.I):
            return Resolution(mpki, None, contents.keys, None)
        check_initiator_data(ticket, mpkr)
        # An identity the ticket names is told in the ticket's octets; of a group it is the member that answered.
        responder = match.authorised if match.direct else match.responder
        rand_kms = self._modifier(ticket, responder, endpoint, [mpkr, *(key.key for key in contents.keys)])
        forked_mpkr, keys = fork_keys(policy, mpkr, contents.keys, responder, rand_kms)
        spi = fresh_spi(self.profile, {key.spi for key in (contents.mpk, *keys)}, self.entropy)
        return Resolution(mpki, KeyData(KeyDataType.MPK, forked_mpkr, spi=spi), keys, responder, rand_kms)

    def _modifier(
        self, ticket: TicketPayload, responder: Identity, endpoint: bytes | None, keys: Sequence[Secret]
    ) -> bytes:
        length = max(self.profile.kms_rand_octets, *(len(key) for key in keys))
        if self.modifier_secret is None or endpoint is None or length > MAX_MODIFIER:
            return self.entropy(length)
        parts = (ticket_octets(ticket), bytes([responder.id_type]) + responder.data, endpoint)
        label = b"RANDRkms" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self.modifier_secret.reveal(), label, "sha512")[:length]


class _Pending:
    """A message to the KMS before it is authenticated."""

    shape: Shape

    def __init__(self, authority: Authority, octets: bytes, now: float) -> None:
        self.authority = authority
        self.octets = octets
        profile = authority.profile
        message = read(octets, self.shape.psk, self.shape.pk)
        self.public_key = message.header.data_type is self.shape.pk
        if self.public_key and (authority.pk is None or authority.trust is None or not profile.accept_public_key):
            raise UnsupportedDataType("HDR", "public-key variants are not done here")
        self.message: Message = message
        self.suite: Suite = check_suite(profile, message.header.prf)
        check_empty_map(message)
        self.sent = check_time(profile, message, now)
        self.rand = needed_rand(profile, message, self.shape.rand_role)
        self.claimed = identity(message.payloads, self.shape.role)
        self.kms = identity(message.payloads, IdRole.KMS)
        if self.kms is not None and not self.kms.same(authority.identity):
            raise InvalidIdentity("IDRkms", "another KMS is meant")
        named = identity(message.payloads, IdRole.PSK)
        self.psk_identity = None if named is None else named.data
        if self.public_key:
            one(message, Signature, "SIGN")
            one(message, EnvelopeKey, "PKE")
        else:
            verification_of(message, self.suite)

    def _authenticate(self, psk: Secret | None, now: float, owner: Identity | None) -> _Sender:
        sender = self.claimed or owner
        if sender is None:
            raise InvalidIdentity(f"IDR {self.shape.role.name}", "missing, and not known otherwise")
        suffix = sender.data + (self.kms or self.authority.identity).data
        certified: tuple[Identity, ...] = ()
        if self.public_key:
            psk, certified = self._open_envelope(sender, suffix, now)
        if psk is None:
            raise AuthenticationFailure("IDRpsk", "no key of that name")
        check_rand(len(self.rand), psk)
        if not self.public_key:
            verify(self.message, self.suite, self.keys_from(psk, Phase.INITIAL).auth, suffix)
        name = self.psk_identity if self.psk_identity is not None and not self.public_key else sender.data
        self.authority.replay.add(name, self.shape.psk.name, self.octets, self.sent, now)
        return _Sender(self, sender, psk, certified)

    def _open_envelope(self, sender: Identity, suffix: bytes, now: float) -> tuple[Secret, tuple[Identity, ...]]:
        pair, trust = self.authority.pk, self.authority.trust
        if pair is None or trust is None:
            raise UnsupportedDataType("HDR", "public-key variants are not done here")
        certificate, certified = trust.verify(der_chain(self.message.payloads), now)
        if not any(name.same(sender) for name in certified):
            raise InvalidIdentity(f"IDR {self.shape.role.name}", "not in the certificate")
        signature = one(self.message, Signature, "SIGN")
        if self.message.payloads[-1] is not signature:
            raise MalformedMessage("SIGN", "not the last payload")
        verify_signature(certificate, signature, codec.without_signature(self.message) + suffix)
        chosen = optional(self.message, CertificateHash, "CHASH")
        length = self.suite.key_bits // 8
        return pair.open(one(self.message, EnvelopeKey, "PKE"), chosen, (length,)), certified

    def keys_from(self, psk: Secret, phase: Phase) -> MessageKeys:
        """Return what protects this message or its response."""
        header = self.message.header
        return message_keys(header.prf, psk, phase, header.csb_id, *self.shape.rands(self.rand), self.suite)

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the unauthenticated Error message for `error`; None to stay silent."""
        return error_message(self.octets, error, self.authority.profile, now)


class _Sender:
    """Who sent a message, and the key to answer with."""

    def __init__(self, pending: _Pending, name: Identity, psk: Secret, certified: tuple[Identity, ...]) -> None:
        self._pending = pending
        self._psk = psk
        self.suite = pending.suite
        self.name = name
        self.certified = certified

    def respond(
        self, now: float, keys: Sequence[KeyData], before: Sequence[Payload], after: Sequence[Payload]
    ) -> bytes:
        """Return the response: HDR, T, IDRkms, `before`, KEMAC, `after`, V."""
        pending, authority = self._pending, self._pending.authority
        initial = pending.message.header
        header = Header(pending.shape.response, initial.csb_id, initial.prf, version=initial.version)
        moment = timestamp(authority.profile, now)
        message_key = pending.keys_from(self._psk, Phase.RESPONSE)
        kemac = cipher.seal_kemac(
            pending.suite.encr_alg, message_key, initial.csb_id, iv_time(Message(header, (moment,))), keys
        )
        kms = (pending.kms or authority.identity).payload(IdRole.KMS)
        payloads = (moment, kms, *before, kemac, *after)
        return protect(header, payloads, pending.suite, message_key.auth, pending.octets)

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the Error message under the auth_key of the failing message; with public keys it has no MAC."""
        pending = self._pending
        auth = None if pending.public_key else (pending.suite, pending.keys_from(self._psk, Phase.INITIAL).auth)
        return error_message(pending.octets, error, pending.authority.profile, now, auth=auth)


class PendingRequest(_Pending):
    """A REQUEST_INIT before it is authenticated: what it says must not be believed yet.

    `psk_identity` is IDRpsk (None in the PK variant and where it is left out), `initiator` IDRi, `kms` IDRkms.
    """

    shape = REQUEST

    def __init__(self, authority: Authority, octets: bytes, now: float) -> None:
        super().__init__(authority, octets, now)
        self.initiator: Identity | None = self.claimed
        self.policy: TicketPolicy = one(self.message, TicketPolicyPayload, "TP").policy

    def authenticate(self, psk: Secret | None, now: float, *, initiator: Identity | None = None) -> AuthenticRequest:
        """Verify with the PSK (None: by certificate), then remember the message against replay.

        `initiator` is who the credential belongs to, needed where the message has no IDRi.
        Raises AuthenticationFailure, Replayed, InvalidCertificate.
        """
        return AuthenticRequest(self.authority, self._authenticate(psk, now, initiator), self.policy)


class AuthenticRequest:
    """A REQUEST_INIT whose sender is known to hold the credential.

    Whether `initiator` (IDRi) is one of the sender's identities is for the KMS to say; in the PK variant it is, and
    `certified` are all identities of the certificate.
    """

    def __init__(self, authority: Authority, sender: _Sender, policy: TicketPolicy) -> None:
        self._authority = authority
        self._sender = sender
        self.initiator: Identity = sender.name
        self.certified: tuple[Identity, ...] = sender.certified
        self.policy: TicketPolicy = policy

    def grant(self, tpk: TicketProtectionKey, now: float, *, limits: Limits | None = None) -> Granted:
        """Grant the policy within `limits`, make keys and ticket and answer. Raises InvalidTicket(Policy)."""
        if tpk.owners is not None:
            raise InvalidTicketPolicy("D", "a KMS does not issue tickets under a key of a user")
        authority = self._authority
        profile, entropy = authority.profile, authority.entropy
        policy, wanted = grant(
            profile,
            self.policy,
            limits or Limits(),
            self.initiator,
            authority.identity,
            now,
            self._sender.suite.prf,
        )
        ticket = make_ticket(profile, policy, tpk, wanted, now, entropy)
        mpks = (ticket.mpki,) if ticket.mpkr is None else (ticket.mpki, ticket.mpkr)
        response = self._sender.respond(now, (*mpks, *ticket.keys), (ticket.payload,), ())
        return Granted(response, ticket.payload, ticket.keys)

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the authenticated Error message for `error`; None to stay silent."""
        return self._sender.error(error, now)


class PendingResolve(_Pending):
    """A RESOLVE_INIT before it is authenticated.

    `issuer` is IDRkms of the ticket's policy, the KMS that can resolve it, unverified; `responder` is IDRr.
    """

    shape = RESOLVE

    def __init__(self, authority: Authority, octets: bytes, now: float) -> None:
        super().__init__(authority, octets, now)
        self.responder: Identity | None = self.claimed
        self.ticket: TicketPayload = one(self.message, TicketPayload, "TICKET")
        check_granted(authority.profile, self.ticket.policy)
        check_initiator_data_presence(self.ticket)
        self.issuer: Identity | None = kms_of(self.ticket.policy)

    def authenticate(self, psk: Secret | None, now: float, *, responder: Identity | None = None) -> AuthenticResolve:
        """Verify with the PSK (None: by certificate), then remember the message against replay."""
        return AuthenticResolve(self._authenticate(psk, now, responder), self.ticket, self.issuer)


class AuthenticResolve:
    """A RESOLVE_INIT whose sender is known to hold the credential.

    Whether `responder` (IDRr) is one of the sender's identities is for the KMS to say.
    """

    def __init__(self, sender: _Sender, ticket: TicketPayload, issuer: Identity | None) -> None:
        self._sender = sender
        self.responder: Identity = sender.name
        self.certified: tuple[Identity, ...] = sender.certified
        self.ticket: TicketPayload = ticket
        self.issuer: Identity | None = issuer

    def answer(self, resolution: Resolution, now: float) -> bytes:
        """Return RESOLVE_RESP for the resolution, whether of this KMS or relayed from another, unchanged.

        Raises MalformedMessage for a resolution that contradicts the I flag.
        """
        forked = resolution.forked_mpkr
        if has(self.ticket.policy, TicketFlag.I) is not (forked is not None):
            raise MalformedMessage("resolution", "forked keys go with the I flag")
        if forked is not None and (resolution.responder is None or not resolution.rand_kms):
            raise MalformedMessage("resolution", "forked keys without their modifier")
        mpks = (resolution.mpki,) if forked is None else (resolution.mpki, forked)
        after: list[Payload] = []
        if resolution.responder is not None:
            after.append(resolution.responder.payload(IdRole.RESPONDER))
        if resolution.rand_kms:
            after.append(RandRoled(RandRole.KMS, resolution.rand_kms))
        return self._sender.respond(now, (*mpks, *resolution.keys), (), after)

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the authenticated Error message for `error`; None to stay silent."""
        return self._sender.error(error, now)
