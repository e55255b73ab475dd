"""The verdict of a call: the one JSON object of ``imslab call --json`` and the sentence a person reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab.control import Json
from lab.ladder_steps import MediaEnd

EXIT_ESTABLISHED = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
_SIDES = ("end", "access", "core")


@dataclass(frozen=True)
class Audio:
    """What one end heard: ratio to the reference in dB, loss 0..1, jitter in ms."""

    heard: bool
    snr_db: float
    loss: float
    jitter_ms: float

    def document(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {
            "heard": self.heard,
            "snr_db": round(self.snr_db, 1),
            "loss": round(self.loss, 4),
            "jitter_ms": round(self.jitter_ms, 2),
        }


@dataclass(frozen=True)
class Verdict:
    """How a call went. ``result``: established, refused or failed; ``setup_ms`` from INVITE to its final answer."""

    call_id: str
    trace_id: str
    result: str
    sip_status: int
    setup_ms: float
    security: str
    reason: str = ""
    legs: tuple[MediaEnd, ...] = ()
    audio: dict[str, Audio] = field(default_factory=dict)
    recordings: tuple[str, ...] = ()
    pcap: str = ""
    exchange: str = ""
    meaning: str = ""

    @property
    def exit_code(self) -> int:
        """0 established, 1 refused or failed."""
        return EXIT_ESTABLISHED if self.result == "established" else EXIT_REFUSED

    def document(self) -> dict[str, Json]:
        """Return the object that ``imslab call --json`` prints."""
        legs: list[Json] = [leg_document(leg) for leg in self.legs]
        audio: dict[str, Json] = {direction: heard.document() for direction, heard in self.audio.items()}
        document: dict[str, Json] = {
            "call_id": self.call_id,
            "trace_id": self.trace_id,
            "result": self.result,
            "sip_status": self.sip_status,
            "setup_ms": round(self.setup_ms, 2),
            "security": self.security,
            "legs": legs,
            "audio": audio,
            "reason": self.reason,
        }
        if self.meaning:
            document["meaning"] = self.meaning
        if self.recordings:
            document["recordings"] = list(self.recordings)
        if self.pcap:
            document["pcap"] = self.pcap
        if self.exchange:
            document["exchange"] = self.exchange
        return document


def leg_document(leg: MediaEnd) -> dict[str, Json]:
    """Return the JSON form of one leg."""
    return {
        "node": leg.node,
        "side": leg.side,
        "protection": leg.protection,
        "keying": leg.keying,
        "suite": leg.suite,
        "packets_in": leg.packets_in,
        "packets_out": leg.packets_out,
        "auth_failures": leg.auth_failures,
        "replays": leg.replays,
        "drops": dict(leg.drops),
        "stream": leg.stream,
    }


def join_legs(*reports: Iterable[MediaEnd], order: Sequence[str] = ()) -> tuple[MediaEnd, ...]:
    """Join what several sources say of the same legs: the report with more packets wins, fields it lacks are filled.

    ``order`` lists the nodes along the media path. A gateway that both ends share has its legs told apart by address.
    """
    joined: dict[tuple[str, str, str, str], MediaEnd] = {}
    for leg in (leg for report in reports for leg in report):
        key = (leg.node, leg.side, leg.stream or "1", leg.local)
        known = joined.get(key)
        joined[key] = leg if known is None else _merged(known, leg)
    caller = order[0] if order else ""
    near = {leg.remote for leg in joined.values() if leg.node == caller and leg.side == "end"}

    def outward(leg: MediaEnd) -> bool:
        if len(order) > 3:
            return leg.node in order[:2]
        return leg.node == caller or leg.side == "core" or leg.local in near

    def along_the_path(leg: MediaEnd) -> tuple[int, str]:
        step = _SIDES.index(leg.side) if leg.side in _SIDES else len(_SIDES)
        return (step if outward(leg) else 2 * len(_SIDES) + 1 - step), leg.stream

    return tuple(sorted(joined.values(), key=along_the_path))


def _merged(one: MediaEnd, other: MediaEnd) -> MediaEnd:
    first, second = (
        (one, other) if one.packets_in + one.packets_out > other.packets_in + other.packets_out else (other, one)
    )
    return MediaEnd(
        node=first.node,
        side=first.side,
        protection=first.protection or second.protection,
        keying=first.keying or second.keying,
        suite=first.suite or second.suite,
        stream=first.stream or second.stream,
        local=first.local or second.local,
        remote=first.remote or second.remote,
        packets_in=first.packets_in,
        packets_out=first.packets_out,
        auth_failures=max(first.auth_failures, second.auth_failures),
        replays=max(first.replays, second.replays),
        drops=max(first.drops, second.drops, key=lambda drops: sum(count for _, count in drops)),
    )


def explain(verdict: Verdict) -> str:
    """Say in one sentence why the verdict is what it is."""
    if verdict.result != "established":
        return f"SIP {verdict.sip_status}: {verdict.reason}" if verdict.reason else f"SIP {verdict.sip_status}"
    access = [leg for leg in verdict.legs if leg.side == "access"]
    core = [leg for leg in verdict.legs if leg.side == "core"]
    parts = [f"{leg.node} access {leg.protection}{f' ({leg.suite})' if leg.suite else ''}" for leg in access]
    if core:
        parts.append("core " + "/".join(sorted({leg.protection for leg in core})))
    faults = sum(leg.auth_failures + leg.replays for leg in verdict.legs)
    parts.append(f"{faults} packets failed their check" if faults else "every packet passed its check")
    deaf = [direction for direction, audio in verdict.audio.items() if not audio.heard]
    if verdict.audio:
        parts.append(f"not heard: {', '.join(deaf)}" if deaf else "audio heard both ways")
    return "; ".join(parts)
