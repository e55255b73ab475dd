"""What every exchange does to its messages: timestamps, random values, MACs over what was received, error messages.

A MAC is computed over the octets as they came (RFC 6043 5.5); nothing that was received is encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from keying.mikey import cipher, codec
from keying.mikey.errors import (
    InvalidPrf,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    PeerError,
    Unspecified,
    UnsupportedDataType,
)
from keying.mikey.kdf import MIN_KEY_OCTETS, MessageKeys, Suite, suite_of
from keying.mikey.ntp import from_unix, t64, to_unix
from keying.mikey.payloads import (
    ErrorPayload,
    Header,
    Kemac,
    KeyData,
    Message,
    Payload,
    RandRoled,
    SecurityPolicy,
    Timestamp,
    Verification,
)
from keying.mikey.profile import Profile
from keying.mikey.registry import CsIdMapType, DataType, KeyDataType, PrfFunc, RandRole
from keying.mikey.replay import check_skew
from keying.secret import Secret

Entropy = Callable[[int], bytes]
"""Octets of a cryptographic random source, by number."""
P = TypeVar("P", bound=Payload)

_TRANSFER = frozenset({DataType.TRANSFER_INIT, DataType.TRANSFER_RESP})


def protect(header: Header, payloads: Sequence[Payload], suite: Suite, auth_key: Secret, suffix: bytes = b"") -> bytes:
    """Return the message with a V at its end, whose MAC covers the message and `suffix` (RFC 6043 table 5.2)."""
    blank = Verification(suite.mac_alg, bytes(suite.mac_alg.length))
    covered = codec.encode(Message(header, (*payloads, blank)))[: -suite.mac_alg.length]
    return covered + cipher.mac(suite.mac_alg, auth_key, covered + suffix)


def verify(message: Message, suite: Suite, auth_key: Secret, suffix: bytes = b"") -> None:
    """Check V of a received message. Raises InvalidMac for another algorithm, AuthenticationFailure."""
    verification = verification_of(message, suite)
    covered = codec.without_mac(message)
    cipher.verify_mac(suite.mac_alg, auth_key, covered + suffix, verification.mac)


def verification_of(message: Message, suite: Suite) -> Verification:
    """Return V, the last payload and the only one of its kind. Raises MalformedMessage, InvalidMac."""
    verification = one(message, Verification, "V")
    if message.payloads[-1] is not verification:
        raise MalformedMessage("V", "not the last payload")
    suite_of(suite.prf, mac_alg=verification.auth_alg)
    return verification


def read(octets: bytes, *expected: DataType) -> Message:
    """Return a message of one of the `expected` data types.

    Raises PeerError for an Error message where none is expected, UnsupportedDataType for another, MalformedMessage.
    """
    header, _, _ = codec.decode_header(octets)
    if header.data_type is DataType.ERROR and DataType.ERROR not in expected:
        message = codec.decode(octets)
        raise PeerError(tuple(each.number for each in message.payloads if isinstance(each, ErrorPayload)))
    if header.data_type not in expected:
        raise UnsupportedDataType("HDR", f"{header.data_type.name} is not expected here")
    return codec.decode(octets)


def check_suite(profile: Profile, prf: PrfFunc) -> Suite:
    """Return the suite of a message's PRF. Raises InvalidPrf where the profile does not take it."""
    suite = suite_of(prf)
    if suite.name not in profile.suites_accepted:
        raise InvalidPrf("PRF func", f"the {suite.name}-bit algorithms are not taken here")
    return suite


def check_time(profile: Profile, message: Message, now: float) -> float:
    """Return T as Unix seconds. Raises InvalidTimestamp for a type that is not taken or outside the skew."""
    timestamp = one(message, Timestamp, "T")
    if timestamp.ts_type not in profile.ts_types_accepted:
        raise InvalidTimestamp("T", f"type {timestamp.ts_type.name} is not taken here")
    sent = to_unix(timestamp)
    check_skew(sent, now, profile.clock_skew_s)
    return sent


def check_empty_map(message: Message) -> None:
    """Check that a Request or Resolve message has no crypto sessions (RFC 6043 4.2.1.1). Raises MalformedMessage."""
    if message.header.map_type is not CsIdMapType.EMPTY or message.header.sessions:
        raise MalformedMessage("CS ID map", "Request and Resolve have the empty map and no crypto sessions")


def check_response(message: Message, initial: Header) -> None:
    """Check that a response repeats version, PRF and CSB ID (RFC 6043 4.2.1.5, 4.2.2.3). Raises MalformedMessage."""
    header = message.header
    if (header.version, header.prf, header.csb_id) != (initial.version, initial.prf, initial.csb_id):
        raise MalformedMessage("HDR", "version, PRF or CSB ID are not those of the initial message")


def one(within: Message | Sequence[Payload], kind: type[P], where: str) -> P:
    """Return the one payload of its kind. Raises MalformedMessage where there is none or another."""
    found = optional(within, kind, where)
    if found is None:
        raise MalformedMessage(where, "missing")
    return found


def optional(within: Message | Sequence[Payload], kind: type[P], where: str) -> P | None:
    """Return the one payload of its kind, or None. Raises MalformedMessage for a second."""
    payloads = within.payloads if isinstance(within, Message) else within
    found = [payload for payload in payloads if isinstance(payload, kind)]
    if len(found) > 1:
        raise MalformedMessage(where, "stands there more than once")
    return found[0] if found else None


def rand_of(message: Message, role: RandRole) -> bytes | None:
    """Return the random value of `role`, or None. Raises MalformedMessage for a second."""
    found = [each.value for each in message.payloads if isinstance(each, RandRoled) and each.role == role]
    if len(found) > 1:
        raise MalformedMessage(f"RANDR {role.name}", "stands there more than once")
    return found[0] if found else None


def needed_rand(profile: Profile, message: Message, role: RandRole) -> bytes:
    """Return the random value of `role`, long enough for any key. Raises MalformedMessage, Unspecified."""
    value = rand_of(message, role)
    if value is None:
        raise MalformedMessage(f"RANDR {role.name}", "missing")
    if len(value) < profile.rand_min_octets:
        raise Unspecified(f"RANDR {role.name}", f"shorter than {profile.rand_min_octets} octets")
    return value


def check_rand(length: int, *keys: Secret) -> None:
    """Check that random values of `length` octets in all are as long as the longest key (RFC 6043 12.1).

    Raises Unspecified.
    """
    if any(length < len(key) for key in keys):
        raise Unspecified("RANDR", "the random values are shorter than the longest key")


def timestamp(profile: Profile, now: float) -> Timestamp:
    """Return T for `now`."""
    return from_unix(now, profile.ts_type)


def csb_id(entropy: Entropy) -> int:
    """Return a random CSB ID."""
    return int.from_bytes(entropy(4), "big")


def iv_time(message: Message) -> bytes:
    """Return T of the message that carries a KEMAC, 64 bits for its IV: in a response too its own (assumed).

    RFC 3830 4.2.3 takes "T sent by the Initiator", when no response had a T or a KEMAC of its own.
    """
    return t64(one(message, Timestamp, "T"))


def open_keys(message: Message, keys: MessageKeys) -> tuple[KeyData, ...]:
    """Return the keys of a verified message's KEMAC. Raises MalformedMessage where keys lack or share an SPI."""
    opened = cipher.open_kemac(one(message, Kemac, "KEMAC"), keys, message.header.csb_id, iv_time(message))
    check_spis(opened)
    return opened


def check_spis(keys: Sequence[KeyData]) -> None:
    """Check that each key has an SPI of its own (RFC 6043 6.2.1) and 128 bits. Raises MalformedMessage, Unspecified."""
    spis = [key.spi for key in keys]
    if not all(spis) or len(set(spis)) != len(spis):
        raise MalformedMessage("KEMAC", "a key has no SPI of its own")
    if any(len(key.key) < MIN_KEY_OCTETS for key in keys):
        raise Unspecified("KEMAC", "a key of less than 128 bits")


def check_strength(suite: Suite, keys: Sequence[KeyData]) -> None:
    """Check that no key is longer than the algorithms that protect it (RFC 6043 12.1). Raises Unspecified."""
    if any(8 * len(key.key) > suite.key_bits for key in keys):
        raise Unspecified("KEMAC", f"a key that is too long for the {suite.name}-bit algorithms (RFC 6043 12.1)")


def split_keys(keys: Sequence[KeyData], protection: int) -> tuple[tuple[KeyData, ...], tuple[KeyData, ...]]:
    """Return the `protection` MPKs a KEMAC begins with, and its session keys. Raises MalformedMessage."""
    mpks, rest = tuple(keys[:protection]), tuple(keys[protection:])
    if len(mpks) != protection or any(key.key_type is not KeyDataType.MPK for key in mpks):
        raise MalformedMessage("KEMAC", f"does not begin with {protection} MPK")
    if any(key.key_type is KeyDataType.MPK for key in rest):
        raise MalformedMessage("KEMAC", "one MPK too many")
    return mpks, rest


def error_message(
    octets: bytes,
    error: MikeyError,
    profile: Profile,
    now: float,
    *,
    auth: tuple[Suite, Secret] | None = None,
    policies: Sequence[SecurityPolicy] = (),
) -> bytes | None:
    """Return the Error message about a message, or None to stay silent (RFC 6043 5.4).

    Never about an Error message, nor where `error` has no number. With `auth` it is authenticated by the auth_key of
    the failing message; `policies` are those supported, in the Transfer exchange alone.
    """
    if error.number is None:
        return None
    try:
        failing, _, _ = codec.decode_header(octets)
    except MikeyError:
        return None
    if failing.data_type is DataType.ERROR:
        return None
    # The empty map says that there is no SP (RFC 4563 5).
    listed = tuple(policies) if failing.data_type in _TRANSFER else ()
    map_type = CsIdMapType.GENERIC_ID if listed else CsIdMapType.EMPTY
    header = Header(DataType.ERROR, failing.csb_id, failing.prf, map_type=map_type, version=failing.version)
    payloads: tuple[Payload, ...] = (timestamp(profile, now), ErrorPayload(int(error.number)), *listed)
    if auth is None:
        return codec.encode(Message(header, payloads))
    return protect(header, payloads, *auth)


def raise_error(octets: bytes, initial: Header, auth: tuple[Suite, Secret] | None = None) -> None:
    """Raise PeerError where `octets` are an Error message about the message with header `initial`.

    An authenticated one with a wrong MAC, or one about another message, raises AuthenticationFailure or
    MalformedMessage: what the peer did not send must not end an exchange.
    """
    if codec.decode_data_type(octets) is not DataType.ERROR:
        return
    message = codec.decode(octets)
    check_response(message, initial)
    authenticated = False
    if isinstance(message.payloads[-1] if message.payloads else None, Verification) and auth is not None:
        verify(message, *auth)
        authenticated = True
    numbers = tuple(each.number for each in message.payloads if isinstance(each, ErrorPayload))
    raise PeerError(numbers, authenticated=authenticated)
