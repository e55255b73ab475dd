"""Key management: SDES, MIKEY-TICKET and the type that keys live in. No sockets, no clocks, no logging.

The names in ``__all__`` are the stable interface for packages of others (docs/api.md); everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keying.modes import BUILT_IN, ModeFacts, ModeRefused, SecurityMode
    from keying.redaction import redact
    from keying.sdes import (
        CryptoAttribute,
        InlineKey,
        SdesError,
        SdesPolicy,
        answer_for,
        choose,
        generate,
        parse_crypto,
        verify_answer,
    )
    from keying.secret import Secret
    from keying.suites import DEFAULT_SUITES, SUITES, CryptoSuite, find_suite

__all__ = [
    "BUILT_IN",
    "DEFAULT_SUITES",
    "SUITES",
    "CryptoAttribute",
    "CryptoSuite",
    "InlineKey",
    "ModeFacts",
    "ModeRefused",
    "SdesError",
    "SdesPolicy",
    "Secret",
    "SecurityMode",
    "answer_for",
    "choose",
    "find_suite",
    "generate",
    "parse_crypto",
    "redact",
    "verify_answer",
]

_HOMES = {
    "BUILT_IN": "keying.modes",
    "CryptoAttribute": "keying.sdes",
    "CryptoSuite": "keying.suites",
    "DEFAULT_SUITES": "keying.suites",
    "InlineKey": "keying.sdes",
    "ModeFacts": "keying.modes",
    "ModeRefused": "keying.modes",
    "SUITES": "keying.suites",
    "SdesError": "keying.sdes",
    "SdesPolicy": "keying.sdes",
    "Secret": "keying.secret",
    "SecurityMode": "keying.modes",
    "answer_for": "keying.sdes",
    "choose": "keying.sdes",
    "find_suite": "keying.suites",
    "generate": "keying.sdes",
    "parse_crypto": "keying.sdes",
    "redact": "keying.redaction",
    "verify_answer": "keying.sdes",
}
"""Where each public name is defined; it is loaded when it is asked for, so that a node loads what it uses."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        value = globals()[name] = getattr(import_module(home), name)
        return value
