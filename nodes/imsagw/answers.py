"""What the gateway tells the IMS-ALG about its contexts, as Iq messages."""

from collections.abc import Iterable

from media.relay import RelayStatistics, Side
from nodes.imsagw.context import Context, StreamRecord, Termination
from nodes.imsagw.crypto import write_crypto
from protos import iq_pb2

SIDES = {iq_pb2.ACCESS: Side.ACCESS, iq_pb2.CORE: Side.CORE}
_PROTO_SIDES = {side: number for number, side in SIDES.items()}


def termination_info(
    termination: Termination, records: Iterable[StreamRecord], *, with_keys: bool
) -> iq_pb2.TerminationInfo:
    """Describe a termination; keys only in the answer to the one who asked for them."""
    return iq_pb2.TerminationInfo(
        termination_id=termination.termination_id,
        side=_PROTO_SIDES[termination.side],
        interface_id=termination.interface_id,
        streams=[local_info(record, with_keys=with_keys) for record in records],
    )


def local_info(record: StreamRecord, *, with_keys: bool) -> iq_pb2.LocalInfo:
    """Describe the gateway's end of a stream."""
    info = iq_pb2.LocalInfo(stream_id=record.stream_id)
    if record.local is not None:
        info.ip, info.port, info.rtcp_port = record.local.ip, record.local.port, record.local.rtcp_port
    if with_keys:
        info.sdes_local.extend(write_crypto(line) for line in record.offered)
    return info


def statistics(context: Context, counters: Iterable[RelayStatistics], only: str = "") -> list[iq_pb2.StreamStatistics]:
    """Write the counters of a context's streams, or those of one termination, in the order of the streams."""
    rows = []
    for counter in counters:
        stream_id = int(counter.stream_id.rpartition("/")[2])
        for name, side in counter.sides.items():
            termination = context.termination(name)
            if termination is None or only not in ("", termination.termination_id):
                continue
            row = iq_pb2.StreamStatistics(
                stream_id=stream_id,
                termination_id=termination.termination_id,
                side=_PROTO_SIDES[name],
                protection=side.protection.value,
                suite=side.suite,
                packets_in=side.packets_in,
                packets_out=side.packets_out,
                octets_in=side.octets_in,
                octets_out=side.octets_out,
                rtcp_in=side.rtcp_in,
                rtcp_out=side.rtcp_out,
                auth_failures=side.auth_failures,
                replays=side.replays,
                latch_changes=side.latch_changes,
                lost=side.lost,
                jitter_ms=side.jitter_ms,
                duration_s=side.duration_s,
            )
            row.drops.extend(iq_pb2.Drop(cause=cause.value, packets=count) for cause, count in side.drops.items())
            if side.latched is not None:
                host, port = side.latched
                row.latched = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            rows.append(row)
    return sorted(rows, key=lambda row: (row.stream_id, row.side))


def context_audit(context: Context, counters: Iterable[RelayStatistics]) -> iq_pb2.ContextAudit:
    """Describe a context without any key."""
    return iq_pb2.ContextAudit(
        context_id=context.context_id,
        correlation=context.correlation,
        owner=context.owner,
        terminations=[
            termination_info(each, each.streams.values(), with_keys=False) for each in context.terminations.values()
        ],
        statistics=statistics(context, counters),
    )
