"""Patterns of identities in policies: ``*`` in user part and host, and words for domains (6.2.3.2, assumed)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from keying.mikey.identity import WILDCARD


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """`*` is any run of characters but ``@``, so that no pattern reaches from the user part into the host."""
    return re.compile("[^@]*".join(map(re.escape, pattern.split(WILDCARD))))


def covers(pattern: str, identity: str) -> bool:
    """`identity` (or every identity that the wildcard `identity` stands for) fits `pattern`.

    Both in the form of ``keying.mikey.identity.normalise``. A lone ``*`` is everybody. Of an `identity` with wildcards
    each ``*`` has to fall into one of the pattern's, so what it stands for is covered too.
    """
    return pattern == WILDCARD or _compiled(pattern).fullmatch(identity) is not None


def covered(patterns: Iterable[str], identity: str) -> bool:
    """One of the patterns covers the identity."""
    return any(covers(pattern, identity) for pattern in patterns)


def expand(patterns: Iterable[str], words: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Replace the words for domains: ``@home`` is ``sip:*@`` and each home domain, ``*@`` is ``sip:*@``."""
    found: list[str] = []
    for pattern in patterns:
        if pattern in words:
            found.extend(f"sip:*@{domain}" for domain in words[pattern])
        elif pattern.startswith("*@"):
            found.append(f"sip:{pattern}")
        else:
            found.append(pattern)
    return tuple(dict.fromkeys(found))


def host_of(identity: str) -> str:
    """The host of a SIP URI in the normal form, without a port; empty for any other identity."""
    scheme, _, rest = identity.partition(":")
    if scheme not in {"sip", "sips"} or not rest:
        return ""
    host = re.split(r"[;?]", rest.rpartition("@")[2], maxsplit=1)[0]
    return host if host.startswith("[") else host.partition(":")[0]
