"""A session description as the ordered lines it is made of, with typed views of those this testbed works with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from signalling.sdp.errors import SdpAttributeError, SdpError
from signalling.sdp.values import (
    Attribute,
    Candidate,
    Connection,
    Fingerprint,
    Fmtp,
    Origin,
    RtcpAddress,
    RtpMap,
    is_token,
)

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
SESSION_ORDER = "vosiuepcbtrzka"
"""Line types of the session part in their order (RFC 8866 5); t, r and z repeat as a group."""
MEDIA_ORDER = "micbka"
"""Line types of a media description in their order (RFC 8866 5)."""


@dataclass(frozen=True, slots=True)
class Line:
    """One ``<type>=<value>`` line; octets that are not UTF-8 survive as surrogate escapes."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}={self.value}"


class Section:
    """What the session part and a media description share: lines in order, attributes among them."""

    _order = ""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines: list[Line] = list(lines)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The ``a=`` lines in order; a copy, change them with :meth:`add`, :meth:`set` and :meth:`remove`."""
        return tuple(Attribute.parse(line.value) for line in self.lines if line.kind == "a")

    def get_all(self, name: str) -> list[str]:
        """Return the values of every attribute called `name` (case counts, RFC 8866 6), "" for a property attribute."""
        start = f"{name}:"
        return [
            line.value[len(start) :]
            for line in self.lines
            if line.kind == "a" and (line.value.startswith(start) or line.value == name)
        ]

    def get(self, name: str) -> str | None:
        """Return the first attribute's value ("" for a property attribute) or None when there is none."""
        values = self.get_all(name)
        return values[0] if values else None

    def has(self, name: str) -> bool:
        """Tell whether an attribute called `name` is present."""
        return self.get(name) is not None

    def add(self, name: str, value: str | None = None, index: int | None = None) -> None:
        """Insert an attribute before the one at `index` among the attributes, or behind the last one.

        Raises SdpError for a name or value that would break the line.
        """
        if not is_token(name) or (value is not None and any(char in value for char in "\r\n\0")):
            raise SdpError("attribute would break its line")
        line = Line("a", str(Attribute(name, value)))
        places = [place for place, present in enumerate(self.lines) if present.kind == "a"]
        if index is None or index >= len(places):
            self.lines.append(line)
        else:
            self.lines.insert(places[index], line)

    def remove(self, name: str) -> int:
        """Remove every attribute called `name` and return how many there were."""
        start = f"{name}:"
        kept = [
            line for line in self.lines if line.kind != "a" or not (line.value.startswith(start) or line.value == name)
        ]
        removed = len(self.lines) - len(kept)
        self.lines[:] = kept
        return removed

    def set(self, name: str, value: str | None = None) -> None:
        """Put one attribute in the place of the first one of that name (else last) and drop its repeats."""
        places = [place for place, attribute in enumerate(self.attributes) if attribute.name == name]
        self.remove(name)
        self.add(name, value, places[0] if places else None)

    def line_values(self, kind: str) -> list[str]:
        """Return the values of every line of that type."""
        return [line.value for line in self.lines if line.kind == kind]

    def set_line(self, kind: str, value: str | None) -> None:
        """Replace the lines of that type by one (None: by none), placed where the order of RFC 8866 5 wants it."""
        if value is not None and any(char in value for char in "\r\n\0"):
            raise SdpError("value would break its line")
        places = [place for place, line in enumerate(self.lines) if line.kind == kind]
        self.lines[:] = [line for line in self.lines if line.kind != kind]
        if value is None:
            return
        rank = self._order.index(kind)
        place = places[0] if places else sum(self._order.index(line.kind) < rank for line in self.lines)
        self.lines.insert(place, Line(kind, value))

    @property
    def connection(self) -> Connection | None:
        """The section's own first ``c=`` line, None when it has none."""
        values = self.line_values("c")
        return Connection.parse(values[0]) if values else None

    @connection.setter
    def connection(self, connection: Connection | None) -> None:
        self.set_line("c", None if connection is None else str(connection))

    @property
    def own_direction(self) -> str | None:
        """The section's own direction attribute, None when it has none."""
        names = (line.value.partition(":")[0] for line in self.lines if line.kind == "a")
        return next((name for name in names if name in DIRECTIONS), None)

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """The section's own certificate fingerprints. Raises SdpAttributeError."""
        return tuple(Fingerprint.parse(value) for value in self.get_all("fingerprint"))

    @property
    def setup(self) -> str | None:
        """The section's own ``a=setup`` in lower case (RFC 4145 4). Raises SdpAttributeError for an unknown role."""
        value = self.get("setup")
        if value is None:
            return None
        if value.lower() not in {"active", "passive", "actpass", "holdconn"}:
            raise SdpAttributeError("setup role is unknown")
        return value.lower()

    @property
    def key_mgmt(self) -> tuple[str, ...]:
        """Values of the section's own ``a=key-mgmt`` lines as written (RFC 4567)."""
        return tuple(self.get_all("key-mgmt"))


class MediaDescription(Section):
    """One ``m=`` line and what belongs to it (RFC 8866 5.14)."""

    _order = MEDIA_ORDER

    @classmethod
    def build(cls, media: str, port: int, proto: str, formats: Iterable[str]) -> "MediaDescription":
        """Make a media description without further lines."""
        return cls([Line("m", f"{media} {port} {proto} {' '.join(formats)}")])

    def _fields(self) -> list[str]:
        return self.lines[0].value.split(" ")

    def _set_field(self, index: int, text: str) -> None:
        if not text or any(char in text for char in " \r\n\0"):
            raise SdpError("value would break the media line")
        fields = self._fields()
        fields[index] = text
        self.lines[0] = Line("m", " ".join(fields))

    @property
    def media(self) -> str:
        """Media type: audio, video, message, image, application ..."""
        return self._fields()[0]

    @property
    def port(self) -> int:
        """Transport port; 0 means that the stream is refused or ended (RFC 3264 6, 8.2)."""
        return int(self._fields()[1].partition("/")[0])

    @port.setter
    def port(self, port: int) -> None:
        if not 0 <= port <= 65535:
            raise SdpError("port is not 0 to 65535")
        _, slash, count = self._fields()[1].partition("/")
        self._set_field(1, f"{port}{slash}{count}")

    @property
    def port_count(self) -> int:
        """Number of ports the line stands for, one unless written as ``port/count``."""
        return int(self._fields()[1].partition("/")[2] or 1)

    @property
    def proto(self) -> str:
        """Transport profile, e.g. ``RTP/SAVP``."""
        return self._fields()[2]

    @proto.setter
    def proto(self, proto: str) -> None:
        self._set_field(2, proto)

    @property
    def formats(self) -> tuple[str, ...]:
        """Media formats in order; payload types in RTP profiles."""
        return tuple(self._fields()[3:])

    @formats.setter
    def formats(self, formats: Iterable[str]) -> None:
        chosen = list(formats)
        if not chosen or any(not text or any(char in text for char in " \r\n\0") for text in chosen):
            raise SdpError("formats would break the media line")
        self.lines[0] = Line("m", " ".join([*self._fields()[:3], *chosen]))

    @property
    def is_secure_rtp(self) -> bool:
        """True for RTP/SAVP and RTP/SAVPF, which plain SDES belongs to (RFC 4568 6)."""
        return self.proto in {"RTP/SAVP", "RTP/SAVPF"}

    @property
    def crypto(self) -> list[str]:
        """Values of the ``a=crypto`` lines as written, for keying.sdes."""
        return self.get_all("crypto")

    @crypto.setter
    def crypto(self, values: Iterable[str]) -> None:
        self.remove("crypto")
        for value in values:
            self.add("crypto", value)

    @property
    def e2ae(self) -> str | None:
        """``requested`` or ``applied`` of ``a=3ge2ae``, None when absent or of another value (TS 24.229 7.5.2).

        One space behind the colon is taken. Raises SdpAttributeError when the line is repeated with differing values.
        """
        values = {value.removeprefix(" ") for value in self.get_all("3ge2ae")} & {"requested", "applied"}
        if len(values) > 1:
            raise SdpAttributeError("3ge2ae says both requested and applied")
        return next(iter(values), None)

    @property
    def tls_id(self) -> str | None:
        """``a=tls-id`` (RFC 8842 4)."""
        return self.get("tls-id")

    @property
    def rtpmaps(self) -> dict[int, RtpMap]:
        """``a=rtpmap`` by payload type. Raises SdpAttributeError."""
        maps = (RtpMap.parse(value) for value in self.get_all("rtpmap"))
        return {entry.payload_type: entry for entry in maps}

    @property
    def fmtps(self) -> dict[str, str]:
        """``a=fmtp`` parameters by format. Raises SdpAttributeError."""
        return {entry.format: entry.parameters for entry in map(Fmtp.parse, self.get_all("fmtp"))}

    @property
    def ptime(self) -> int | None:
        """``a=ptime`` in ms, None when absent or not a whole number (RFC 8866 6.4)."""
        value = self.get("ptime")
        return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 6 else None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """ICE candidates (RFC 8839 5.1). Raises SdpAttributeError."""
        return tuple(Candidate.parse(value) for value in self.get_all("candidate"))

    @property
    def dcmaps(self) -> tuple[str, ...]:
        """Values of ``a=dcmap`` as written (RFC 8864 5.1)."""
        return tuple(self.get_all("dcmap"))

    @property
    def rtcp(self) -> RtcpAddress | None:
        """``a=rtcp`` (RFC 3605), None when RTCP goes to the port above the media's. Raises SdpAttributeError."""
        value = self.get("rtcp")
        return None if value is None else RtcpAddress.parse(value)

    @property
    def rtcp_mux(self) -> bool:
        """True with ``a=rtcp-mux`` (RFC 5761)."""
        return self.has("rtcp-mux")

    @property
    def direction(self) -> str:
        """Own direction attribute, ``sendrecv`` without one; :meth:`SessionDescription.direction_of` inherits."""
        return self.own_direction or "sendrecv"

    @direction.setter
    def direction(self, direction: str) -> None:
        if direction not in DIRECTIONS:
            raise SdpError("direction is not one of the four")
        places = [place for place, attribute in enumerate(self.attributes) if attribute.name in DIRECTIONS]
        for name in DIRECTIONS:
            self.remove(name)
        self.add(direction, None, places[0] if places else None)

    def copy(self) -> "MediaDescription":
        """Return an independent copy."""
        return MediaDescription(self.lines)


class SessionDescription(Section):
    """A whole description: session lines in `lines`, media descriptions in `media`."""

    _order = SESSION_ORDER

    def __init__(self, lines: Iterable[Line], media: Iterable[MediaDescription] = ()) -> None:
        super().__init__(lines)
        self.media: list[MediaDescription] = list(media)

    @classmethod
    def build(
        cls, origin: Origin, connection: Connection, media: Iterable[MediaDescription] = ()
    ) -> "SessionDescription":
        """Make a description that starts at once and has no end (``t=0 0``)."""
        session = [Line("v", "0"), Line("o", str(origin)), Line("s", "-"), Line("c", str(connection)), Line("t", "0 0")]
        return cls(session, media)

    def __iter__(self) -> Iterator[MediaDescription]:
        return iter(self.media)

    def __str__(self) -> str:
        everything = (*self.lines, *(line for media in self.media for line in media.lines))
        return "".join(f"{line}\r\n" for line in everything)

    def to_bytes(self) -> bytes:
        """Return the description with CRLF line ends."""
        return str(self).encode("utf-8", "surrogateescape")

    def copy(self) -> "SessionDescription":
        """Return an independent copy."""
        return SessionDescription(self.lines, [media.copy() for media in self.media])

    @property
    def origin(self) -> Origin:
        """The ``o=`` line."""
        return Origin.parse(self.line_values("o")[0])

    @origin.setter
    def origin(self, origin: Origin) -> None:
        self.set_line("o", str(origin))

    def connection_of(self, media: MediaDescription) -> Connection | None:
        """Return the connection that holds for `media`: its own, else the session's (RFC 8866 5.7)."""
        return media.connection or self.connection

    def direction_of(self, media: MediaDescription) -> str:
        """Return the direction that holds for `media`: own, else the session's, else sendrecv (RFC 8866 6.7)."""
        return media.own_direction or self.own_direction or "sendrecv"

    def fingerprints_of(self, media: MediaDescription) -> tuple[Fingerprint, ...]:
        """Return the fingerprints that hold for `media`: own ones, else the session's (RFC 8122 5)."""
        return media.fingerprints or self.fingerprints

    def setup_of(self, media: MediaDescription) -> str | None:
        """Return the set-up role that holds for `media`: its own, else the session's (RFC 4145 4)."""
        return media.setup or self.setup

    def key_mgmt_of(self, media: MediaDescription) -> tuple[str, ...]:
        """Return the key management lines that hold for `media`: own ones, else the session's (RFC 4567 3.1)."""
        return media.key_mgmt or self.key_mgmt
