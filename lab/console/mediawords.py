"""The media path of a call for the page: by what key each leg is protected, in words, and who could listen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.console.mediapath import OPAQUE, RTP, SDES, TICKET, End, Leg, Protection, Surroundings, legs_of, protections
from lab.control import Json, Params
from lab.spans import as_number


def document(streams: Mapping[str, Sequence[End]], kinds: Sequence[str], around: Surroundings) -> Params:
    """Return the media of a call: ``streams`` by number, ``kinds`` the media types of the offer in order.

    What was only reserved, in a call that nobody answered, is no media and left out.
    """
    found: list[Json] = []
    for number in sorted(streams, key=lambda text: (len(text), text)):
        if not around.answered and not any(end.passed for end in streams[number]):
            continue
        legs = legs_of(streams[number], around)
        kept = protections(legs, around.security)
        rows: list[Json] = [_row(leg, each, around) for leg, each in zip(legs, kept, strict=True)]
        stream = int(as_number(number)) or 1
        index = stream - 1
        found.append(
            {
                "n": stream,
                "kind": kinds[index] if 0 <= index < len(kinds) else "audio",
                "clear": around.answered and any(each.clear for each in kept),
                "legs": rows,
            }
        )
    return {"streams": found}


def _row(leg: Leg, kept: Protection, around: Surroundings) -> Params:
    return {
        "from": leg.source,
        "to": leg.target,
        "side": leg.side,
        "protection": kept.protection,
        "scope": kept.scope,
        "keying": kept.keying,
        "suite": kept.suite,
        "clear": around.answered and kept.clear,
        "key": key_words(leg, kept, around),
        "readable_by": [{"name": name, "why": why} for name, why in readers(leg, kept, around).items()],
        "a_to_b": _flow(leg.near, leg.far),
        "b_to_a": _flow(leg.far, leg.near),
    }


def _flow(sender: End | None, receiver: End | None) -> Params:
    drops: dict[str, Json] = {**receiver.drops} if receiver is not None else {}
    looked = receiver if receiver is not None and receiver.protection != OPAQUE else None  # what is opaque has no RTP
    return {
        "packets": receiver.packets_in if receiver is not None else sender.packets_out if sender is not None else 0,
        "lost": looked.lost if looked is not None else None,
        "jitter_ms": round(looked.jitter_ms, 3) if looked is not None and looked.jitter_ms is not None else None,
        "auth_failures": receiver.auth_failures if receiver is not None else 0,
        "replays": receiver.replays if receiver is not None else 0,
        "drops": drops,
    }


def _edge(leg: Leg, around: Surroundings) -> tuple[str, str, str]:
    """Return UE, gateway and P-CSCF of an access leg."""
    gateway = next((name for name in (leg.source, leg.target) if around.kinds.get(name) == "imsagw"), "")
    ue = leg.target if leg.source == gateway else leg.source
    network = around.networks.get(gateway, "")
    pcscf = next((name for name in _of_kind(around, "pcscf") if around.networks.get(name) == network), "the P-CSCF")
    return ue, gateway or "the gateway", pcscf


def _of_kind(around: Surroundings, kind: str) -> list[str]:
    return [name for name in around.nodes if around.kinds.get(name) == kind]


def key_words(leg: Leg, kept: Protection, around: Surroundings) -> str:
    """Say by what key a leg is protected and how both ends came to it."""
    if not around.answered:
        return "No media: nobody answered. This is what was reserved for it."
    if kept.protection == RTP:
        return "No key: RTP in the clear."
    if kept.protection == OPAQUE:
        return "Forwarded untouched; no node said what protects it."
    if kept.keying == TICKET:
        kms = " and ".join(around.kms) or "the KMS"
        return (
            f"From a ticket of {kms}: {around.caller} put it into its offer, {around.callee} had it resolved, and both"
            " derive the keys from it. No node in between has them."
        )
    if kept.scope == "e2e" and kept.keying != SDES:
        return (
            f"Agreed between {around.caller} and {around.callee} by {kept.keying}; the gateways forward without keys."
        )
    if kept.scope == "e2e":
        return (
            f"{around.caller} and {around.callee} each chose the key they send with and told it in SDP, end to end; the"
            " gateways forward without keys."
        )
    if leg.side == "core":
        return "Each end chose the key it sends with and told it in SDP."
    ue, gateway, pcscf = _edge(leg, around)
    return (
        f"{ue} and {gateway} each chose the key they send with; they were exchanged in SDP between {ue} and {pcscf},"
        f" and {gateway}, where the protection ends, had them from {pcscf} over Iq."
    )


def readers(leg: Leg, kept: Protection, around: Surroundings) -> dict[str, str]:
    """Return who can turn the packets of a leg into sound, and why; ``*`` is anybody on that network."""
    found: dict[str, str] = {}
    if not around.answered:
        return found
    if kept.clear:
        found[leg.source] = "sends and receives it in the clear"
        found[leg.target] = "sends and receives it in the clear"
        where = "the core network" if leg.side == "core" else around.networks.get(_edge(leg, around)[1], "the access")
        found["*"] = f"anybody on the way through {where}: it is not encrypted"
        return found
    if kept.protection == OPAQUE:
        return found
    if kept.scope != "e2e":
        ue, gateway, pcscf = _edge(leg, around)
        found[ue] = "holds the keys"
        found[gateway] = "ends the protection here"
        found[pcscf] = "passes the keys on: they stand in the SDP it handles"
        if ue in around.clear_gm:
            found["*"] = f"anybody between {ue} and {pcscf}: the keys stand in signalling that is not encrypted"
        return found
    found[around.caller] = found[around.callee] = "holds the keys"
    if kept.keying == TICKET:
        for kms in around.kms:
            found[kms] = "made or resolved the ticket the keys come from"
    if kept.keying != SDES:
        return found
    for name in around.nodes:
        if around.kinds.get(name) in ("pcscf", "cscf"):
            found[name] = "the keys stand in the SDP that passes through it"
    if around.clear_gm:
        clear = " and ".join(sorted(around.clear_gm))
        found["*"] = f"anybody between {clear} and the P-CSCF: the keys stand in signalling that is not encrypted"
    return found
