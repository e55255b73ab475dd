"""Keys from the KMS for a UE's calls: tickets before offers, resolutions before answers (TS 33.328 7.2.3, 7.3.3).

Whatever has to wait for the KMS waits here, before ``mikey_media`` makes or takes an offer or answer. A received
message is checked as far as can be without a key before any KMS is asked (RFC 6043 4.2.2.2).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from keying.mikey.codec import encode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity, normalise
from keying.mikey.kdf import SUITES
from keying.mikey.payloads import TicketPayload
from keying.mikey.policy import Wish, has, kms_of, responders_of
from keying.mikey.profile import Profile
from keying.mikey.registry import TicketFlag
from keying.mikey.replay import ReplayCache
from keying.mikey.resolve import Resolution
from keying.mikey.ticket import create_ticket, mode3_ticket_key
from keying.mikey.transfer import TransferResponder
from nodes.ue.config import KmsPolicy
from nodes.ue.kms_client import KmsClient, KmsError, KmsUnreachable
from nodes.ue.kms_policy import groups_of, identity_of, judge_ticket, own_responder, responders_for, wish_for
from nodes.ue.media_security import (
    TOKEN_KMS_REFUSED,
    TOKEN_KMS_UNREACHABLE,
    TOKEN_MIKEY,
    MediaSecurityRefused,
    SecurityContext,
)
from nodes.ue.mikey_bundle import Level, check_identifiers, refused, too_strong
from nodes.ue.mikey_media import Incoming, MikeyMedia, Plan
from nodes.ue.ticket_store import HeldTicket, TicketStore
from sba.telemetry import trace_id_of
from signalling.sdp import SdpError, SessionDescription, parse_sdp
from signalling.sdp.keymgmt import MIKEY, identifiers, messages

MAX_MESSAGES = 4
"""Tickets that are resolved for one offer."""
CALLERS = 4
"""Callers at least who can have the KMS asked at the same time."""
RESOLUTIONS_KEPT = 256
"""Resolved tickets of others that are kept for calls to come; the oldest goes first."""


def kms_decision(error: KmsError) -> MediaSecurityRefused:
    """Return the decision that a KMS without answer or with a refusal leads to (7.3.3-1)."""
    token = TOKEN_KMS_UNREACHABLE if isinstance(error, KmsUnreachable) else TOKEN_KMS_REFUSED
    return MediaSecurityRefused(token, error.reason)


class KeyManagement:
    """The key management of one UE. `key_export`: the lab lets keys leave a node; `now` gives Unix seconds."""

    def __init__(
        self,
        policy: KmsPolicy,
        client: KmsClient,
        store: TicketStore,
        profile: Profile,
        *,
        key_export: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self.client = client
        self.store = store
        self.profile = profile
        self.key_export = key_export
        self.now = now
        self.last_transfer = b""
        """The TRANSFER_INIT of the last own call that was answered, for the negative test ``replay``."""
        # a UE that was restarted does not know what it has seen: what was sent before its start is refused
        self._replay = ReplayCache(skew_s=profile.clock_skew_s, size=profile.replay_cache_size, reject_before=now())
        self._resolutions: OrderedDict[bytes, Resolution] = OrderedDict()
        self._gates: dict[tuple[Identity, ...], asyncio.Lock] = {}
        self._asking: Counter[str] = Counter()

    def media(self, suites: Sequence[str]) -> MikeyMedia:
        """Return the MIKEY side of a new call."""
        return MikeyMedia(self.profile, suites, self.now)

    # own offers

    async def prepare(
        self,
        media: MikeyMedia,
        *,
        own: str,
        peer: str,
        responders: Sequence[str] = (),
        ticket_id: str = "",
        fresh: bool = False,
        tamper: str = "",
    ) -> None:
        """Get a ticket for the next own offer of a call: one at hand, or a new one. Raises MediaSecurityRefused."""
        if not media.suites:
            raise too_strong(media.left_out, self.profile)
        initiator = Identity.uri(own)
        named = responders_for(self.policy, peer, responders)
        held = self.store.get(ticket_id) if ticket_id else None
        if ticket_id and (held is None or not held.usable(self.now())):
            raise MediaSecurityRefused(TOKEN_KMS_REFUSED, "no such ticket, or it cannot be used any more")
        if held is None:
            try:
                held = await self._at_hand_or_new(initiator, named, fresh=fresh)
            except KmsError as error:
                raise kms_decision(error) from None
            except MikeyError as error:
                raise refused(error) from None
        self.store.take(held)
        await self.store.keep(held)
        exchange = media.exchange
        exchange.ticket, exchange.issuer = held.octets, held.kms
        exchange.request_init, exchange.request_resp, exchange.psk = held.request_init, held.request_resp, held.psk
        replayed = self.last_transfer if tamper == "replay" else b""
        media.plan = Plan(held.ticket, initiator, identity_of(peer), tamper, replayed)

    async def _at_hand_or_new(self, initiator: Identity, named: tuple[Identity, ...], *, fresh: bool) -> HeldTicket:
        """Return a ticket for a call. Calls that can share one do not all ask for it at the same time."""
        gate = self._gates.setdefault(named, asyncio.Lock()) if self.policy.reusable else asyncio.Lock()
        try:
            async with gate:
                held = None
                if not fresh:
                    held = self.store.find(named, initiator, self.now(), forking=self.policy.forking)
                if held is None:
                    wish = wish_for(self.policy, named, made_here=self.policy.mode_3)
                    held = await self.obtain(initiator, wish, mode_3=self.policy.mode_3)
                return held
        finally:
            if not gate.locked():
                self._gates.pop(named, None)

    async def obtain(
        self,
        initiator: Identity,
        wish: Wish,
        *,
        mode_3: bool = False,
        tamper: str = "",
    ) -> HeldTicket:
        """Get a new ticket: of the KMS, or with `mode_3` made here.

        Raises KmsError, and MikeyError for a wish that contradicts itself.
        """
        client = self.client
        if mode_3:
            credential = await client.credential()
            length = SUITES[self.profile.suite].key_bits // 8
            tpk = mode3_ticket_key(credential.identity, credential.key, client.identity, length, (initiator,))
            ticket = create_ticket(self.profile, wish, initiator, client.identity, tpk, self.now())
            held, psk = HeldTicket(ticket, client.identity.text), credential.key
        else:
            ticket, asked = await client.request(initiator, wish, tamper)
            kms, psk = kms_of(ticket.policy) or client.identity, asked.psk
            held = HeldTicket(ticket, kms.text, request_init=asked.request, request_resp=asked.response)
        held.trace_id = trace_id_of()
        if self.key_export:
            held.psk = psk
        await self.store.add(held, self.now())
        return held

    # offers of the far end

    def _looks_at(self, sdp: SessionDescription, media: MikeyMedia, context: SecurityContext) -> bool:
        """Tell whether the MIKEY messages of an offer are processed at all (7.2.3-4, 6.2.3.3)."""
        if MIKEY not in identifiers(sdp) or context.kms == "off" or context.level == "off":
            return False
        has_keys = all(line.crypto for line in sdp.media if line.port != 0)
        return media.established or self.policy.use_offered or context.kms == "required" or not has_keys

    async def receive(
        self,
        media: MikeyMedia,
        body: bytes,
        context: SecurityContext,
        *,
        own: Sequence[str],
        judge: Callable[[Identity], None],
    ) -> Incoming | None:
        """Read, check and resolve the messages of a received offer; None when it has none that this UE processes.

        `judge` raises MediaSecurityRefused for an initiator that may not be; it is asked before the KMS is. Raises
        MediaSecurityRefused: the whole offer fails (RFC 4567 4.1.2).
        """
        try:
            sdp = parse_sdp(body)
        except SdpError:
            return None  # the answer will say so
        if not self._looks_at(sdp, media, context):
            return None
        mine = tuple(Identity.uri(uri) for uri in own)
        waiting: dict[Level, TransferResponder] = {}
        updates = {}
        try:
            for level, octets in messages(sdp).items():
                media.on_message("received", octets)
                update = media.read_update(level, octets)
                if update is not None:
                    check_identifiers(sdp, level, update.extensions)
                    updates[level] = update
                    continue
                if len(waiting) == MAX_MESSAGES:
                    raise MediaSecurityRefused(TOKEN_MIKEY, f"more than {MAX_MESSAGES} tickets in one offer")
                waiting[level] = responder = self._responder(media, octets, mine)
                check_identifiers(sdp, level, responder.extensions)
                judge_ticket(self.policy, responder.ticket.policy, mine)
                judge(responder.initiator)
        except (MikeyError, SdpError) as error:
            raise refused(error) from None
        transfers = {
            level: (responder, await self._resolution(media, responder, mine)) for level, responder in waiting.items()
        }
        return Incoming(transfers, updates)

    @contextmanager
    def asking_for(self, caller: str) -> Iterator[None]:
        """Count a question to the KMS that a `caller` of this UE causes; one caller leaves room for others.

        Raises MediaSecurityRefused when there are too many at the same time.
        """
        most = self.policy.resolving_at_once
        name = normalise(caller)
        if self._asking.total() >= most or self._asking[name] >= max(1, most // CALLERS):
            raise MediaSecurityRefused(TOKEN_KMS_UNREACHABLE, "too many tickets are being resolved")
        self._asking[name] += 1
        try:
            yield
        finally:
            self._asking[name] -= 1
            if not self._asking[name]:
                del self._asking[name]

    def _responder(self, media: MikeyMedia, octets: bytes, own: Sequence[Identity]) -> TransferResponder:
        media.exchange.transfer_init = octets
        return TransferResponder(
            self.profile,
            octets,
            own=own,
            now=self.now(),
            suites=media.suites,
            groups=groups_of(self.policy, own),
            replay=self._replay,
        )

    async def _resolution(self, media: MikeyMedia, responder: TransferResponder, own: Sequence[Identity]) -> Resolution:
        ticket, exchange = responder.ticket, media.exchange
        kms = kms_of(ticket.policy)
        exchange.ticket, exchange.issuer = encode_ticket(ticket), kms.text if kms is not None else ""
        name = _cache_name(ticket, own)
        known = self._resolutions.get(name) if name else None
        if known is not None:
            return known
        mine = own_responder(ticket.policy, own, groups_of(self.policy, own))
        with self.asking_for(responder.initiator.text):
            try:
                resolution, asked = await self.client.resolve(ticket, mine)
            except KmsError as error:
                raise kms_decision(error) from None
            except MikeyError as error:
                raise refused(error) from None
        exchange.resolve_init, exchange.resolve_resp = asked.request, asked.response
        if self.key_export:
            exchange.psk = asked.psk
        if name:
            self._resolutions[name] = resolution
            while len(self._resolutions) > RESOLUTIONS_KEPT:
                self._resolutions.popitem(last=False)
        return resolution


def _cache_name(ticket: TicketPayload, own: Sequence[Identity]) -> bytes:
    """Return the name under which a resolution serves further calls, empty when it may not (RFC 6043 5.3).

    Only for reusable tickets for this user alone: another responder of the same ticket knows MPKi too, and it is the
    KMS alone that can tell with Vr who made a message. The name covers the ticket without its Initiator Data.
    """
    named = responders_of(ticket.policy)
    if not has(ticket.policy, TicketFlag.J) or len(named) != 1 or not any(named[0].same(one) for one in own):
        return b""
    return hashlib.sha256(encode_ticket(dataclasses.replace(ticket, initiator_data=b""))).digest()


__all__ = ["KeyManagement", "kms_decision"]
