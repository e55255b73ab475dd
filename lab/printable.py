"""Text that came from the network, made fit for a terminal: what would command it, or turn its order, is spelled out.

Call-IDs, reasons and display names are written by whoever sends SIP; a terminal obeys ESC sequences and the control
characters of ISO 6429, and shows text behind a bidirectional control in another order than it has (UAX #9).
"""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 but for tab and line feed, DEL, line and paragraph separators, bidirectional controls."""


def printable(text: str) -> str:
    """Return ``text`` with every unsafe character as ``\\uXXXX``, which is also what JSON would write."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return ``text`` printable and without line feeds or tabs, so that it cannot pretend to be a line of its own."""
    return printable(text).replace("\n", "\\u000a").replace("\t", " ")
