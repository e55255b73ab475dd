"""What travels between a gateway and its packet loop: length-framed JSON commands, and raw frames for mirrored packets.

Only these functions turn a key into text, and the text goes nowhere but into the socket pair of the two processes.
"""

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias, TypeVar, cast

from keying.secret import Secret
from keying.suites import SUITES
from media.relay.board import MOST_ROWS, Rows
from media.relay.interface import (
    Address,
    BadStreamConfigError,
    DropCause,
    InactivityDirection,
    KeyExpired,
    KeySet,
    Latched,
    Latching,
    LocalAddress,
    MasterKey,
    MediaInactive,
    Mode,
    Protection,
    RelayEvent,
    RelayStatistics,
    Resume,
    Side,
    SideConfig,
    SideStatistics,
    SrtpFailures,
    SrtpIndex,
    StreamConfig,
    TappedPacket,
)

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Frame: TypeAlias = "dict[str, Json] | TappedPacket"

_Value = TypeVar("_Value", str, int, float)

MAX_FRAME = 64 * 1024 * 1024
"""Octets of the largest frame accepted."""
_HEAD = struct.Struct("!IB")
_COMMAND, _PACKET = 0, 1


class FrameError(Exception):
    """The other process sent something that is no frame of this protocol."""


def pack(frame: Frame) -> bytes:
    """Encode one frame."""
    if isinstance(frame, TappedPacket):
        about = json.dumps(_tapped(frame)).encode()
        body = struct.pack("!I", len(about)) + about + frame.payload
        return _HEAD.pack(len(body), _PACKET) + body
    body = json.dumps(frame).encode()
    return _HEAD.pack(len(body), _COMMAND) + body


class FrameReader:
    """Cuts a stream of octets into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, octets: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete. Raises FrameError."""
        self._pending += octets
        while len(self._pending) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._pending)
            if length > MAX_FRAME:
                raise FrameError("frame too long")
            end = _HEAD.size + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_HEAD.size : end])
            del self._pending[:end]
            yield _unpack(kind, body)


def _unpack(kind: int, body: bytes) -> Frame:
    if kind == _PACKET:
        (split,) = struct.unpack_from("!I", body)
        return _read_tapped(json.loads(body[4 : 4 + split]), body[4 + split :])
    if kind != _COMMAND:
        raise FrameError("unknown kind of frame")
    return members(json.loads(body))


def members(value: Json) -> dict[str, Json]:
    """Return a JSON object. Raises FrameError."""
    if not isinstance(value, dict):
        raise FrameError("an object was expected")
    return value


def items(value: Json) -> list[Json]:
    """Return a JSON list. Raises FrameError."""
    if not isinstance(value, list):
        raise FrameError("a list was expected")
    return value


def text(value: Json) -> str:
    """Return a JSON string. Raises FrameError."""
    if not isinstance(value, str):
        raise FrameError("text was expected")
    return value


def _shared(value: _Value) -> _Value:
    """Return the equal value that was read before, if one was: thousands of streams name the same few."""
    return cast("_Value", _read_before(value))


@lru_cache(maxsize=1024, typed=True)
def _read_before(value: Hashable) -> Hashable:
    return value


def number(value: Json) -> int:
    """Return a JSON integer. Raises FrameError."""
    if not isinstance(value, int):
        raise FrameError("a number was expected")
    return value


def _real(value: Json) -> float:
    if not isinstance(value, (int, float)):
        raise FrameError("a number was expected")
    return float(value)


def _address(value: Json) -> Address | None:
    if value is None:
        return None
    host, port = items(value)
    return _shared(text(host)), number(port)


def _sure_address(value: Json) -> Address:
    address = _address(value)
    if address is None:
        raise FrameError("an address was expected")
    return address


def _json_address(address: Address | None) -> Json:
    return None if address is None else [address[0], address[1]]


def write_keys(keys: KeySet | None) -> Json:
    """Encode a key set."""
    if keys is None:
        return None
    return {
        "suite": keys.suite.name,
        "keys": [
            [b64encode(key.key_salt.reveal()).decode(), key.lifetime, key.mki, key.mki_length] for key in keys.keys
        ],
    }


def read_keys(value: Json) -> KeySet | None:
    """Decode a key set. Raises FrameError, BadStreamConfigError."""
    if value is None:
        return None
    fields = members(value)
    suite = SUITES.get(text(fields["suite"]))
    if suite is None:
        raise BadStreamConfigError("unknown suite")
    keys = []
    for entry in items(fields["keys"]):
        octets, lifetime, mki, mki_length = items(entry)
        limit = None if lifetime is None else number(lifetime)
        keys.append(MasterKey(Secret(b64decode(text(octets))), limit, number(mki), number(mki_length)))
    return KeySet(suite, tuple(keys))


def write_side(config: SideConfig) -> Json:
    """Encode the configuration of a side."""
    return {
        "local_ip": config.local_ip,
        "protection": config.protection.value,
        "remote": _json_address(config.remote),
        "remote_rtcp": _json_address(config.remote_rtcp),
        "mode": config.mode.value,
        "rtcp": config.rtcp,
        "rtcp_mux": config.rtcp_mux,
        "latching": config.latching.value,
        "source_address": config.source_address,
        "source_port": config.source_port,
        "any_source": config.any_source,
        "await_media": config.await_media,
        "dscp": config.dscp,
        "inactivity_s": config.inactivity_s,
        "inactivity_direction": config.inactivity_direction.value,
        "send": write_keys(config.send),
        "receive": write_keys(config.receive),
        "clock_rate": config.clock_rate,
    }


def read_side(value: Json) -> SideConfig:
    """Decode the configuration of a side. Raises FrameError."""
    fields = members(value)
    return SideConfig(
        local_ip=_shared(text(fields["local_ip"])),
        protection=Protection(text(fields["protection"])),
        remote=_address(fields["remote"]),
        remote_rtcp=_address(fields["remote_rtcp"]),
        mode=Mode(text(fields["mode"])),
        rtcp=bool(fields["rtcp"]),
        rtcp_mux=bool(fields["rtcp_mux"]),
        latching=Latching(text(fields["latching"])),
        source_address=bool(fields["source_address"]),
        source_port=bool(fields["source_port"]),
        any_source=bool(fields["any_source"]),
        await_media=bool(fields["await_media"]),
        dscp=number(fields["dscp"]),
        inactivity_s=_shared(_real(fields["inactivity_s"])),
        inactivity_direction=InactivityDirection(text(fields["inactivity_direction"])),
        send=read_keys(fields["send"]),
        receive=read_keys(fields["receive"]),
        clock_rate=_shared(number(fields["clock_rate"])),
    )


def write_stream(config: StreamConfig) -> Json:
    """Encode a stream."""
    return {
        "stream_id": config.stream_id,
        "sides": {name.value: write_side(side) for name, side in config.sides.items()},
        "resume": {name.value: _write_resume(resume) for name, resume in config.resume.items()},
        "used_keys": [digest.hex() for digest in sorted(config.used_keys)],
    }


def read_stream(value: Json) -> StreamConfig:
    """Decode a stream. Raises FrameError."""
    fields = members(value)
    sides = {Side(name): read_side(side) for name, side in members(fields["sides"]).items()}
    resume = {Side(name): _read_resume(side) for name, side in members(fields.get("resume", {})).items()}
    used = frozenset(bytes.fromhex(text(digest)) for digest in items(fields.get("used_keys", [])))
    return StreamConfig(text(fields["stream_id"]), sides, resume, used)


def _write_resume(resume: Resume) -> Json:
    return {
        "port": resume.port,
        "latched": _json_address(resume.latched),
        "received": write_positions(resume.received),
        "sent": write_positions(resume.sent),
        "srtcp_sent": resume.srtcp_sent,
    }


def _read_resume(value: Json) -> Resume:
    fields = members(value)
    received, sent = read_positions(fields["received"]), read_positions(fields["sent"])
    return Resume(
        number(fields["port"]), _address(fields["latched"]), received, sent, max(0, number(fields["srtcp_sent"]))
    )


def write_positions(positions: Mapping[int, SrtpIndex]) -> Json:
    """Encode positions by SSRC."""
    return [[ssrc, roc, sequence] for ssrc, (roc, sequence) in positions.items()]


def read_positions(value: Json) -> dict[int, SrtpIndex]:
    """Decode positions by SSRC. Raises FrameError."""
    found = {}
    for entry in items(value):
        ssrc, roc, sequence = (number(each) for each in items(entry))
        found[ssrc] = roc, sequence
    return found


def write_locals(addresses: Mapping[Side, LocalAddress]) -> Json:
    """Encode where the sides receive."""
    return {name.value: [local.ip, local.port, local.rtcp_port] for name, local in addresses.items()}


def read_locals(value: Json) -> dict[Side, LocalAddress]:
    """Decode where the sides receive. Raises FrameError."""
    result = {}
    for name, entry in members(value).items():
        ip, port, rtcp_port = items(entry)
        result[Side(name)] = LocalAddress(text(ip), number(port), number(rtcp_port))
    return result


def write_rows(rows: Rows) -> Json:
    """Encode which rows of the shared counters streams have."""
    return {stream: {side.value: row for side, row in sides.items()} for stream, sides in rows.items()}


def read_rows(value: Json) -> dict[str, dict[Side, int]]:
    """Decode which rows of the shared counters streams have. Raises FrameError."""
    return {
        stream: {Side(side): _row(row) for side, row in members(sides).items()}
        for stream, sides in members(value).items()
    }


def _row(value: Json) -> int:
    row = number(value)
    if not 0 <= row < MOST_ROWS:
        raise FrameError("there is no such row of counters")
    return row


_COUNTERS = ("packets_in", "packets_out", "octets_in", "octets_out", "rtcp_in", "rtcp_out", "latch_changes", "lost")


def write_statistics(statistics: RelayStatistics) -> Json:
    """Encode the counters of a stream."""
    sides: dict[str, Json] = {}
    for name, side in statistics.sides.items():
        fields: dict[str, Json] = {
            "protection": side.protection.value,
            "suite": side.suite,
            "drops": {cause.value: count for cause, count in side.drops.items()},
            "latched": _json_address(side.latched),
            "jitter_ms": side.jitter_ms,
            "duration_s": side.duration_s,
            "received": write_positions(side.received),
            "sent": write_positions(side.sent),
        }
        fields.update({counter: number(getattr(side, counter)) for counter in _COUNTERS})
        sides[name.value] = fields
    return {"stream_id": statistics.stream_id, "sides": sides}


def read_statistics(value: Json) -> RelayStatistics:
    """Decode the counters of a stream. Raises FrameError."""
    fields = members(value)
    sides = {}
    for name, entry in members(fields["sides"]).items():
        side = members(entry)
        sides[Side(name)] = SideStatistics(
            protection=Protection(text(side["protection"])),
            suite=text(side["suite"]),
            drops={DropCause(cause): number(count) for cause, count in members(side["drops"]).items()},
            latched=_address(side["latched"]),
            jitter_ms=_real(side["jitter_ms"]),
            duration_s=_real(side["duration_s"]),
            received=read_positions(side.get("received", [])),
            sent=read_positions(side.get("sent", [])),
            **{counter: number(side[counter]) for counter in _COUNTERS},
        )
    return RelayStatistics(text(fields["stream_id"]), sides)


def write_event(event: RelayEvent) -> dict[str, Json]:
    """Encode an event."""
    common: dict[str, Json] = {"stream_id": event.stream_id, "side": event.side.value}
    match event:
        case Latched():
            return {**common, "event": "latched", "address": _json_address(event.address)}
        case MediaInactive():
            return {**common, "event": "inactive", "direction": event.direction.value, "seconds": event.seconds}
        case SrtpFailures():
            return {**common, "event": "failures", "auth_failures": event.auth_failures, "replays": event.replays}
        case KeyExpired():
            return {**common, "event": "key", "near": event.near}


def read_event(fields: dict[str, Json]) -> RelayEvent:
    """Decode an event. Raises FrameError."""
    stream_id, side = text(fields["stream_id"]), Side(text(fields["side"]))
    match text(fields["event"]):
        case "latched":
            return Latched(stream_id, side, _sure_address(fields["address"]))
        case "inactive":
            direction = InactivityDirection(text(fields["direction"]))
            return MediaInactive(stream_id, side, direction, _real(fields["seconds"]))
        case "failures":
            return SrtpFailures(stream_id, side, number(fields["auth_failures"]), number(fields["replays"]))
        case "key":
            return KeyExpired(stream_id, side, near=bool(fields["near"]))
    raise FrameError("unknown event")


def _tapped(packet: TappedPacket) -> Json:
    return [
        packet.stream_id,
        packet.side.value,
        packet.timestamp,
        _json_address(packet.source),
        _json_address(packet.destination),
        None if packet.cause is None else packet.cause.value,
    ]


def _read_tapped(fields: Json, payload: bytes) -> TappedPacket:
    stream_id, side, timestamp, source, destination, cause = items(fields)
    return TappedPacket(
        text(stream_id),
        Side(text(side)),
        _real(timestamp),
        _sure_address(source),
        _sure_address(destination),
        payload,
        None if cause is None else DropCause(text(cause)),
    )
