"""What a gateway's packet loop remembers of its contexts for the gateway process that comes after this one (T9).

The notes hold the keys of the calls. They stay in the memory of the packet loop, which has those keys anyway, and
travel through the socket between the two processes alone; nothing of them is written anywhere.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

from keying.sdes import CryptoAttribute
from media.relay import LocalAddress, Side, wire
from nodes.imsagw.context import Context, StreamRecord, Termination
from nodes.imsagw.crypto import read_crypto, write_crypto
from protos.iq_pb2 import CryptoAttr

EPOCH = "epoch"
"""Key of the note that holds the gateway's epoch; contexts are kept under their identifiers, which are hexadecimal."""


class ForeignNoteError(Exception):
    """A note that this gateway did not write."""


def write_context(context: Context) -> str:
    """Write a context down, with its keys."""
    return json.dumps(
        {
            "owner": context.owner,
            "correlation": context.correlation,
            "emergency": context.emergency,
            "created": context.created,
            "keys": [[digest.hex(), stream, of_peer] for digest, (stream, of_peer) in context.keys.items()],
            "terminations": [_write_termination(one) for one in context.terminations.values()],
        }
    )


def read_context(context_id: str, note: str, now: float) -> Context:
    """Read a context; `now` in seconds of the gateway's clock. Raises ForeignNoteError."""
    try:
        stored = json.loads(note)
        context = Context(
            context_id,
            str(stored["owner"]),
            str(stored["correlation"]),
            bool(stored["emergency"]),
            float(stored["created"]),
            active_at=now,
        )
        context.keys.update(
            {bytes.fromhex(digest): (int(stream), bool(peer)) for digest, stream, peer in stored["keys"]}
        )
        for one in stored["terminations"]:
            termination = _read_termination(one)
            context.terminations[termination.termination_id] = termination
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it; the text of the cause may quote keys
        raise ForeignNoteError(type(error).__name__) from None
    return context


def _write_termination(termination: Termination) -> dict[str, Any]:
    return {
        "id": termination.termination_id,
        "side": termination.side.value,
        "interface": termination.interface_id,
        "streams": [_write_stream(record) for record in termination.streams.values()],
    }


def _read_termination(stored: dict[str, Any]) -> Termination:
    termination = Termination(str(stored["id"]), Side(stored["side"]), str(stored["interface"]))
    for one in stored["streams"]:
        record = _read_stream(one)
        termination.streams[record.stream_id] = record
    return termination


def _write_stream(record: StreamRecord) -> dict[str, Any]:
    local = record.local
    return {
        "id": record.stream_id,
        "config": wire.write_side(record.config),
        "transport": int(record.transport),
        "offered": [_write_line(line) for line in record.offered],
        "sending": _write_line(record.sending),
        "receiving": _write_line(record.receiving),
        "local": None if local is None else [local.ip, local.port, local.rtcp_port],
        "keyless": record.keyless,
        "srtcp_sent": record.srtcp_sent,
    }


def _read_stream(stored: dict[str, Any]) -> StreamRecord:
    stream, local = int(stored["id"]), stored["local"]
    offered = [_read_line(text, stream) for text in stored["offered"]]
    return StreamRecord(
        stream,
        wire.read_side(stored["config"]),
        stored["transport"],
        offered=tuple(line for line in offered if line is not None),
        sending=_read_line(stored["sending"], stream),
        receiving=_read_line(stored["receiving"], stream),
        local=None if local is None else LocalAddress(str(local[0]), int(local[1]), int(local[2])),
        opened=True,  # the command that opened its gate may have been the last, and no note of it left
        keyless=bool(stored.get("keyless", False)),
        srtcp_sent=int(stored.get("srtcp_sent", 0)),
        unsure=stored["sending"] not in stored["offered"] and bool(offered),  # a change may have been under way
    )


def _write_line(line: CryptoAttribute | None) -> str | None:
    return None if line is None else b64encode(write_crypto(line).SerializeToString()).decode("ascii")


def _read_line(text: str | None, stream: int) -> CryptoAttribute | None:
    return None if text is None else read_crypto(CryptoAttr.FromString(b64decode(text, validate=True)), stream)
