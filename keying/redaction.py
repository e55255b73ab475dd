"""Masks secrets in SIP and SDP text before it is logged or put on a span."""

import base64
import re
from collections.abc import Callable
from typing import AnyStr

from keying.mikey.sealed import shows_no_key

MASK = "<redacted>"

_KEY_OPTIONS = re.compile(r"((?:\|(?:2\^)?[0-9]{1,20})?(?:\|[0-9]{1,20}:[0-9]{1,3})?)$")


def _mask_key(match: re.Match[str]) -> str:
    """Mask a key parameter but keep its lifetime and MKI, which help a reader and give nothing away."""
    options = _KEY_OPTIONS.search(match[2])
    return match[1] + MASK + (options[1] if options else "")


def _mask_value(match: re.Match[str]) -> str:
    return match[1] + MASK


def _is_sealed(text: str) -> bool:
    try:
        return shows_no_key(base64.b64decode(text, validate=True))
    except ValueError:
        return False


def _mask_unsealed(match: re.Match[str]) -> str:
    """Keep a MIKEY message that has no key to show: a trace without it says little of the call."""
    return match[0] if _is_sealed(match[2].strip(" \t")) else match[1] + MASK


def _mask_password(match: re.Match[str]) -> str:
    return f"{match[1]}{MASK}@" if match[3] else match[0]


def _mask_parameter(match: re.Match[str]) -> str:
    value = match[2]
    if value.strip('\\"') == "":
        return match[0]
    quote = value[: len(value) - len(value.lstrip('\\"'))]
    return f"{match[1]}{quote}{MASK}{quote}"


_SECOND_OF_URI = r"(sips?:[^\s:@<>;,\"]+:)([^\s@<>,;\"]+)(@?)"
"""What may be a password takes in all its characters, with or without an @ behind them: a text like sip:asip:asip:a
is then read once, and not once more from each of its beginnings."""
_lower_uri_password = re.compile(_SECOND_OF_URI)


def _has_uri_password(lower: str) -> bool:
    return any(found[3] for found in _lower_uri_password.finditer(lower))


_RULES: tuple[tuple[Callable[[str], object], re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    # SDES keys wherever they stand: a=crypto, a=acap, FEC_KEY, malformed lines (RFC 4568, RFC 5939).
    (
        re.compile(r"inline").search,
        re.compile(r"(inline\s*(?::|%3a)\s*)([^\s;]*)", re.IGNORECASE),
        _mask_key,
    ),
    # Key methods other than inline, which nobody has defined yet.
    (
        re.compile(r"crypto:[ \t]*[0-9]+[ \t]+\S+[ \t]+(?!inline)").search,
        re.compile(r"(crypto:[ \t]*[0-9]+[ \t]+\S+[ \t]+(?!inline)[a-z0-9_]+:)([^\s;]+)", re.IGNORECASE),
        _mask_value,
    ),
    # Pre-shared-key MIME and SDP k= lines (RFC 8866 5.12).
    (
        re.compile(r"k=[cbu]").search,
        re.compile(r"(^k=(?:clear|base64|uri):)(\S+)", re.IGNORECASE | re.MULTILINE),
        _mask_value,
    ),
    # MIKEY (RFC 4567), but for the messages of a Ticket Transfer.
    (
        re.compile(r"key-mgmt[ \t]*:").search,
        re.compile(r"(key-mgmt[ \t]*:\s*mikey\s+)([^\r\n\\]+)", re.IGNORECASE),
        _mask_unsealed,
    ),
    # Digest and AKA: what proves or carries a key (RFC 7616, RFC 3310, TS 33.203).
    (
        re.compile(r"(?:response|rspauth|auts|ik|ck)\s*=").search,
        re.compile(
            r'((?<![\w-])(?:response|rspauth|auts|ik|ck)\s*=\s*)(\\?"[^"\\\r\n]*(?:\\?")?|[^\s,;"\\]+)', re.IGNORECASE
        ),
        _mask_parameter,
    ),
    # Passwords in SIP URIs (RFC 3261 19.1.1).
    (_has_uri_password, re.compile(_SECOND_OF_URI, re.IGNORECASE), _mask_password),
)
"""A mark no secret of the kind goes without, in lower case and quick to look for; the secret; how it is masked.

Text comes from anybody: no pattern may read the same octets from many beginnings.
"""


_SDES_RULES = 2
"""The first rules are about media keys in SDP and nothing else."""


def redact(text: AnyStr, *, media_keys: bool = False) -> AnyStr:
    """Return `text` with keys, digest responses, AUTS, IK, CK and URI passwords replaced by a mask.

    So are MIKEY messages, but for those of a Ticket Transfer in which every key is encrypted. Works on any text, whole
    or cut; what is not a secret stays as it is. `media_keys` leaves SDES keys as they are, for a capture that the lab's
    key export switch allows to hold them.
    """
    first = _SDES_RULES if media_keys else 0
    if isinstance(text, bytes):
        return _redact(text.decode("latin-1"), first).encode("latin-1")
    return _redact(text, first)


_SPACE = r"(?:(?:\r?\n)?[ \t])*"
"""White space of a header field, folded or not (SWS of RFC 3261 25.1)."""
_MIKEY_TYPE = re.compile(
    rf"^(?:content-type|c)[ \t]*:{_SPACE}application{_SPACE}/{_SPACE}mikey\b", re.IGNORECASE | re.MULTILINE
)
_BLANK_LINE = re.compile(r"\r?\n\r?\n")


def _mask_mikey_body(text: str) -> str:
    """Mask a body of MIKEY, octets or base64, to the end of the text: in octets nothing else marks their end."""
    head = _MIKEY_TYPE.search(text)
    blank = _BLANK_LINE.search(text, head.end()) if head is not None else None
    if blank is None:
        return text
    body = text[blank.end() :]
    octets = body.encode("latin-1", "replace")
    if not body or shows_no_key(octets) or _is_sealed("".join(body.split())):
        return text
    return text[: blank.end()] + MASK


def _redact(text: str, first: int) -> str:
    text = _mask_mikey_body(text)
    lower = text.lower() if text.isascii() else ""  # other scripts have letters that match i, k or s without case
    for mark, pattern, mask in _RULES[first:]:
        if not lower or mark(lower):
            text = pattern.sub(mask, text)
    return text
