"""Frames of a live capture: what nodes told, as packets whose comments say who saw them and of which call they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from lab.capture_http2 import Http2View
from lab.capture_merge import MEDIA, Seen
from lab.pcapng import NOWHERE, TCP, UDP, Frame, sip_payload
from protos import capture_pb2

_PHASES = {
    capture_pb2.SbaStep.REQUEST: "request",
    capture_pb2.SbaStep.RESPONSE: "response",
    capture_pb2.SbaStep.END: "status",
}


class Frames:
    """Turns messages into frames; ``names`` gives the node behind an FQDN, ``with_keys`` what SIP is said to show."""

    def __init__(self, names: Mapping[str, str], *, with_keys: bool) -> None:
        self._names = names
        self._with_keys = with_keys
        self._http2 = Http2View()
        self._notes: dict[tuple[tuple[str, int], tuple[str, int]], list[str]] = {}

    def key(self, source: tuple[str, int], destination: tuple[str, int], note: str) -> None:
        """Let the next packet of a direction say under which key it goes."""
        self._notes.setdefault((source, destination), []).append(note)

    def of(self, seen: Seen) -> Iterator[Frame]:
        """Yield the frames of a message, mostly one."""
        if seen.kind == MEDIA:
            notes = [seen.comment, *self._notes.pop((seen.source, seen.destination), ())]
            yield self._frame(seen, UDP, seen.payload, notes)
        elif seen.sba is not None:
            yield from self._rpc(seen, seen.sba)
        else:
            protocol = UDP if seen.transport == "UDP" else TCP
            inside = "shown decrypted" if seen.transport == "TLS" else ""
            if seen.kind == capture_pb2.CAPTURE_SIP:
                masked = "" if self._with_keys else "keys are masked"
                notes = [f"{seen.comment} over {seen.transport}", inside, masked]
                yield self._frame(seen, protocol, sip_payload(seen.payload), notes)
            else:
                yield self._frame(seen, protocol, seen.payload, ["HTTPS", seen.comment or inside])

    def _rpc(self, seen: Seen, step: capture_pb2.SbaStep) -> Iterator[Frame]:
        what = f"SBA {_PHASES.get(step.phase, '')} {step.path}"
        consumer = self._names.get(step.peer, step.peer)
        asking = step.phase == capture_pb2.SbaStep.REQUEST
        who = f"of {consumer}" if consumer and not (asking and seen.sent) else ""
        for piece in self._http2.pieces(seen.node, step, _whole(seen.source), _whole(seen.destination)):
            notes = [what, who, piece.comment or seen.comment, "HTTP/2 framing rebuilt"]
            yield self._frame(seen, TCP, piece.octets, notes, piece.source, piece.destination)

    @staticmethod
    def _frame(
        seen: Seen,
        protocol: int,
        payload: bytes,
        notes: list[str],
        source: tuple[str, int] | None = None,
        destination: tuple[str, int] | None = None,
    ) -> Frame:
        said = [
            *notes,
            f"call {seen.correlation}" if seen.correlation else "",
            f"trace {seen.trace_id}" if seen.trace_id else "",
            f"{seen.lost_before} of this node lost before this one" if seen.lost_before else "",
        ]
        comment = f"{seen.node}: {'; '.join(filter(None, said))}"
        return Frame(
            seen.time_ns,
            seen.node,
            protocol,
            source or seen.source,
            destination or seen.destination,
            payload,
            comment,
        )


def _whole(address: tuple[str, int]) -> tuple[str, int]:
    """The address as a packet can hold it: a node may tell a name, of the NRF in containers say, or anything else."""
    try:
        ip_address(address[0])
    except ValueError:
        return NOWHERE, address[1]
    return address
