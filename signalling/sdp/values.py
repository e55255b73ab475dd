"""Values of lines and attributes with a grammar of their own."""

import ipaddress
import re
from dataclasses import dataclass

from signalling.sdp.errors import SdpAttributeError, SdpError

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")
_NUMBER = re.compile(r"[0-9]{1,20}")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*")


def is_token(text: str) -> bool:
    """Tell whether `text` is a token of RFC 8866 9."""
    return _TOKEN.fullmatch(text) is not None


def decimal(text: str, top: int, what: str) -> int:
    """Return a decimal number from 0 to `top`. Raises SdpAttributeError naming `what` otherwise."""
    if not _NUMBER.fullmatch(text) or int(text) > top:
        raise SdpAttributeError(f"{what} is not a number from 0 to {top}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Origin:
    """The ``o=`` line (RFC 8866 5.2). `version` rises by one with every change of the description (RFC 3264 8)."""

    username: str
    session_id: str
    version: int
    address: str
    nettype: str = "IN"
    addrtype: str = "IP4"

    def __str__(self) -> str:
        return f"{self.username} {self.session_id} {self.version} {self.nettype} {self.addrtype} {self.address}"

    @classmethod
    def parse(cls, value: str) -> "Origin":
        """Read the line's value. Raises SdpError."""
        parts = value.split(" ")
        if len(parts) != 6 or not all(parts) or not _NUMBER.fullmatch(parts[1]) or not _NUMBER.fullmatch(parts[2]):
            raise SdpError("origin does not have six fields with a numeric id and version")
        return cls(parts[0], parts[1], int(parts[2]), parts[5], parts[3], parts[4])


@dataclass(frozen=True, slots=True)
class Connection:
    """The ``c=`` line (RFC 8866 5.7)."""

    address: str
    nettype: str = "IN"
    addrtype: str = "IP4"

    def __str__(self) -> str:
        return f"{self.nettype} {self.addrtype} {self.address}"

    @classmethod
    def parse(cls, value: str) -> "Connection":
        """Read the line's value. Raises SdpError."""
        parts = value.split(" ")
        if len(parts) != 3 or not all(parts):
            raise SdpError("connection does not have three fields")
        return cls(parts[2], parts[0], parts[1])

    @classmethod
    def for_address(cls, address: str) -> "Connection":
        """Make the line for an IP address literal, IP4 or IP6 by its form. Raises ValueError for anything else."""
        return cls(address, "IN", "IP6" if ipaddress.ip_address(address).version == 6 else "IP4")

    @property
    def is_hold(self) -> bool:
        """True for the unspecified address, the old way to put a stream on hold (RFC 3264 8.4)."""
        return self.address in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Attribute:
    """An ``a=`` line: `value` is None for a property attribute, text behind the colon else (RFC 8866 5.13)."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> "Attribute":
        """Read the line's value. Raises SdpError when the name is not a token."""
        name, colon, value = text.partition(":")
        if not is_token(name):
            raise SdpError("attribute name is not a token")
        return cls(name, value if colon else None)


@dataclass(frozen=True, slots=True)
class RtpMap:
    """``a=rtpmap`` (RFC 8866 6.6): clock rate in Hz, `parameters` the channels of audio or None."""

    payload_type: int
    encoding: str
    clock_rate: int
    parameters: str | None = None

    def __str__(self) -> str:
        tail = f"/{self.parameters}" if self.parameters is not None else ""
        return f"{self.payload_type} {self.encoding}/{self.clock_rate}{tail}"

    @classmethod
    def parse(cls, value: str) -> "RtpMap":
        """Read the attribute's value. Raises SdpAttributeError."""
        number, _, rest = value.partition(" ")
        parts = rest.strip(" ").split("/", 2)
        if len(parts) < 2 or not is_token(parts[0]):
            raise SdpAttributeError("rtpmap is not payload type, encoding and clock rate")
        rate = decimal(parts[1], 2**32 - 1, "clock rate")
        return cls(decimal(number, 127, "payload type"), parts[0], rate, parts[2] if len(parts) == 3 else None)


@dataclass(frozen=True, slots=True)
class Fmtp:
    """``a=fmtp`` (RFC 8866 6.15): a format and its parameters as written."""

    format: str
    parameters: str

    def __str__(self) -> str:
        return f"{self.format} {self.parameters}"

    @classmethod
    def parse(cls, value: str) -> "Fmtp":
        """Read the attribute's value. Raises SdpAttributeError."""
        name, space, rest = value.partition(" ")
        if not name or not space:
            raise SdpAttributeError("fmtp is not a format and its parameters")
        return cls(name, rest)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``a=fingerprint`` (RFC 8122 5): hash name in lower case, digest as octets."""

    hash_function: str
    digest: bytes

    def __str__(self) -> str:
        return f"{self.hash_function} {':'.join(f'{octet:02X}' for octet in self.digest)}"

    @classmethod
    def parse(cls, value: str) -> "Fingerprint":
        """Read the attribute's value; digits in either case are taken. Raises SdpAttributeError."""
        name, _, digits = value.partition(" ")
        if not is_token(name) or not _HEX_PAIRS.fullmatch(digits) or len(digits) > 64 * 3:
            raise SdpAttributeError("fingerprint is not a hash name and pairs of hexadecimal digits")
        return cls(name.lower(), bytes.fromhex(digits.replace(":", "")))


@dataclass(frozen=True, slots=True)
class RtcpAddress:
    """``a=rtcp`` (RFC 3605): where RTCP goes; `address` None means that of the media."""

    port: int
    address: str | None = None
    addrtype: str = "IP4"

    def __str__(self) -> str:
        return str(self.port) if self.address is None else f"{self.port} IN {self.addrtype} {self.address}"

    @classmethod
    def parse(cls, value: str) -> "RtcpAddress":
        """Read the attribute's value. Raises SdpAttributeError."""
        parts = value.split(" ")
        port = decimal(parts[0], 65535, "RTCP port")
        if len(parts) == 1:
            return cls(port)
        if len(parts) != 4 or parts[1] != "IN" or not parts[3]:
            raise SdpAttributeError("rtcp is not a port with an optional address")
        return cls(port, parts[3], parts[2])


@dataclass(frozen=True, slots=True)
class Candidate:
    """``a=candidate`` (RFC 8839 5.1); `extensions` holds what follows the type as written pairs."""

    foundation: str
    component: int
    transport: str
    priority: int
    address: str
    port: int
    kind: str
    extensions: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        head = f"{self.foundation} {self.component} {self.transport} {self.priority} {self.address} {self.port}"
        return " ".join((head, "typ", self.kind, *(f"{name} {value}" for name, value in self.extensions)))

    @classmethod
    def parse(cls, value: str) -> "Candidate":
        """Read the attribute's value. Raises SdpAttributeError."""
        parts = value.split(" ")
        if len(parts) < 8 or parts[6] != "typ" or len(parts) % 2 or not all(parts):
            raise SdpAttributeError("candidate does not have its fields")
        component = decimal(parts[1], 256, "component")
        priority = decimal(parts[3], 2**31 - 1, "priority")
        extensions = tuple(zip(parts[8::2], parts[9::2], strict=True))
        port = decimal(parts[5], 65535, "candidate port")
        return cls(parts[0], component, parts[2], priority, parts[4], port, parts[7], extensions)
