"""One audio stream of a call: its line in SDP, its keys, its media end."""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from keying.sdes import CryptoAttribute, KeyChange, KeyReuse, generate
from media.g711 import CODECS, PCMA, PCMU, Codec
from media.session import (
    Address,
    AudioSource,
    MediaReactor,
    RtpEndpoint,
    RtpStatistics,
    SessionEvent,
    SessionSettings,
)
from nodes.ue.media_security import KMS, MediaSecurityRefused, StreamKeys, check_remote_change
from nodes.ue.sealed_keys import Seal
from signalling.sdp import MediaDescription, SdpError, SessionDescription

DISCARD_PORT = 9
"""Port in SDP of a stream without sockets (RFC 863)."""
TELEPHONE_EVENT = 101
PACKET_MS = 20
_OPPOSITE = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
_SILENT = RtpStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0)


@dataclass(frozen=True)
class ChosenCodec:
    """What two ends speak: the codec, its payload type, and that of telephone events or None."""

    codec: Codec
    payload_type: int
    dtmf_payload_type: int | None


def choose_codec(media: MediaDescription) -> ChosenCodec | None:
    """Return the first G.711 format of a remote description, None when there is none or it is malformed."""
    try:
        maps = media.rtpmaps
    except SdpError:
        return None
    chosen: tuple[Codec, int] | None = None
    dtmf: int | None = None
    for text in media.formats:
        if not text.isascii() or not text.isdigit() or len(text) > 3:
            continue
        number = int(text)
        entry = maps.get(number)
        name = entry.encoding.upper() if entry is not None else {0: "PCMU", 8: "PCMA"}.get(number, "")
        if chosen is None and name in CODECS and (entry is None or entry.clock_rate == 8000):
            chosen = CODECS[name], number
        elif dtmf is None and name == "TELEPHONE-EVENT":
            dtmf = number
    return None if chosen is None else ChosenCodec(chosen[0], chosen[1], dtmf)


def answered_direction(offered: str, own: str) -> str:
    """Return the direction of an answer: what was offered, seen from here, narrowed by the own wish (RFC 3264 6.1)."""
    mirrored = _OPPOSITE[offered]
    send = mirrored in {"sendrecv", "sendonly"} and own in {"sendrecv", "sendonly"}
    receive = mirrored in {"sendrecv", "recvonly"} and own in {"sendrecv", "recvonly"}
    return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
        (send, receive), "inactive"
    )


def _digests(line: CryptoAttribute) -> set[bytes]:
    """Return a digest of each key of a line."""
    return {hashlib.sha256(key.reveal()).digest() for key in line.all_keys}


@dataclass
class Stream:
    """A stream by its place in SDP (`index`, from 0). Without `endpoint` it exists in signalling alone."""

    index: int
    ip: str
    endpoint: RtpEndpoint | None = None
    codec: Codec = PCMA
    mode: str = "none"
    """Mode of the own offer in progress or agreed (:mod:`keying.modes`)."""
    seal: Seal | None = None
    """What the keys of the last own offer went under, with a mode of a package."""
    offered: tuple[CryptoAttribute, ...] = ()
    """Lines of the own offer in progress."""
    first_offered: tuple[CryptoAttribute, ...] = ()
    """Lines of the first offer, which every fork got."""
    keys: StreamKeys = field(default_factory=StreamKeys)
    direction: str = "sendrecv"
    """What this side wants."""
    remote: Address | None = None
    next_send: CryptoAttribute | None = None
    """The key to send with once the far end has the answer that brings it."""
    moved: bool = False
    """The own port changed since the last exchange."""
    ended: bool = False
    """Port 0: refused or dropped."""
    final: RtpStatistics | None = None
    started: bool = False
    last_local: Address | None = None
    """Own address while there was one."""
    left: set[bytes] = field(default_factory=set, repr=False)
    """Digests of the far end's keys that were in use and are not any more."""
    signalled_ssrc: int = field(default_factory=lambda: secrets.randbits(32))
    """SSRC of a stream without media end."""

    @classmethod
    def open(
        cls,
        index: int,
        reactor: MediaReactor,
        ip: str,
        *,
        media: bool,
        source: AudioSource | None,
        record: bool,
        codec: Codec = PCMA,
    ) -> Stream:
        """Bind the ports of a new stream. Raises `media.session.PortsExhausted`."""
        endpoint = None
        if media:
            settings = SessionSettings(codec=codec, dtmf_payload_type=TELEPHONE_EVENT, record=record)
            endpoint = RtpEndpoint(reactor, settings, source=source)
            endpoint.open(ip)
        return cls(index, ip, endpoint, codec)

    @property
    def local(self) -> Address:
        """Own RTP address."""
        return self.endpoint.local if self.endpoint is not None else (self.ip, DISCARD_PORT)

    @property
    def agreed(self) -> bool:
        """True once an answer or offer of the far end was applied."""
        return self.remote is not None and not self.ended

    @property
    def ssrc(self) -> int:
        """SSRC this side sends with, for MIKEY to name (RFC 6043 6.1.1)."""
        return self.endpoint.session.ssrc if self.endpoint is not None else self.signalled_ssrc

    # own descriptions

    def describe(self) -> MediaDescription:
        """Return the plain offer of this stream; security is written in by the caller."""
        codecs = [self.codec, PCMU if self.codec is PCMA else PCMA]
        formats = [str(codec.payload_type) for codec in codecs] + [str(TELEPHONE_EVENT)]
        media = MediaDescription.build("audio", 0 if self.ended else self.local[1], "RTP/AVP", formats)
        if self.ended:
            return media
        for codec in codecs:
            media.add("rtpmap", f"{codec.payload_type} {codec.name}/8000")
        media.add("rtpmap", f"{TELEPHONE_EVENT} telephone-event/8000")
        media.add("fmtp", f"{TELEPHONE_EVENT} 0-15")
        media.add("ptime", str(PACKET_MS))
        media.add(self.direction)
        return media

    def describe_answer(self, offer: MediaDescription, direction: str, codec: ChosenCodec) -> MediaDescription:
        """Return the answer to an accepted stream: the offered profile, the chosen formats (RFC 3264 6.1)."""
        formats = [str(codec.payload_type)]
        if codec.dtmf_payload_type is not None:
            formats.append(str(codec.dtmf_payload_type))
        media = MediaDescription.build("audio", self.local[1], offer.proto, formats)
        media.add("rtpmap", f"{codec.payload_type} {codec.codec.name}/8000")
        if codec.dtmf_payload_type is not None:
            media.add("rtpmap", f"{codec.dtmf_payload_type} telephone-event/8000")
            media.add("fmtp", f"{codec.dtmf_payload_type} 0-15")
        media.add("ptime", str(PACKET_MS))
        media.add(direction)
        return media

    # keys

    def await_answer(self) -> None:
        """Take nothing in the plain while the answer to a protected offer is out (SDES-18)."""
        if self.endpoint is not None and (self.offered or self.mode == KMS) and not self.keys.protected:
            self.endpoint.secure(None, None)

    def next_lines(self, *, rekey: bool) -> tuple[CryptoAttribute, ...]:
        """Return the line of a later offer: the key in use, or a new one to re-key or after a move (SDES-16, 17)."""
        if self.keys.send is None or self.keys.from_kms:
            return ()
        if rekey or self.moved:
            return (generate(self.keys.send.suite, self.keys.send.tag),)
        return (self.keys.send,)

    def apply_keys(self, new: StreamKeys, change: KeyChange, *, answered: bool = False) -> None:
        """Hand agreed keys to the media end; `change` is what the far end did to its key.

        `answered`: an own answer brings them. Until the far end has it, packets under a new key of MIKEY would be lost
        there, so this side goes on with the former one until `send_new_key`.
        """
        old, endpoint = self.keys, self.endpoint
        self.keys = new
        if old.receive is not None:
            self.left |= _digests(old.receive) - (set() if new.receive is None else _digests(new.receive))
        if endpoint is None:
            return
        self.send_new_key()  # nobody makes another exchange before the last answer is there (RFC 3264 4)
        if new.send is None or new.receive is None:
            endpoint.unsecure()
            return
        if old.send is None or self.moved:
            endpoint.secure_sending(new.send)
        elif old.send != new.send:
            self.next_send = new.send
            if not (answered and new.from_kms):
                self.send_new_key()
        if old.receive is None or change is KeyChange.NEW_CONTEXT:
            endpoint.secure_receiving(new.receive)
        elif change is KeyChange.REKEYED:
            endpoint.rekey_receiving(new.receive)

    def send_new_key(self) -> None:
        """Send under the key of the last exchange from now on."""
        key, self.next_send = self.next_send, None
        if key is not None and self.endpoint is not None and not self.ended:
            self.endpoint.rekey_sending(key)

    def change_of(self, new: CryptoAttribute | None, *, moved: bool, managed: bool = False) -> KeyChange:
        """Judge the far end's key in a later offer or answer. Raises MediaSecurityRefused.

        `moved`: it wants media elsewhere. `managed`: the key is of MIKEY. A key that it left never comes back: its ROC
        and replay list are gone (RFC 3711 9.1, 9.2).
        """
        change = check_remote_change(self.keys, new, moved=moved, managed=managed)
        if new is not None and self.left & _digests(new):
            raise MediaSecurityRefused(KeyReuse.media_sec_token, "a key that was in use before")
        return change

    # the far end

    def remote_address(self, sdp: SessionDescription, media: MediaDescription) -> Address | None:
        """Return where the far end wants media, where it was when it holds the old way; None without connection."""
        connection = sdp.connection_of(media)
        if connection is not None and connection.is_hold and self.remote is not None:
            return self.remote
        return None if connection is None else (connection.address, media.port)

    def peer_moves(self, sdp: SessionDescription, media: MediaDescription) -> bool:
        """Tell whether the far end wants media elsewhere than before."""
        return self.remote is not None and self.remote != self.remote_address(sdp, media)

    def apply_remote(self, sdp: SessionDescription, media: MediaDescription, direction: str) -> None:
        """Send where the far end says, what it understands, in `direction`."""
        address = self.remote_address(sdp, media)
        connection = sdp.connection_of(media)
        codec = choose_codec(media)
        self.remote = address
        endpoint = self.endpoint
        if endpoint is None or address is None or codec is None:
            return
        on_hold = connection is not None and connection.is_hold
        if not on_hold:
            try:
                rtcp = media.rtcp
            except SdpError:
                rtcp = None
            endpoint.set_remote(*address, None if rtcp is None else (rtcp.address or address[0], rtcp.port))
        endpoint.set_codec(codec.codec, codec.payload_type, codec.dtmf_payload_type)
        endpoint.set_direction("recvonly" if on_hold and direction == "sendrecv" else direction)

    def start(self) -> None:
        """Begin to speak."""
        self.started = True
        if self.endpoint is not None:
            self.endpoint.start()

    def move(self) -> None:
        """Take new ports; the next offer tells them with a new key. The former ones serve until it is answered."""
        if self.endpoint is not None:
            self.endpoint.move()
        self.moved = True

    def end_move(self, *, back: bool = False) -> None:
        """Leave the former ports; or, with `back`, stay there: the offer came to nothing (RFC 3261 14.1)."""
        if self.endpoint is not None:
            self.endpoint.end_move(back=back)
        self.moved = False

    def close(self) -> None:
        """Give the ports back; figures stay."""
        if self.endpoint is not None and self.final is None:
            self.last_local = self.endpoint.local
            self.final = self.endpoint.statistics()
            self.endpoint.close()
        self.ended = True

    # figures

    def statistics(self) -> RtpStatistics:
        """Return the figures so far, zeros without a media end."""
        if self.final is not None:
            return self.final
        return self.endpoint.statistics() if self.endpoint is not None else _SILENT

    def heard(self) -> array[int]:
        """Return what was heard."""
        return self.endpoint.heard() if self.endpoint is not None else array("h")

    def watch(self, on_event: Callable[[SessionEvent], None]) -> None:
        """Give the media end's events to `on_event`."""
        if self.endpoint is not None:
            self.endpoint.on_event = on_event
