"""Offers and answers of a call: streams, keys and versions of the own description (RFC 3264, RFC 4568 5, 7)."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from keying.sdes import KeyChange, keys_in
from keying.secret import Secret
from nodes.ue.media_security import (
    KMS,
    TOKEN_DOWNGRADE,
    TOKEN_PROFILE,
    MediaSecurityRefused,
    OfferJudgement,
    SecurityContext,
    StreamKeys,
    answer_keys,
    judge_answer,
    judge_offer,
    lines_of_mode,
    secure_offer,
    spoil_answer,
    spoil_offer,
)
from nodes.ue.mikey_media import Answer, Incoming, MikeyMedia
from nodes.ue.offers import Accepted, OfferRefused, read_body
from nodes.ue.sealed_keys import Seal, SealedKeys
from nodes.ue.stream import ChosenCodec, Stream, answered_direction, choose_codec
from signalling.sdp import (
    Connection,
    MediaDescription,
    Origin,
    SdpError,
    SessionDescription,
    check_answer_shape,
)

MAX_STREAMS = 8
"""Streams that are accepted at most: each has ports of its own and sends by itself wherever the offer says."""
StreamOpener = Callable[[int], Stream]
"""Makes the stream of a place in SDP."""


def _silent_on_keys(known: Stream, offer: SessionDescription, media: MediaDescription) -> bool:
    """Tell whether a later offer leaves keys of the KMS as they are, by saying nothing of keys (RFC 4567 4.1.2)."""
    says_nothing = not media.crypto and not offer.key_mgmt_of(media) and media.get("3ge2ae") is None
    return known.keys.from_kms and says_nothing and media.is_secure_rtp and not known.peer_moves(offer, media)


class SessionMedia:
    """The media side of one call. `opener` makes streams; `context` says what security is wanted and possible."""

    def __init__(
        self, ip: str, context: SecurityContext, opener: StreamOpener, sealed: SealedKeys | None = None
    ) -> None:
        self.ip = ip
        self.sealed = sealed or SealedKeys()
        """Modes of packages that this user has."""
        self.context = context
        self.streams: list[Stream] = []
        self.local: SessionDescription | None = None
        self.remote: SessionDescription | None = None
        self.mikey: MikeyMedia | None = None
        """Where keys of mode e2e-kms come from; its tickets are fetched and resolved before it is asked."""
        self.wanted = "none"
        """The mode that was asked for or offered first, which is what a refusal refuses."""
        self.tamper_answer = ""
        self.ignore_failure = False
        self._opener = opener
        self._origin = Origin("-", str(secrets.randbits(62)), 0, ip, addrtype="IP6" if ":" in ip else "IP4")
        self._draft: SessionDescription | None = None
        self._manage: Callable[[SessionDescription], None] | None = None
        """Writes the key management of the own offer in progress."""

    @property
    def security(self) -> str:
        """The mode agreed, that of the first stream; e2e-kms only where it is that of all. It outlasts the call."""
        agreed = [stream for stream in self.streams if stream.remote is not None]
        modes = [stream.keys.security for stream in agreed if not stream.ended]
        modes = modes or [stream.keys.security for stream in agreed] or ["none"]
        return next((mode for mode in modes if mode != KMS), KMS) if modes[0] == KMS else modes[0]

    @property
    def established(self) -> bool:
        """True once an exchange is complete."""
        return self.remote is not None

    def _describe(
        self, media: Sequence[MediaDescription], manage: Callable[[SessionDescription], None] | None = None
    ) -> SessionDescription:
        """Return the own description with the next version when anything changed (RFC 3264 8).

        `manage` writes the key management into it.
        """
        draft = SessionDescription.build(self._origin, Connection.for_address(self.ip), media)
        if manage is not None:
            manage(draft)
        if self.local is None or draft.to_bytes() != self.local.to_bytes():
            self._origin = dataclasses.replace(self._origin, version=self._origin.version + 1)
            draft.origin = self._origin
        return draft

    # own offers

    def first_offer(self, mode: str, *, shape: str = "savp", tamper: str = "") -> bytes:
        """Return the offer of a new call with one stream. Raises MediaSecurityRefused when MIKEY cannot be made."""
        self.wanted = mode
        stream = self._opener(0)
        self.streams.append(stream)
        self._secure(stream, mode)
        return self._send_offer(shape=shape, tamper=tamper)

    def _secure(self, stream: Stream, mode: str) -> None:
        stream.mode = mode
        stream.offered = stream.first_offered = lines_of_mode(mode, self.context)

    def next_offer(
        self,
        *,
        direction: str = "",
        rekey: int | None = None,
        move: int | None = None,
        add: bool = False,
        drop: int | None = None,
    ) -> bytes:
        """Return a later offer with the changes asked for; streams are named by their index.

        Keys of the KMS change for all streams of the call at once. Raises OfferRefused 400 for a stream that does not
        exist, 488 when MIKEY cannot do what is asked.
        """
        for wanted in (rekey, move, drop):
            if wanted is not None and not (0 <= wanted < len(self.streams) and not self.streams[wanted].ended):
                raise OfferRefused(400, "no such stream")
        for index, stream in enumerate(self.streams):
            if stream.ended:
                continue
            if direction:
                stream.direction = direction
            if move == index:
                stream.move()
            if drop == index:
                stream.close()
                continue
            stream.offered = stream.next_lines(rekey=rekey == index)
            stream.mode = stream.keys.security
        if add:
            stream = self._opener(len(self.streams))
            self.streams.append(stream)
            self._secure(stream, self.streams[0].keys.security)
            if stream.mode == KMS:
                stream.offered = ()  # SDES stands beside MIKEY in a first offer alone
        try:
            return self._send_offer(rekey=rekey is not None or move is not None)
        except MediaSecurityRefused as refused:
            self.withdraw_offer()
            raise OfferRefused.of(refused) from None

    def offer_again(self) -> bytes:
        """Return the offer for a re-INVITE that came without one: the session as it is (RFC 3261 14.2)."""
        if not self.streams:
            raise OfferRefused(500, "no stream to offer")
        return self.next_offer()

    def _send_offer(self, *, shape: str = "savp", tamper: str = "", rekey: bool = False) -> bytes:
        descriptions = []
        for stream in self.streams:
            media = stream.describe()
            if not stream.ended and (stream.offered or stream.mode == KMS):
                secure_offer(media, stream.mode, stream.offered, shape=shape)
                spoil_offer(media, tamper)
                if stream.mode in self.sealed:
                    stream.seal = Seal(stream.mode, self.sealed.seal_offer(media, stream.mode))
                stream.await_answer()
            descriptions.append(media)
        managed = {stream.index: stream.ssrc for stream in self.streams if not stream.ended and stream.mode == KMS}
        self._manage = None
        if managed:
            if self.mikey is None:
                raise MediaSecurityRefused(TOKEN_PROFILE, "this UE has no KMS")
            self._manage = partial(self.mikey.offer, lines=managed, rekey=rekey)
        self._draft = self._describe(descriptions, self._manage)
        return self._draft.to_bytes()

    def renew_offer(self) -> bytes:
        """Return the offer in progress for another attempt (RFC 3261 14.1): the same but for its MIKEY messages.

        Those are made anew, for the far end has sent later ones meanwhile (RFC 6043 5.2). Raises OfferRefused.
        """
        if self._draft is None:
            raise OfferRefused(500, "no offer is open")
        if self.local is not None and self._draft.origin.version <= self.local.origin.version:
            self._origin = dataclasses.replace(self._origin, version=self._origin.version + 1)
            self._draft.origin = self._origin  # an answer went out meanwhile (RFC 3264 8)
        self._seal_again(self._draft)
        if self._manage is not None:
            for section in (self._draft, *self._draft.media):
                section.remove("key-mgmt")
            try:
                self._manage(self._draft)
            except MediaSecurityRefused as refused:
                raise OfferRefused.of(refused) from None
        return self._draft.to_bytes()

    def _seal_again(self, draft: SessionDescription) -> None:
        """Seal the keys of an offer anew: no value of a seal goes out twice."""
        for stream, media in zip(self.streams, draft.media, strict=False):
            if not stream.ended and stream.mode in self.sealed and stream.offered:
                media.crypto = [line.encode() for line in stream.offered]
                stream.seal = Seal(stream.mode, self.sealed.seal_offer(media, stream.mode))

    def withdraw_offer(self) -> None:
        """Forget an own offer that was refused: the session stays as it was (RFC 3261 14.1)."""
        self._draft = None
        if self.mikey is not None:
            self.mikey.withdraw()
        for stream in list(self.streams):
            stream.offered = ()
            stream.end_move(back=True)
            if stream.remote is None and self.established:
                stream.close()
                self.streams.remove(stream)

    def take_answer(self, body: bytes) -> None:
        """Apply the answer to the own offer. Raises OfferRefused: the negotiation has failed (SDES-11, UO-3)."""
        if self._draft is None:
            raise OfferRefused(500, "no offer is open")
        answer = read_body(body)
        try:
            check_answer_shape(self._draft, answer)
        except SdpError as error:
            if not self.ignore_failure:
                raise OfferRefused(488, str(error), "media-sec:profile-refused", "profile-refused") from None
        managed = self._managed_answer(answer)
        offered = [key for stream in self.streams for line in stream.offered for key in line.all_keys]
        self._open_answer(answer)
        for index, (stream, media) in enumerate(zip(self.streams, answer.media, strict=False)):
            if stream.ended:
                continue
            if media.port == 0:
                stream.close()
                continue
            answered = [key for other in answer.media[:index] for key in keys_in(other.crypto)]
            self._take_answered_stream(stream, answer, media, [*offered, *answered], managed.get(index))
        self.local, self._draft, self.remote = self._draft, None, answer
        if all(stream.ended for stream in self.streams):
            raise OfferRefused(488, "every stream was refused")

    def _open_answer(self, answer: SessionDescription) -> None:
        """Put the crypto lines of an answer in place of their seals. Raises OfferRefused."""
        for stream, media in zip(self.streams, answer.media, strict=False):
            if stream.ended or media.port == 0 or stream.mode not in self.sealed or stream.seal is None:
                continue
            try:
                self.sealed.open_answer(answer, media, stream.seal)
            except MediaSecurityRefused as refused:
                if not self.ignore_failure:
                    raise OfferRefused.of(refused) from None

    def _managed_answer(self, answer: SessionDescription) -> Mapping[int, StreamKeys]:
        """Return the keys that the MIKEY messages of an answer make, by stream (7.2.3, RFC 6043 8.5)."""
        if self.mikey is None:
            return {}
        active = [index for index, media in enumerate(answer.media) if media.port != 0]
        try:
            return self.mikey.take_answer(answer, active)
        except MediaSecurityRefused as refused:
            if not self.ignore_failure:
                raise OfferRefused.of(refused) from None
            return {}

    def _take_answered_stream(
        self,
        stream: Stream,
        answer: SessionDescription,
        media: MediaDescription,
        other_keys: Sequence[Secret],
        managed: StreamKeys | None,
    ) -> None:
        moved = stream.peer_moves(answer, media)
        try:
            keys = judge_answer(
                stream.mode, stream.offered, media, self.context, other_keys=other_keys, managed=managed
            )
            change = stream.change_of(keys.receive, moved=moved, managed=keys.from_kms)
        except MediaSecurityRefused as refused:
            if not self.ignore_failure:
                raise OfferRefused.of(refused) from None
            keys, change = StreamKeys(), KeyChange.UNCHANGED
        if choose_codec(media) is None:
            raise OfferRefused(488, "no common codec in the answer")
        stream.apply_keys(keys, change)
        stream.apply_remote(answer, media, answered_direction(answer.direction_of(media), stream.direction))
        stream.end_move()
        stream.offered = ()

    def reopen(self) -> None:
        """Take the answer of another fork to the same first offer: contexts begin anew (RFC 4568 7.3)."""
        self._draft, self.remote = self.local, None
        if self.mikey is not None:
            self.mikey.reopen()
        for stream in self.streams:
            if not stream.ended:
                stream.offered, stream.keys, stream.remote = stream.first_offered, StreamKeys(), None
                stream.next_send = None
                stream.await_answer()

    # offers of the far end

    def answer(self, body: bytes, incoming: Incoming | None = None) -> bytes:
        """Answer an offer and apply it; `incoming` are its MIKEY messages, resolved.

        Raises OfferRefused; the session then stays as it was (RFC 3261 14.2).
        """
        offer = read_body(body)
        known = len(self.streams)
        if len(offer.media) < known:
            raise OfferRefused(488, "a media line was dropped")
        try:
            accepted = self._judge(offer, incoming)
            mikey = self._accept_managed(offer, incoming, accepted)
        except OfferRefused:
            self._forget_streams(known)
            raise
        descriptions = []
        for index, media in enumerate(offer.media):
            taken = accepted.get(index)
            if taken is None:
                descriptions.append(MediaDescription.build(media.media, 0, media.proto, media.formats))
            else:
                descriptions.append(self._accept(taken, offer))
        self._settle(offer, accepted)
        self.local = self._describe(descriptions, None if mikey is None else mikey.write)
        self.remote = offer
        return self.local.to_bytes()

    def _forget_streams(self, known: int) -> None:
        """Give back the streams opened for an offer that was refused."""
        for stream in self.streams[known:]:
            stream.close()
        del self.streams[known:]

    def _judge(self, offer: SessionDescription, incoming: Incoming | None) -> dict[int, Accepted]:
        accepted: dict[int, Accepted] = {}
        refusal: OfferRefused | None = None
        seen: list[Secret] = []
        for index, media in enumerate(offer.media):
            elsewhere = tuple(seen)
            seal, fault = self._open_offer(offer, media)
            seen.extend(keys_in(media.crypto))
            if media.media != "audio" or media.port == 0:
                continue
            known = self.streams[index] if index < len(self.streams) else None
            if known is None and len(accepted) >= MAX_STREAMS:
                continue
            codec = choose_codec(media)
            if codec is None or (known is not None and known.ended):
                refusal = refusal or OfferRefused(488, "no common codec")
                continue
            try:
                if fault is not None:
                    raise fault
                taken = self._judge_stream(offer, index, incoming, elsewhere, codec, seal)
            except MediaSecurityRefused as refused:
                refusal = OfferRefused.of(refused)
                if known is not None and known.keys.protected:
                    raise refusal from None
                continue
            accepted[index] = taken
        if not accepted:
            raise refusal or OfferRefused(488, "no stream can be accepted")
        return accepted

    def _open_offer(
        self, offer: SessionDescription, media: MediaDescription
    ) -> tuple[Seal | None, MediaSecurityRefused | None]:
        try:
            return self.sealed.open_offer(offer, media), None
        except MediaSecurityRefused as refused:
            return None, refused

    def _judge_stream(
        self,
        offer: SessionDescription,
        index: int,
        incoming: Incoming | None,
        elsewhere: Sequence[Secret],
        codec: ChosenCodec,
        seal: Seal | None,
    ) -> Accepted:
        media = offer.media[index]
        known = self.streams[index] if index < len(self.streams) else None
        if known is not None and _silent_on_keys(known, offer, media):
            judgement = OfferJudgement(scope="e2e", managed=True)
            return Accepted(known, media, judgement, KeyChange.UNCHANGED, codec, known.keys)
        managed = incoming is not None and incoming.serves(offer, index)
        if not managed and self._is_managed(incoming):
            # whoever is on the way could add it: nothing but the keys of the KMS says whose it is
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "a stream without keys of the KMS in a call that has them")
        mode = "" if seal is None else seal.mode
        if any(stream.keys.sealed and not stream.ended and stream.keys.security != mode for stream in self.streams):
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "a stream without the seal in a call whose keys have it")
        ignored = incoming is None and bool(offer.key_mgmt_of(media))
        judgement = judge_offer(
            media, self.context, other_keys=elsewhere, managed=managed, ignored=ignored, sealed=mode
        )
        # what MIKEY gives is known, and compared, once every stream was judged
        change = KeyChange.UNCHANGED
        if known is not None and not managed:
            change = known.change_of(judgement.chosen, moved=known.peer_moves(offer, media))
        elif judgement.chosen is not None:
            change = KeyChange.NEW_CONTEXT
        stream = known if known is not None else self._new_stream(index)
        keys = StreamKeys() if managed else answer_keys(judgement, stream.keys, moved=stream.moved)
        return Accepted(stream, media, judgement, change, codec, keys, seal)

    def _is_managed(self, incoming: Incoming | None) -> bool:
        """Tell whether the call has keys of the KMS, or gets them with this offer."""
        brought = incoming is not None and bool(incoming.transfers or incoming.updates)
        return brought or (self.mikey is not None and self.mikey.established)

    def _accept_managed(
        self, offer: SessionDescription, incoming: Incoming | None, accepted: dict[int, Accepted]
    ) -> Answer | None:
        """Verify the MIKEY messages of an offer and hand their keys to the streams they serve."""
        if incoming is None or self.mikey is None:
            return None
        lines = {
            index: taken.stream.ssrc
            for index, taken in accepted.items()
            if taken.judgement.managed and incoming.serves(offer, index)
        }

        def judge(made: Mapping[int, StreamKeys]) -> None:
            for index, keys in made.items():
                taken = accepted[index]
                moved = taken.stream.peer_moves(offer, taken.offer)
                taken.keys = keys
                taken.change = taken.stream.change_of(keys.receive, moved=moved, managed=True)

        try:
            return self.mikey.accept(incoming, offer, lines, judge)
        except MediaSecurityRefused as refused:
            raise OfferRefused.of(refused) from None

    def _new_stream(self, index: int) -> Stream:
        while len(self.streams) < index:
            placeholder = Stream(len(self.streams), self.ip, ended=True)
            self.streams.append(placeholder)
        try:
            stream = self._opener(index)
        except OSError as error:
            raise OfferRefused(500, f"no ports for a stream, {error}") from None
        self.streams.append(stream)
        return stream

    def _accept(self, taken: Accepted, offer: SessionDescription) -> MediaDescription:
        stream = taken.stream
        direction = answered_direction(offer.direction_of(taken.offer), stream.direction)
        media = stream.describe_answer(taken.offer, direction, taken.codec)
        if taken.keys.send is not None and not taken.keys.from_kms:
            media.crypto = [taken.keys.send.encode()]
            spoil_answer(media, self.tamper_answer, taken.judgement)
            if taken.seal is not None:
                self.sealed.seal_answer(media, taken.seal)
        stream.mode = taken.keys.security
        stream.apply_keys(taken.keys, taken.change, answered=True)
        stream.apply_remote(offer, taken.offer, direction)
        stream.end_move()
        return media

    def _settle(self, offer: SessionDescription, accepted: dict[int, Accepted]) -> None:
        for index in range(len(offer.media)):
            if index in accepted:
                continue
            if index < len(self.streams):
                self.streams[index].close()
            else:
                self.streams.append(Stream(index, self.ip, ended=True))

    # running

    def start(self) -> None:
        """Begin to speak on every agreed stream."""
        for stream in self.streams:
            if stream.agreed and not stream.started:
                stream.start()

    def send_new_keys(self) -> None:
        """Send under the keys of the last answer: the far end has it."""
        for stream in self.streams:
            stream.send_new_key()

    def close(self) -> None:
        """Give every port back."""
        for stream in self.streams:
            stream.close()


__all__ = ["OfferRefused", "SessionMedia", "StreamOpener"]
