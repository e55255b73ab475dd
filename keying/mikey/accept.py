"""Ticket Transfer of the responder: TRANSFER_INIT in, TRANSFER_RESP out (RFC 6043 4.2.2.2, 4.2.2.3, 4.2.3.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey import cipher, codec
from keying.mikey.csmap import (
    Acceptable,
    answer,
    check_offer,
    check_one_way,
    policies_in,
    policies_of,
    sessions_of,
)
from keying.mikey.errors import (
    InvalidIdentity,
    InvalidPrf,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
)
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import MessageKeys, Phase, message_keys
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    CryptoSession,
    GeneralExtension,
    Header,
    Kemac,
    KeyData,
    Payload,
    RandRoled,
    SecurityPolicy,
    TicketPayload,
    Timestamp,
)
from keying.mikey.policy import check_application, check_granted, check_usable, has, initiator_of, responders_of
from keying.mikey.profile import DEFAULT_PROFILE, Profile
from keying.mikey.protection import (
    Entropy,
    check_rand,
    check_spis,
    check_strength,
    check_suite,
    check_time,
    error_message,
    iv_time,
    needed_rand,
    one,
    open_keys,
    optional,
    protect,
    read,
    split_keys,
    timestamp,
    verification_of,
)
from keying.mikey.registry import CsIdMapType, DataType, IdRole, RandRole, TicketFlag
from keying.mikey.replay import ReplayCache
from keying.mikey.resolve import Resolution
from keying.mikey.sessions import SessionKeys, srtp_policy
from keying.mikey.ticket import check_initiator_data_presence, check_vi
from keying.mikey.update import Association
from keying.suites import DEFAULT_SUITES


@dataclass(frozen=True, slots=True)
class Established:
    """A bundle that both sides have keys for: with a fork, one of several.

    `initiator` and `responder` are the identities to show to people. With forking the KMS vouches for both; without it
    whoever may resolve the ticket could have written them, except the one that asked for the ticket (RFC 6043 12.4).
    """

    keys: SessionKeys
    initiator: Identity
    responder: Identity
    association: Association


@dataclass(frozen=True, slots=True)
class Accepted(Established):
    """What :meth:`TransferResponder.accept` returns: `response` is TRANSFER_RESP, None with F=0."""

    response: bytes | None


class TransferResponder:
    """The responder's side of one Ticket Transfer.

    The constructor makes every check that needs no key (RFC 6043 4.2.2.2) and raises MikeyError before any KMS is
    asked: time, ticket type, validity, flags, own identity among the responders, security policies, RAND lengths.
    `suites` are the SRTP suites that are acceptable, best first; `prot_types` other protocols that are. `groups` are
    groups this responder knows itself to be in; with `may_be_in_groups` it leaves membership to the KMS. `application`
    is the own application identity, for tickets that are for some alone. `replay` is
    shared by all transfers to this responder: without it a replay within the clock skew is not seen.
    """

    def __init__(
        self,
        profile: Profile,
        octets: bytes,
        *,
        own: Sequence[Identity],
        now: float,
        suites: Sequence[str] = ("AES_CM_128_HMAC_SHA1_80",),
        prot_types: Sequence[int] = (),
        groups: Groups = NO_GROUPS,
        may_be_in_groups: bool = False,
        application: Identity | None = None,
        replay: ReplayCache | None = None,
        entropy: Entropy = token_bytes,
    ) -> None:
        self._profile, self._octets, self._replay, self._entropy = profile, octets, replay, entropy
        self._acceptable = Acceptable(suites, prot_types)
        self._auth: MessageKeys | None = None
        message = read(octets, DataType.TRANSFER_INIT)
        self._message = message
        self._suite = check_suite(profile, message.header.prf)
        self._sent = check_time(profile, message, now)
        self._rand_i = needed_rand(profile, message, RandRole.INITIATOR)
        self._verification = verification_of(message, self._suite)
        self.ticket: TicketPayload = one(message, TicketPayload, "TICKET")
        self.csb_id: int = message.header.csb_id
        policy = self.ticket.policy
        check_usable(profile, policy, now)
        check_application(policy, application)
        check_initiator_data_presence(self.ticket)
        if policy.prf is not message.header.prf:
            raise InvalidPrf("PRF func", "the ticket and the message have different ones (assumed to be the same)")
        if optional(message, Kemac, "KEMAC") is not None and not has(policy, TicketFlag.L):
            raise InvalidTicketPolicy("KEMAC", "the initiator may not supply keys with this ticket")
        match = groups.match(responders_of(policy), own)
        if match is None and not (may_be_in_groups and own):
            raise InvalidIdentity("IDRr", "the ticket is for others")
        self._initiator = self._sender(groups)
        self._called = identity(message.payloads, IdRole.RESPONDER) or (own[0] if match is None else match.responder)
        self.sessions: tuple[CryptoSession, ...] = sessions_of(message.header)
        self._policies = policies_in(message)
        check_offer(self.sessions, self._policies, self._acceptable)
        if not has(policy, TicketFlag.F):
            check_one_way(self.sessions)
        # Without Initiator Data, which the MAC does not cover: a replay must not pass for new by a change there.
        self._once = codec.without_initiator_data(message) + self._verification.mac
        if replay is not None:  # what was taken before costs the KMS nothing
            replay.check(self._initiator.data, DataType.TRANSFER_INIT.name, self._once, self._sent, now)

    def _sender(self, groups: Groups) -> Identity:
        policy = self.ticket.policy
        named, maker = identity(self._message.payloads, IdRole.INITIATOR), initiator_of(policy)
        sender = named or maker
        if sender is None:
            raise InvalidIdentity("IDRi", "neither in the message nor in the ticket")
        if maker is None or sender.same(maker):
            return sender
        # In a group another member may pass a ticket on, unless keys are forked (RFC 6043 9, 9.1).
        if has(policy, TicketFlag.I) or groups.match(responders_of(policy), [sender]) is None:
            raise InvalidIdentity("IDRi", "the ticket was asked for by somebody else")
        return sender

    @property
    def initiator(self) -> Identity:
        """Who claims to send: IDRi of the message, else of the ticket policy; verified by :meth:`accept`."""
        return self._initiator

    @property
    def called(self) -> Identity:
        """The responder the initiator meant (IDRr of the message), else the own identity that the ticket names."""
        return self._called

    @property
    def extensions(self) -> tuple[GeneralExtension, ...]:
        """The general extensions, unverified before :meth:`accept`."""
        return tuple(each for each in self._message.payloads if isinstance(each, GeneralExtension))

    def accept(
        self,
        resolution: Resolution,
        now: float,
        *,
        ssrcs: Mapping[int, int] | None = None,
        chosen: Mapping[int, int] | None = None,
        policies: Sequence[SecurityPolicy] = (),
        sessions: Sequence[CryptoSession] = (),
        keys: Sequence[KeyData] = (),
        extensions: Sequence[GeneralExtension] = (),
    ) -> Accepted:
        """Verify the message with the resolved keys and return the response and the session keys.

        `ssrcs` by CS ID: those of the own streams (needed where the initiator left Session Data out). `chosen` by CS
        ID: the policy number to use, else the best one. `policies` are new SPs, `sessions` further crypto sessions,
        complete, `keys` session keys of the responder (M=1).
        Raises AuthenticationFailure, Replayed and other MikeyErrors: no key is left usable then.
        """
        known = self._verify(resolution, now)
        policy = self.ticket.policy
        flags = {flag: has(policy, flag) for flag in TicketFlag}
        if keys and not flags[TicketFlag.M]:
            raise InvalidTicketPolicy("KEMAC", "the responder may not supply keys with this ticket")
        if not flags[TicketFlag.F] and (keys or policies or sessions or extensions):
            raise InvalidTicketPolicy("F", "no response goes with this ticket, nothing can be supplied")
        split_keys(keys, 0)
        in_force = (*known, *keys)
        check_spis(in_force)
        longest = max((len(key.key) for key in (resolution.mpki, *in_force)), default=0)
        rand_r = b""
        if flags[TicketFlag.G]:
            rand_r = self._entropy(max(self._profile.transfer_rand_octets, longest - len(self._rand_i)))
        check_rand(len(self._rand_i) + len(rand_r), resolution.mpki.key, *(key.key for key in in_force))
        response_key = resolution.mpki if resolution.forked_mpkr is None else resolution.forked_mpkr
        protection = self._keys(response_key, Phase.RESPONSE, rand_r) if flags[TicketFlag.F] else self._initial
        all_policies = policies_of(policies, self._policies)
        agreed = (
            (*answer(self.sessions, all_policies, self._acceptable, in_force, ssrcs=ssrcs, chosen=chosen), *sessions)
            if flags[TicketFlag.F]
            else self.sessions
        )
        moment = timestamp(self._profile, now)
        association = Association(
            self._profile,
            IdRole.RESPONDER,
            self.csb_id,
            self._suite,
            policy,
            protection,
            self._initiator,
            resolution.responder or self._called,
            (self._rand_i if flags[TicketFlag.H] else b"", rand_r),
            in_force,
            agreed,
            all_policies,
            self._acceptable,
            t64(moment) if flags[TicketFlag.F] else iv_time(self._message),
        )
        response: bytes | None = None
        if flags[TicketFlag.F]:
            head: list[Payload] = [moment]
            if rand_r:
                head.append(RandRoled(RandRole.RESPONDER, rand_r))
            if resolution.responder is not None:
                head.append(resolution.responder.payload(IdRole.RESPONDER))
            if resolution.rand_kms:
                head.append(RandRoled(RandRole.KMS, resolution.rand_kms))
            response = self._respond(head, policies, keys, extensions, agreed, protection)
        return Accepted(association.keys, self._initiator, association.responder, association, response)

    def _respond(
        self,
        head: Sequence[Payload],
        policies: Sequence[SecurityPolicy],
        keys: Sequence[KeyData],
        extensions: Sequence[GeneralExtension],
        agreed: tuple[CryptoSession, ...],
        protection: MessageKeys,
    ) -> bytes:
        prf, version = self._message.header.prf, self._message.header.version
        header = Header(
            DataType.TRANSFER_RESP,
            self.csb_id,
            prf,
            map_type=CsIdMapType.GENERIC_ID,
            sessions=agreed,
            version=version,
        )
        payloads: list[Payload] = [*head, *policies]
        if keys:
            moment = t64(one(head, Timestamp, "T"))
            payloads.append(cipher.seal_kemac(self._suite.encr_alg, protection, self.csb_id, moment, keys))
        return protect(header, (*payloads, *extensions), self._suite, protection.auth, self._octets)

    def _verify(self, resolution: Resolution, now: float) -> tuple[KeyData, ...]:
        """Return the session keys of the bundle when the message is the initiator's and new (RFC 6043 4.2.3.6).

        The MAC covers the responder that was called, even where the response names another (RFC 6043 5.5).
        """
        policy, message = self.ticket.policy, self._message
        forking = has(policy, TicketFlag.I)
        if forking is not (resolution.forked_mpkr is not None):
            raise MalformedMessage("resolution", "forked keys go with the I flag")
        initial = self._keys(resolution.mpki, Phase.INITIAL, b"")
        covered = codec.without_initiator_data(message)
        suffix = self._initiator.data + self._called.data
        mac = self._verification.mac
        cipher.verify_mac(self._suite.mac_alg, initial.auth, covered + suffix, mac)
        if forking:
            check_vi(self.ticket, self._verification)
        if self._replay is not None:
            self._replay.add(self._initiator.data, DataType.TRANSFER_INIT.name, self._once, self._sent, now)
        self._initial = self._auth = initial
        tgk = any(key.key_type.is_tgk for key in resolution.keys)
        check_granted(self._profile, policy, tgk_in_ticket=tgk)
        supplied = () if optional(message, Kemac, "KEMAC") is None else open_keys(message, initial)
        split_keys(supplied, 0)
        keys = (*resolution.keys, *supplied)
        check_spis(keys)
        check_strength(self._suite, keys)
        return keys

    def _keys(self, key: KeyData, phase: Phase, rand_r: bytes) -> MessageKeys:
        prf = self._message.header.prf
        return message_keys(prf, key.key, phase, self.csb_id, self._rand_i, rand_r, self._suite)

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the Error message for `error` (authenticated once the message verified), None to stay silent."""
        auth = None if self._auth is None else (self._suite, self._auth.auth)
        listed = tuple(
            srtp_policy(name, number) for number, name in enumerate(self._acceptable.suites) if name in DEFAULT_SUITES
        )
        return error_message(self._octets, error, self._profile, now, auth=auth, policies=listed)


def reject(octets: bytes, error: MikeyError, now: float, *, profile: Profile = DEFAULT_PROFILE) -> bytes | None:
    """Return the unauthenticated Error message for a TRANSFER_INIT that could not be taken in, None to stay silent."""
    return error_message(octets, error, profile, now)
