"""P-Charging-Vector as the CSCF writes it (RFC 7315 4.6, 5.6; operator identifier types from TS 24.229, assumed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from signalling.sip.grammar import quote, split_outside, unquote
from signalling.sip.message import SipMessage

HEADER = "P-Charging-Vector"
TYPE_1 = "Type 1"
"""Prefix of an inter operator identifier between P-CSCF and S-CSCF; type 2, between home networks, has none."""
TYPE_3 = "Type 3"
"""Prefix toward application servers."""


@dataclass(frozen=True)
class ChargingVector:
    """A charging vector; ``other`` keeps parameters this node does not use as they came."""

    icid: str
    orig_ioi: str = ""
    term_ioi: str = ""
    other: tuple[str, ...] = ()

    def format(self) -> str:
        """The header value."""
        parts = [f"icid-value={quote(self.icid)}", *self.other]
        if self.orig_ioi:
            parts.append(f"orig-ioi={quote(self.orig_ioi)}")
        if self.term_ioi:
            parts.append(f"term-ioi={quote(self.term_ioi)}")
        return ";".join(parts)


def parse_charging_vector(value: str | None) -> ChargingVector | None:
    """Read a header value; None when it is absent or has no icid-value."""
    vector = ChargingVector("")
    for piece in split_outside(value or "", ";"):
        name, _, text = piece.partition("=")
        content = unquote(text.strip())
        match name.strip().lower():
            case "icid-value":
                vector = replace(vector, icid=content)
            case "orig-ioi":
                vector = replace(vector, orig_ioi=content)
            case "term-ioi":
                vector = replace(vector, term_ioi=content)
            case _:
                vector = replace(vector, other=(*vector.other, piece))
    return vector if vector.icid else None


def stamp_request(message: SipMessage, orig_ioi: str, new_icid: Callable[[], str]) -> ChargingVector:
    """Put this network's ``orig_ioi`` into a request; keeps its icid or, without one, makes a new one."""
    vector = parse_charging_vector(message.headers.get(HEADER)) or ChargingVector(new_icid())
    vector = replace(vector, orig_ioi=orig_ioi, term_ioi="")
    message.headers.set(HEADER, vector.format())
    return vector


def stamp_response(message: SipMessage, request_vector: ChargingVector | None, term_ioi: str) -> None:
    """Answer a request's vector: same icid and orig-ioi, this network's ``term_ioi``."""
    vector = parse_charging_vector(message.headers.get(HEADER)) or request_vector
    if vector is not None:
        orig_ioi = vector.orig_ioi or (request_vector.orig_ioi if request_vector else "")
        message.headers.set(HEADER, replace(vector, orig_ioi=orig_ioi, term_ioi=term_ioi).format())
