"""Ticket Transfer of the initiator: TRANSFER_INIT out, a TRANSFER_RESP of each answering branch in (RFC 6043 4.2.2).

The responder's side is in ``accept``; its names can be imported from here too, so that an application needs one module
for the exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from secrets import token_bytes

from keying.mikey import cipher, codec
from keying.mikey.accept import Accepted, Established, TransferResponder, reject
from keying.mikey.csmap import Acceptable, check_answer, check_one_way, policies_in, policies_of, sessions_of
from keying.mikey.errors import InvalidIdentity, InvalidTicketPolicy, MalformedMessage
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import MessageKeys, Phase, message_keys, suite_of
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    CryptoSession,
    GeneralExtension,
    Header,
    Kemac,
    KeyData,
    Message,
    Payload,
    RandRoled,
    SecurityPolicy,
    Verification,
)
from keying.mikey.policy import check_kind, check_valid, has
from keying.mikey.profile import Profile
from keying.mikey.protection import (
    Entropy,
    check_rand,
    check_response,
    check_spis,
    check_strength,
    check_time,
    csb_id,
    iv_time,
    needed_rand,
    open_keys,
    optional,
    raise_error,
    rand_of,
    read,
    split_keys,
    timestamp,
    verify,
)
from keying.mikey.registry import CsIdMapType, DataType, IdRole, RandRole, TicketFlag
from keying.mikey.resolve import fork_keys
from keying.mikey.ticket import Ticket, build_initiator_data
from keying.mikey.update import Association

__all__ = ["Accepted", "Established", "TransferInitiator", "TransferResponder", "reject"]


@dataclass(frozen=True, slots=True, repr=False)
class _Fork:
    """What one branch that answers has of its own: its keys, RANDRr and name."""

    protection: MessageKeys
    keys: tuple[KeyData, ...]
    rand_r: bytes
    responder: Identity


class TransferInitiator:
    """The initiator's side of one Ticket Transfer; `message` is to be sent as it stands.

    `sessions` are GENERIC-ID entries (:func:`keying.mikey.sessions.srtp_session`), `policies` the SPs they name, `keys`
    session keys of the initiator (L=1). `suites` and `prot_types` are what a responder may choose beside what is
    offered. Whether a ticket without J was used before is for the holder of the ticket to know. `rand` is RANDRi for a
    group key alone, which takes the same one in every transfer (RFC 6043 9); it is drawn otherwise.
    """

    def __init__(
        self,
        profile: Profile,
        ticket: Ticket,
        *,
        own: Identity,
        peer: Identity,
        sessions: Sequence[CryptoSession],
        policies: Sequence[SecurityPolicy] = (),
        extensions: Sequence[GeneralExtension] = (),
        keys: Sequence[KeyData] = (),
        suites: Sequence[str] = (),
        prot_types: Sequence[int] = (),
        rand: bytes | None = None,
        now: float,
        entropy: Entropy = token_bytes,
    ) -> None:
        policy = ticket.policy
        check_kind(profile, policy, TicketFlag.N)
        check_valid(policy, now)
        if ticket.initiator is not None and not ticket.initiator.same(own):
            raise InvalidIdentity("IDRi", "the ticket is another's")
        self._profile, self._ticket, self._own, self._peer = profile, ticket, own, peer
        self._acceptable = Acceptable(suites, prot_types)
        self._suite = suite_of(policy.prf)
        self._policies = policies_of(policies)
        self._sessions = tuple(sessions)
        self._own_keys = tuple(keys)
        self._check_keys()
        self.csb_id = csb_id(entropy)
        longest = max(len(key.key) for key in (ticket.mpki, *ticket.keys, *keys))
        self._rand_i = entropy(max(profile.transfer_rand_octets, longest)) if rand is None else rand
        check_rand(len(self._rand_i), ticket.mpki.key)
        self._initial = self._message_keys(ticket.mpki, Phase.INITIAL, b"")
        self._header = Header(
            DataType.TRANSFER_INIT,
            self.csb_id,
            policy.prf,
            has(policy, TicketFlag.F),
            CsIdMapType.GENERIC_ID,
            self._sessions,
        )
        sessions_of(self._header)
        self._time = timestamp(profile, now)
        self.message = self._write(policies, extensions)
        if not has(policy, TicketFlag.F):
            check_one_way(self._sessions)
            self.established()

    def _check_keys(self) -> None:
        if self._own_keys and not has(self._ticket.policy, TicketFlag.L):
            raise InvalidTicketPolicy("KEMAC", "the initiator may not supply keys with this ticket")
        split_keys(self._own_keys, 0)
        check_spis((*self._ticket.keys, *self._own_keys))
        check_strength(self._suite, self._own_keys)

    def _write(self, policies: Sequence[SecurityPolicy], extensions: Sequence[GeneralExtension]) -> bytes:
        suite, ticket = self._suite, self._ticket
        before: tuple[Payload, ...] = (
            self._time,
            RandRoled(RandRole.INITIATOR, self._rand_i),
            self._own.payload(IdRole.INITIATOR),
            self._peer.payload(IdRole.RESPONDER),
            *policies,
        )
        after: list[Payload] = []
        if self._own_keys:
            moment = t64(self._time)
            after.append(cipher.seal_kemac(suite.encr_alg, self._initial, self.csb_id, moment, self._own_keys))
        after.extend(extensions)
        blank = Verification(suite.mac_alg, bytes(suite.mac_alg.length))
        bare = codec.encode(Message(self._header, (*before, ticket.payload, *after, blank)))
        # Initiator Data holds the MAC of this very message, so the MAC is over a message without it (table 5.2).
        covered = codec.without_initiator_data(bare) + self._own.data + self._peer.data
        verification = replace(blank, mac=cipher.mac(suite.mac_alg, self._initial.auth, covered))
        payload = ticket.payload
        if ticket.forking:
            payload = replace(payload, initiator_data=build_initiator_data(ticket, verification))
        return codec.encode(Message(self._header, (*before, payload, *after, verification)))

    def _message_keys(self, key: KeyData, phase: Phase, rand_r: bytes) -> MessageKeys:
        return message_keys(self._ticket.policy.prf, key.key, phase, self.csb_id, self._rand_i, rand_r, self._suite)

    def receive(self, octets: bytes, now: float) -> Established:
        """Return what a TRANSFER_RESP establishes; callable once for each branch that answers.

        Raises PeerError for an Error message, AuthenticationFailure and other MikeyErrors; other forks stay usable.
        """
        raise_error(octets, self._header, (self._suite, self._initial.auth))
        policy = self._ticket.policy
        if not has(policy, TicketFlag.F):
            raise InvalidTicketPolicy("F", "no response goes with this ticket")
        message = read(octets, DataType.TRANSFER_RESP)
        check_response(message, self._header)
        check_time(self._profile, message, now)
        fork = self._fork(message)
        verify(message, self._suite, fork.protection.auth, self.message)
        keys = fork.keys
        if optional(message, Kemac, "KEMAC") is not None:
            if not has(policy, TicketFlag.M):
                raise InvalidTicketPolicy("KEMAC", "the responder may not supply keys with this ticket")
            supplied = open_keys(message, fork.protection)
            split_keys(supplied, 0)
            check_spis((*keys, *supplied))
            keys = (*keys, *supplied)
        check_rand(len(self._rand_i) + len(fork.rand_r), *(key.key for key in keys))
        policies = policies_in(message, self._policies)
        sessions = sessions_of(message.header)
        check_answer(self._sessions, sessions, policies, self._acceptable)
        return self._establish(fork, keys, sessions, policies, iv_time(message))

    def _fork(self, message: Message) -> _Fork:
        """Return the keys of the branch that sent a response, from the modifier it names (RFC 6043 5.1.1)."""
        policy, ticket = self._ticket.policy, self._ticket
        rand_r = b""
        if has(policy, TicketFlag.G):
            rand_r = needed_rand(self._profile, message, RandRole.RESPONDER)
        elif rand_of(message, RandRole.RESPONDER) is not None:
            raise MalformedMessage("RANDR RESPONDER", "does not go with this ticket")
        responder = identity(message.payloads, IdRole.RESPONDER)
        own = (*ticket.keys, *self._own_keys)
        if ticket.mpkr is None:
            protection = self._message_keys(ticket.mpki, Phase.RESPONSE, rand_r)
            return _Fork(protection, own, rand_r, responder or self._peer)
        rand_kms = rand_of(message, RandRole.KMS)
        if responder is None or not rand_kms:
            raise MalformedMessage("TRANSFER_RESP", "IDRr and RANDRkms are missing though keys are forked")
        forked_mpkr, keys = fork_keys(policy, ticket.mpkr.key, ticket.keys, responder, rand_kms)
        protection = self._message_keys(replace(ticket.mpkr, key=forked_mpkr), Phase.RESPONSE, rand_r)
        return _Fork(protection, (*keys, *self._own_keys), rand_r, responder)

    def established(self) -> Established:
        """Return the keys of a transfer without response (F=0). Raises InvalidTicketPolicy with F=1."""
        if has(self._ticket.policy, TicketFlag.F):
            raise InvalidTicketPolicy("F", "a response is due")
        fork = _Fork(self._initial, (*self._ticket.keys, *self._own_keys), b"", self._peer)
        return self._establish(fork, fork.keys, self._sessions, self._policies, t64(self._time))

    def _establish(
        self,
        fork: _Fork,
        keys: tuple[KeyData, ...],
        sessions: tuple[CryptoSession, ...],
        policies: dict[int, SecurityPolicy],
        last_time: bytes,
    ) -> Established:
        association = Association(
            self._profile,
            IdRole.INITIATOR,
            self.csb_id,
            self._suite,
            self._ticket.policy,
            fork.protection,
            self._own,
            fork.responder,
            (self._rand_i if has(self._ticket.policy, TicketFlag.H) else b"", fork.rand_r),
            keys,
            sessions,
            policies,
            self._acceptable,
            last_time,
        )
        return Established(association.keys, self._own, fork.responder, association)
