"""The ``a=crypto`` attribute: its parts, reading and writing (RFC 4568 4, 6, 9)."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from keying.sdes.errors import (
    BadKeyLength,
    BadKeyMethod,
    BadLifetime,
    BadMki,
    BadSessionParameter,
    BadTag,
    CryptoSyntaxError,
    KeyReuse,
    UnknownSuite,
)
from keying.secret import Secret
from keying.suites import CryptoSuite, find_suite

MAX_LINE = 4096
"""Longest ``a=crypto`` value that is read, in characters."""
MAX_KEYS = 16
"""Most master keys read from one line."""
MAX_MKI_LENGTH = 128
"""Longest MKI in octets (RFC 4568 6.1)."""
NEGOTIATED_PARAMETERS = ("UNENCRYPTED_SRTP", "UNENCRYPTED_SRTCP", "UNAUTHENTICATED_SRTP")
"""Session parameters that an answer has to repeat (RFC 4568 6.3.2, 6.3.3); all others speak of their sender alone."""

_TAG = re.compile(r"[1-9][0-9]{0,8}|0")
_KEY_PARAM = re.compile(r"([A-Za-z0-9_]+):([\x21-\x3a\x3c-\x7e]+)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_POSITIVE = re.compile(r"[1-9][0-9]*")
_MAX_DECIMALS = 20
_MKI_DECIMALS = 309  # digits of 2^1024 - 1, the largest MKI that fits 128 octets


@dataclass(frozen=True, slots=True)
class InlineKey:
    """One master key with its salt (RFC 4568 6.1).

    `lifetime` counts packets, None means the suite's own limits; `mki_length` counts octets and is 0 with `mki` None,
    when packets carry no MKI.
    """

    key_salt: Secret
    lifetime: int | None = None
    mki: int | None = None
    mki_length: int = 0

    def encode(self) -> str:
        """Return ``inline:...`` with padding, the lifetime as a power of two where it is one."""
        text = "inline:" + base64.b64encode(self.key_salt.reveal()).decode("ascii")
        if self.lifetime is not None:
            exponent = self.lifetime.bit_length() - 1
            text += f"|2^{exponent}" if exponent and self.lifetime == 1 << exponent else f"|{self.lifetime}"
        if self.mki is not None:
            text += f"|{self.mki}:{self.mki_length}"
        return text

    @property
    def mki_octets(self) -> bytes:
        """The MKI as it stands in packets, big-endian; empty without MKI (RFC 4568 6.1, RFC 3711 3.1)."""
        return b"" if self.mki is None else self.mki.to_bytes(self.mki_length, "big")


@dataclass(frozen=True, slots=True)
class CryptoAttribute:
    """One ``a=crypto`` line: what its sender will protect outgoing packets with (RFC 4568 5.1.1)."""

    tag: int
    suite: CryptoSuite
    keys: tuple[InlineKey, ...]
    session_params: tuple[str, ...] = ()
    fec_keys: tuple[InlineKey, ...] = ()
    """Keys of FEC_KEY (RFC 4568 6.3.5); kept apart from `session_params`, which are printable."""

    def encode(self) -> str:
        """Return the attribute value, that is the text after ``a=crypto:``."""
        keys = ";".join(key.encode() for key in self.keys)
        fec = ("FEC_KEY=" + ";".join(key.encode() for key in self.fec_keys),) if self.fec_keys else ()
        return " ".join((str(self.tag), self.suite.name, keys, *self.session_params, *fec))

    @property
    def master_key(self) -> Secret:
        """Master key of the first key parameter, `suite.key_length` octets."""
        return self.keys[0].key_salt.part(0, self.suite.key_length)

    @property
    def master_salt(self) -> Secret:
        """Master salt of the first key parameter, `suite.salt_length` octets."""
        return self.keys[0].key_salt.part(self.suite.key_length, self.suite.key_salt_length)

    @property
    def max_srtp_packets(self) -> int:
        """SRTP packets the first key may protect, exclusive: lower of lifetime and suite limit (RFC 4568 6.1)."""
        return min(self.keys[0].lifetime or self.suite.max_srtp_packets, self.suite.max_srtp_packets)

    @property
    def max_srtcp_packets(self) -> int:
        """SRTCP packets the first key may protect, exclusive (RFC 4568 6.1)."""
        return min(self.keys[0].lifetime or self.suite.max_srtcp_packets, self.suite.max_srtcp_packets)

    @property
    def negotiated_params(self) -> tuple[str, ...]:
        """The session parameters an answer to this line has to repeat (RFC 4568 6.3)."""
        return tuple(param for param in self.session_params if param in NEGOTIATED_PARAMETERS)

    @property
    def all_keys(self) -> tuple[Secret, ...]:
        """Every master key with salt on the line, those of FEC_KEY included."""
        return tuple(key.key_salt for key in (*self.keys, *self.fec_keys))


def parse_crypto(value: str) -> CryptoAttribute:
    """Read the text after ``a=crypto:``.

    Suite, key method and session parameters are taken in any case and normalised to the registered one (RFC 4568 4).
    Raises a :class:`SdesError` that names the fault; what policy thinks of a well-formed line is not asked here.
    """
    if len(value) > MAX_LINE:
        raise CryptoSyntaxError("line longer than this side reads")
    if any(not (" " <= char <= "~" or char == "\t") for char in value):
        raise CryptoSyntaxError("character outside the grammar")
    fields = value.replace("\t", " ").strip(" ").split()
    if not fields or not _TAG.fullmatch(fields[0]):
        raise BadTag("the tag is not a decimal number of 1 to 9 digits without leading zeros")
    if len(fields) < 3:
        raise CryptoSyntaxError("tag, suite and key are needed")
    suite = find_suite(fields[1])
    if suite is None:
        raise UnknownSuite("crypto suite is not registered")
    keys = _parse_keys(fields[2], suite)
    params, fec_keys = _parse_session_params(fields[3:], suite)
    attribute = CryptoAttribute(int(fields[0]), suite, keys, params, fec_keys)
    if contains_repeated(attribute.all_keys):
        raise KeyReuse("the same key stands twice on one line")
    return attribute


def _parse_keys(text: str, suite: CryptoSuite) -> tuple[InlineKey, ...]:
    params = text.split(";")
    if len(params) > MAX_KEYS:
        raise CryptoSyntaxError("more keys than this side reads")
    keys = tuple(_parse_key(param, suite) for param in params)
    if len(keys) > 1:
        if any(key.mki is None for key in keys):
            raise BadMki("several keys need an MKI each")
        if len({key.mki for key in keys}) != len(keys):
            raise BadMki("two keys have the same MKI")
    if len({key.mki_length for key in keys}) > 1:
        raise BadMki("the MKI length differs between keys")
    return keys


def _parse_key(text: str, suite: CryptoSuite) -> InlineKey:
    match = _KEY_PARAM.fullmatch(text)
    if match is None:
        raise CryptoSyntaxError("key parameter does not follow the grammar")
    if match[1].lower() != "inline":
        raise BadKeyMethod("the key method is not inline")
    key_text, *options = match[2].split("|")
    key_salt = _decode_key(key_text, suite)
    lifetime = mki = None
    mki_length = 0
    if options and ":" not in options[0]:
        lifetime = _parse_lifetime(options.pop(0), suite)
    if options and ":" in options[0]:
        mki, mki_length = _parse_mki(options.pop(0))
    if options:
        raise CryptoSyntaxError("unexpected field behind the key")
    return InlineKey(key_salt, lifetime, mki, mki_length)


def _decode_key(text: str, suite: CryptoSuite) -> Secret:
    if not _BASE64.fullmatch(text):
        raise BadKeyLength("key and salt are not base64")
    bare = text.rstrip("=")
    try:
        octets = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        raise BadKeyLength("key and salt are not base64") from None
    if len(octets) != suite.key_salt_length:
        raise BadKeyLength(f"key and salt are {len(octets)} octets, the suite needs {suite.key_salt_length}")
    return Secret(octets)


def _parse_lifetime(text: str, suite: CryptoSuite) -> int:
    digits = text.removeprefix("2^")
    if not (_POSITIVE.fullmatch(digits) or text == "2^0"):
        raise BadLifetime("lifetime is not a non-zero decimal number or a power of two")
    if len(digits) > _MAX_DECIMALS:
        raise BadLifetime("lifetime is above the maximum of the suite")
    number = int(digits)
    if text != digits:
        if number > suite.max_srtp_packets.bit_length():
            raise BadLifetime("lifetime is above the maximum of the suite")
        number = 1 << number
    if number > suite.max_srtp_packets:
        raise BadLifetime("lifetime is above the maximum of the suite")
    return number


def _parse_mki(text: str) -> tuple[int, int]:
    value, _, length = text.partition(":")
    if len(value) > _MKI_DECIMALS or not _POSITIVE.fullmatch(value):
        raise BadMki("the MKI is not a positive decimal number without leading zeros")
    if len(length) > 3 or not _POSITIVE.fullmatch(length) or int(length) > MAX_MKI_LENGTH:
        raise BadMki("the MKI length is not 1 to 128 octets")
    if int(value).bit_length() > 8 * int(length):
        raise BadMki("the MKI does not fit its length")
    return int(value), int(length)


def _parse_session_params(texts: list[str], suite: CryptoSuite) -> tuple[tuple[str, ...], tuple[InlineKey, ...]]:
    """Return the known parameters in registered case and the FEC keys; unknown ones marked "-" are left out."""
    params: list[str] = []
    fec_keys: tuple[InlineKey, ...] = ()
    names: set[str] = set()
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.upper()
        if name in names:
            raise BadSessionParameter("a session parameter is repeated")
        names.add(name)
        if name in NEGOTIATED_PARAMETERS and not equals:
            params.append(name)
        elif name in _VALUED and equals and _VALUED[name].fullmatch(value):
            params.append(f"{name}={value.upper()}")
        elif name == "FEC_KEY" and equals:
            fec_keys = _parse_keys(value, suite)
        elif not text.startswith("-"):
            raise BadSessionParameter("unknown or malformed mandatory session parameter")
    return tuple(params), fec_keys


# The text of RFC 4568 6.3.1 wants a KDR of 1..24, the grammar of 9.2 says 0..24; 0 is read as "one derivation".
_VALUED = {
    "KDR": re.compile(r"0|[1-9]|1[0-9]|2[0-4]"),
    "WSH": re.compile(r"6[4-9]|[7-9][0-9]|[1-9][0-9]{2,8}"),
    "FEC_ORDER": re.compile(r"FEC_SRTP|SRTP_FEC", re.IGNORECASE),
}


def contains_repeated(keys: Sequence[Secret]) -> bool:
    """Tell whether two of `keys` are equal, each pair compared in constant time."""
    return any(key == other for index, key in enumerate(keys) for other in keys[:index])
