"""MIKEY-TICKET in the offers and answers of one call (TS 33.328 7.2.3, 7.3.3, 7.4; RFC 4567; RFC 6043 4.2.2, 5.2).

Octets and a clock in, lines of SDP and keys out. Tickets are fetched and resolved beforehand by ``key_management``, so
that making and taking an offer or answer never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keying.mikey.codec import decode
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity
from keying.mikey.kdf import SUITES
from keying.mikey.origin import sdp_ids
from keying.mikey.payloads import CryptoSession, GeneralExtension, KeyData, TicketPayload, TicketPolicy
from keying.mikey.policy import has, rekey_interval
from keying.mikey.profile import Profile
from keying.mikey.registry import DataType, KeyDataType, ProtType, TicketFlag
from keying.mikey.resolve import Resolution
from keying.mikey.sessions import SessionKeys, srtp_policy, srtp_session
from keying.mikey.ticket import Ticket
from keying.mikey.transfer import Established, TransferInitiator, TransferResponder
from keying.mikey.update import UpdateReceived, UpdateStarted
from keying.secret import Secret
from nodes.ue import mikey_tamper
from nodes.ue.media_security import TOKEN_MIKEY, MediaSecurityRefused, StreamKeys
from nodes.ue.mikey_bundle import (
    Bundle,
    Exchange,
    Level,
    Lines,
    all_forked,
    cs_pair,
    own_ssrcs,
    refused,
    swapped_lines,
    usable_suites,
)
from signalling.sdp import SdpError, SessionDescription
from signalling.sdp.keymgmt import MIKEY, SESSION, identifiers, messages


@dataclass(frozen=True)
class Incoming:
    """The messages of a received offer: read, allowed and resolved, but nothing of them in force yet."""

    transfers: Mapping[Level, tuple[TransferResponder, Resolution]] = field(default_factory=dict)
    updates: Mapping[Level, UpdateReceived] = field(default_factory=dict)

    def sessions(self, level: Level) -> tuple[CryptoSession, ...]:
        """Return the crypto sessions that the message of a level offers."""
        if level in self.transfers:
            return self.transfers[level][0].sessions
        return self.updates[level].sessions if level in self.updates else ()

    def serves(self, sdp: SessionDescription, index: int) -> bool:
        """Tell whether an m-line has both its crypto sessions."""
        level = index if sdp.media[index].key_mgmt else SESSION
        present = {session.cs_id for session in self.sessions(level) if session.prot_type == ProtType.SRTP}
        return present.issuperset(cs_pair(level, index))


@dataclass(frozen=True)
class Plan:
    """What the next own offer begins a bundle with."""

    ticket: Ticket
    own: Identity
    peer: Identity
    tamper: str = ""
    replayed: bytes = b""
    """The message to send again in its place, for a negative test."""


@dataclass
class _Open:
    """An own message that waits for its answer."""

    level: Level
    indices: frozenset[int]
    transfer: TransferInitiator | None = None
    update: UpdateStarted | None = None
    policy: TicketPolicy | None = None
    new_key: bool = False

    @property
    def changes_keys(self) -> bool:
        """True for a new bundle, and for an update with new keys."""
        return self.transfer is not None or self.new_key


Judge = Callable[[Established, TicketPolicy], None]
"""Raises MediaSecurityRefused when the identity a bundle was established with is not acceptable."""
Watcher = Callable[[str, bytes], None]
"""Gets every message with ``sent`` or ``received``."""


class MikeyMedia:
    """The bundles of one call. `now` gives Unix seconds; `judge_responder` says whom an own bundle may reach."""

    def __init__(self, profile: Profile, suites: Sequence[str], now: Callable[[], float]) -> None:
        self.profile = profile
        self.suites = usable_suites(suites, profile)
        self.left_out = tuple(name for name in suites if name not in self.suites)
        """Suites that the profile can make no keys for."""
        self.now = now
        self.bundles: dict[Level, Bundle] = {}
        self.plan: Plan | None = None
        self.exchange = Exchange()
        self.peer: Identity | None = None
        """Who is at the other end, by the ticket; once known it stays the same for the call."""
        self.tamper_answer = ""
        self.judge_responder: Judge = lambda _, __: None
        self.judge_initiator: Judge = lambda _, __: None
        self.judge_shared: Callable[[TicketPolicy], None] = lambda _: None
        """Asked about a ticket whose keys in use are the same for all of its responders."""
        self.on_message: Watcher = lambda _, __: None
        self._open: list[_Open] = []
        self._first: list[_Open] = []
        self._answers: set[bytes] = set()
        """Every TRANSFER_RESP that a ticket of this side brought."""

    @property
    def established(self) -> bool:
        """True once a bundle has keys."""
        return bool(self.bundles)

    @property
    def rekeying(self) -> bool:
        """True while an own offer is out that would change keys in force: when it is refused, the call ends."""
        return self.established and any(waiting.changes_keys for waiting in self._open)

    @property
    def rekey_interval(self) -> int | None:
        """Longest time under one key, s, of the bundles this side began (TRr); the other side sees to its own."""
        own = [rekey_interval(bundle.policy) for bundle in self.bundles.values() if bundle.began]
        return min((interval for interval in own if interval), default=None)

    @property
    def can_rekey(self) -> bool:
        """True when an update of this side may bring new keys; else re-keying takes another ticket."""
        return self.established and all(bundle.may_bring_keys for bundle in self.bundles.values())

    # own offers

    def offer(self, sdp: SessionDescription, lines: Lines, *, rekey: bool = False) -> None:
        """Write the key management of an own offer: a new bundle when one is planned, else an update of each in force.

        An update without new keys authenticates the offer, and its crypto sessions are those of the streams now
        (RFC 6043 5.2). Raises MediaSecurityRefused.
        """
        self._open = []
        try:
            if self.plan is not None:
                self._begin(self.plan, sdp, lines)
            else:
                self._update(sdp, lines, rekey=rekey)
        except MikeyError as error:
            raise refused(error) from None

    def _extensions(self, sdp: SessionDescription, count: int, tamper: str = "") -> tuple[GeneralExtension, ...]:
        """Return the authenticated list of protocols of an offer that will have `count` messages (RFC 4567 4.1.4)."""
        if not self.profile.send_sdp_ids:
            return ()
        names = [*identifiers(sdp), *[MIKEY] * count, *mikey_tamper.further_protocols(tamper)]
        return (sdp_ids(names),)

    def _begin(self, plan: Plan, sdp: SessionDescription, lines: Lines) -> None:
        numbers = tuple(range(len(self.suites)))
        spi = next((key.spi for key in plan.ticket.keys if key.spi), b"")
        sessions = []
        for index, ssrc in lines.items():
            own, peer = cs_pair(SESSION, index)
            sessions += [srtp_session(own, numbers, ssrc, spi), srtp_session(peer, numbers, None, spi)]
        ticket = plan.ticket
        transfer = TransferInitiator(
            self.profile,
            ticket,
            own=plan.own,
            peer=plan.peer,
            sessions=sessions,
            policies=[srtp_policy(suite, number) for number, suite in enumerate(self.suites)],
            extensions=self._extensions(sdp, 1, plan.tamper),
            suites=self.suites,
            now=mikey_tamper.sending_time(self.now(), plan.tamper),
        )
        self._open = [_Open(SESSION, frozenset(lines), transfer=transfer, policy=ticket.policy)]
        self._first = list(self._open)
        message = mikey_tamper.spoil_carried_ticket(transfer.message, plan.tamper, self.now())
        self._place(sdp, SESSION, message, plan.tamper, plan.replayed)
        self.exchange.transfer_init = transfer.message

    def _place(
        self, sdp: SessionDescription, level: Level, message: bytes, tamper: str = "", replayed: bytes = b""
    ) -> None:
        self.on_message("sent", message)
        mikey_tamper.place_spoilt(sdp, level, replayed or message, tamper)

    def _update(self, sdp: SessionDescription, lines: Lines, *, rekey: bool) -> None:
        served: dict[Level, list[int]] = {}
        for index in lines:
            level = index if index in self.bundles else SESSION
            if level not in self.bundles:
                raise MediaSecurityRefused(TOKEN_MIKEY, f"no bundle for m-line {index + 1}")
            served.setdefault(level, []).append(index)
        extensions = self._extensions(sdp, len(served))
        for level, indices in served.items():
            bundle = self.bundles[level]
            keys = self._fresh_key(bundle) if rekey else ()
            sessions = self._sessions(bundle, {index: lines[index] for index in indices}, keys)
            update = bundle.association.start(self.now(), keys=keys, sessions=sessions, extensions=extensions)
            self._open.append(_Open(level, frozenset(indices), update=update, new_key=bool(keys)))
            self._place(sdp, level, update.message)

    def _fresh_key(self, bundle: Bundle) -> tuple[KeyData, ...]:
        if not bundle.may_bring_keys:
            raise MediaSecurityRefused(TOKEN_MIKEY, "the ticket lets this side bring no new keys")
        length = SUITES[self.profile.suite].key_bits // 8
        spi = Secret.random(self.profile.spi_octets).reveal()
        return (KeyData(KeyDataType.TGK, Secret.random(length), spi=spi),)

    def _sessions(self, bundle: Bundle, lines: Lines, keys: Sequence[KeyData]) -> list[CryptoSession]:
        """Return the crypto sessions of an update: those in force, and new ones under the policy of the first."""
        present = {session.cs_id: session for session in bundle.association.sessions}
        example = next(iter(present.values()))
        spi = keys[0].spi or b"" if keys else b""
        sessions: list[CryptoSession] = []
        for index, ssrc in lines.items():
            own, peer = bundle.own_and_peer(index)
            for cs_id, sender in sorted(((own, ssrc), (peer, None))):
                known = present.get(cs_id)
                if known is None:
                    sessions.append(srtp_session(cs_id, example.policies, sender, spi or example.spi))
                else:
                    sessions.append(
                        CryptoSession(
                            cs_id, known.prot_type, known.rollover, known.policies, known.session_data, spi or known.spi
                        )
                    )
        return sessions

    def withdraw(self) -> None:
        """Forget an own message whose offer was refused: what is in force stays."""
        self._open, self.plan = [], None

    def reopen(self) -> None:
        """Take the answer of another branch to the same first offer: it has keys of its own (RFC 6043 5.1.1)."""
        self._open, self.bundles, self.peer = list(self._first), {}, None

    def close(self) -> None:
        """Forget every key."""
        self._open, self._first, self.bundles, self.plan = [], [], {}, None

    # answers to own offers

    def take_answer(self, sdp: SessionDescription, active: Iterable[int]) -> dict[int, StreamKeys]:
        """Take the messages of an answer and return the keys of its `active` streams by index.

        Without any message the result is empty, and the streams are judged by what else they have. Raises
        MediaSecurityRefused: the negotiation has failed, for every stream (RFC 4567 4.1.2).
        """
        wanted = set(active)
        try:
            found = dict(messages(sdp))
            if not self._open:
                if found and wanted:
                    raise MediaSecurityRefused(TOKEN_MIKEY, "key management in the answer to an offer without")
                return {}
            keys = self._conclude(found, wanted)
        except (MikeyError, SdpError) as error:
            raise refused(error) from None
        self._open, self.plan = [], None
        return keys

    def _conclude(self, found: dict[Level, bytes], wanted: set[int]) -> dict[int, StreamKeys]:
        keys: dict[int, StreamKeys] = {}
        concluded: dict[Level, Bundle] = {}
        for waiting in self._open:
            lines = waiting.indices & wanted
            octets = found.pop(waiting.level, b"")
            if not lines:
                continue
            if octets:
                self.on_message("received", octets)
            bundle, session_keys = self._finish(waiting, octets)
            if bundle is None or session_keys is None:
                continue
            concluded[waiting.level] = bundle
            keys.update((index, bundle.keys_of(session_keys, index)) for index in lines)
        if found:
            raise MediaSecurityRefused(TOKEN_MIKEY, "key management at a level that was not offered")
        if any(waiting.transfer is not None for waiting in self._open) and concluded:
            self.bundles = {}
        self.bundles.update(concluded)
        return keys

    def _finish(self, waiting: _Open, octets: bytes) -> tuple[Bundle | None, SessionKeys | None]:
        now = self.now()
        if waiting.transfer is not None and waiting.policy is not None:
            if not octets and has(waiting.policy, TicketFlag.F):
                return None, None
            established = waiting.transfer.receive(octets, now) if octets else waiting.transfer.established()
            if octets and octets in self._answers:
                # its keys would begin again at ROC 0 with an empty replay list (RFC 3711 9.1)
                raise MediaSecurityRefused(TOKEN_MIKEY, "the answer of another branch comes again")
            self._answers.add(octets)
            self.exchange.transfer_resp = octets
            self.judge_responder(established, waiting.policy)
            return Bundle(waiting.level, established.association, waiting.policy, began=True), established.keys
        if waiting.update is None or not octets:
            raise MediaSecurityRefused(TOKEN_MIKEY, "an update was not answered")
        return self.bundles[waiting.level], waiting.update.receive(octets, now)

    # offers of the far end

    def read_update(self, level: Level, octets: bytes) -> UpdateReceived | None:
        """Read a message of an offer as an update of the bundle in force at its level; None: it begins a new one.

        Raises MikeyError.
        """
        message = decode(octets)
        bundle = self.bundles.get(level)
        begins = any(isinstance(payload, TicketPayload) for payload in message.payloads)
        if begins or message.header.data_type is not DataType.TRANSFER_INIT or bundle is None:
            return None
        return bundle.association.receive(octets, self.now())

    def accept(
        self,
        incoming: Incoming,
        sdp: SessionDescription,
        lines: Lines,
        judge: Callable[[Mapping[int, StreamKeys]], None],
    ) -> Answer:
        """Verify the messages of an offer and return what the answer carries.

        `judge` gets the keys of the accepted `lines` by index and raises MediaSecurityRefused when they will not do.
        Raises MediaSecurityRefused; the bundles in force stay as they were.
        """
        keys: dict[int, StreamKeys] = {}
        answer: dict[Level, bytes] = {}
        bundles: dict[Level, Bundle] = {}
        try:
            for level in (*incoming.transfers, *incoming.updates):
                bundle, session_keys, response = self._accept_level(level, incoming, lines)
                bundles[level] = bundle
                for index in lines:
                    if (index if sdp.media[index].key_mgmt else SESSION) == level:
                        keys[index] = bundle.keys_of(session_keys, index)
                if response is not None:
                    answer[level] = response
        except MikeyError as error:
            raise refused(error) from None
        judge(keys)
        for response in answer.values():
            self.on_message("sent", response)
        if incoming.transfers:
            self.bundles = {}
        self.bundles.update(bundles)
        return Answer(answer, self.tamper_answer, self.exchange.transfer_init)

    def _accept_level(self, level: Level, incoming: Incoming, lines: Lines) -> tuple[Bundle, SessionKeys, bytes | None]:
        now = self.now()
        if level in incoming.updates:
            if level not in self.bundles:
                raise MediaSecurityRefused(TOKEN_MIKEY, "the bundle ended meanwhile")
            bundle, update = self.bundles[level], incoming.updates[level]
            ssrcs = own_ssrcs(bundle, update.sessions, lines)
            response, session_keys = update.accept(now, ssrcs=ssrcs)
            return bundle, session_keys, response
        responder, resolution = incoming.transfers[level]
        policy = responder.ticket.policy
        swapped = swapped_lines(level, responder.sessions)
        # the association exists only once the message is accepted; a bundle without it tells the crypto sessions
        ssrcs = {session.cs_id: 0 for session in responder.sessions if not session.session_data}
        for index, ssrc in lines.items():
            if level in {SESSION, index}:
                first, second = cs_pair(level, index)
                ssrcs[first if index in swapped else second] = ssrc
        accepted = responder.accept(resolution, now, ssrcs=ssrcs)
        self.judge_initiator(accepted, policy)
        if not all_forked(resolution.keys, accepted.association.sessions):
            self.judge_shared(policy)
        self.peer = accepted.initiator
        if accepted.response is not None:
            self.exchange.transfer_resp = accepted.response
        bundle = Bundle(level, accepted.association, policy, began=False, swapped=swapped)
        return bundle, accepted.keys, accepted.response


@dataclass(frozen=True)
class Answer:
    """The messages of an own answer by level."""

    responses: Mapping[Level, bytes]
    tamper: str = ""
    offered: bytes = b""

    def write(self, sdp: SessionDescription) -> None:
        """Put them into the answer."""
        for level, response in self.responses.items():
            mikey_tamper.place_spoilt(sdp, level, response, self.tamper, self.offered)
