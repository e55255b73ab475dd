"""SDES keys between Iq messages, `a=crypto` values and the relay (RFC 4568 6.1, SDES-13)."""

from collections.abc import Iterable, Sequence

from keying.sdes import CryptoAttribute, InlineKey, generate
from keying.secret import Secret
from keying.suites import SUITES
from media.relay import KeySet, MasterKey
from nodes.imsagw.errors import KEY, SUITE, iq_error
from protos.iq_pb2 import CryptoAttr

_HARMLESS = ("WSH=", "FEC_ORDER=FEC_SRTP", "-")


def read_crypto(message: CryptoAttr, stream: int) -> CryptoAttribute:
    """Read the peer's key. Raises ProblemError IQ_449 for a suite, IQ_X01 for a key length, IQ_445 for a parameter."""
    suite = SUITES.get(message.suite)
    if suite is None:
        raise iq_error("449", f"suite {message.suite[:40]!r} is not known", stream=stream, param=SUITE)
    if len(message.key_salt) != suite.key_salt_length:
        raise iq_error(
            "X01", f"{suite.name} takes a key and salt of {suite.key_salt_length} octets", stream=stream, param=KEY
        )
    if message.mki_length > 128 or message.mki >> (8 * message.mki_length):
        raise iq_error("449", "the MKI does not fit its length", stream=stream, param=KEY)
    if message.lifetime > suite.max_srtp_packets:
        raise iq_error("449", "the lifetime exceeds the suite's", stream=stream, param=KEY)
    for parameter in message.session_params:
        if not parameter.upper().startswith(_HARMLESS):
            raise iq_error("445", f"session parameter {parameter[:40]!r} is not supported", stream=stream, param=KEY)
    key = InlineKey(
        Secret(message.key_salt),
        message.lifetime or None,
        message.mki if message.mki_length else None,
        message.mki_length,
    )
    return CryptoAttribute(message.tag, suite, (key,))


def write_crypto(line: CryptoAttribute) -> CryptoAttr:
    """Encode a line of the gateway for the answer to the IMS-ALG, its only way out."""
    key = line.keys[0]
    return CryptoAttr(
        tag=line.tag,
        suite=line.suite.name,
        key_salt=key.key_salt.reveal(),
        lifetime=key.lifetime or 0,
        mki=key.mki or 0,
        mki_length=key.mki_length,
        session_params=line.session_params,
    )


def make_lines(suites: Sequence[str], tag: int, carried: Iterable[str], stream: int) -> tuple[CryptoAttribute, ...]:
    """Make fresh keys, one line a suite. Raises ProblemError IQ_449 when none of the suites is carried."""
    known = frozenset(carried)
    usable = [name for name in suites if name in known] if suites else [*known][:1]
    if not usable:
        raise iq_error("449", "none of the suites is carried", stream=stream, param=SUITE)
    first = tag or 1
    return tuple(generate(name, first + offset) for offset, name in enumerate(usable))


def key_set(line: CryptoAttribute | None) -> KeySet | None:
    """Turn a line into the keys of one direction."""
    if line is None:
        return None
    keys = tuple(MasterKey(key.key_salt, key.lifetime, key.mki or 0, key.mki_length) for key in line.keys)
    return KeySet(line.suite, keys)
