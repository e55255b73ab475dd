"""RPCs for a capture: what both ends of a call saw of it, without tokens and without what the contracts call secret."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from protos import capture_pb2, options_pb2
from sba.contracts import MethodContract
from sba.tap import Tap

SBA = capture_pb2.CAPTURE_SBA
MASK = "<redacted>"
MOST_BODY = 48 << 10
"""Longest message that is shown, octets."""
_UNSEEN = ("ims.capture.", "grpc.health.", "grpc.reflection.")
"""Services that no capture shows: itself, and probes that come twice a second."""
_PLAIN = frozenset({"traceparent", "user-agent", "grpc-timeout", "grpc-accept-encoding", "accept-encoding"})
"""Metadata whose values show in every capture; those of others only with keys."""
_NEVER = ("authorization", "credentials", "token", "secret", "password", "cookie")
"""Metadata with one of these words in the name show without a value."""

_TELLTALE = ("inline", "crypto:", "key-mgmt", "k=", "response=", "auts=", "ck=", "ik=", "password", "eyj")
"""What a text has that may hold a key, a proof or a token (SDES, MIKEY, digest, JWT), in lower case."""

Address = tuple[str, int]
Metadata = Iterable[tuple[str, str | bytes]]


def shown_text(text: str) -> str:
    """Return a text for a capture; one that may hold a secret is masked as a whole, whatever else it says."""
    lower = text.lower()
    return MASK if any(mark in lower for mark in _TELLTALE) else text


def masked_headers(metadata: Metadata, *, with_keys: bool) -> list[capture_pb2.CapturedHeader]:
    """Return request metadata as a capture shows them: never a token, other values where they tell nothing."""
    found = []
    for name, value in metadata:
        text = value if isinstance(value, str) else value.hex()
        hidden = any(word in name.lower() for word in _NEVER)
        if hidden or not (with_keys or name.lower() in _PLAIN):
            text = f"Bearer {MASK}" if name.lower() == "authorization" else MASK
        else:
            text = shown_text(text)
        found.append(capture_pb2.CapturedHeader(name=name.lower(), value=text))
    return found


def is_secret(field: FieldDescriptor) -> bool:
    """Tell whether a contract marks a field as key material."""
    return bool(cast("Any", field.GetOptions()).Extensions[options_pb2.secret])


def mask_secrets(message: Message) -> int:
    """Mask every field that its contract marks as secret, and texts that may hold one; returns how many were marked."""
    masked = 0
    for field, value in message.ListFields():
        if is_secret(field):
            masked += 1
            _mask_field(message, field)
        elif field.message_type is not None:
            masked += sum(mask_secrets(part) for part in _parts(field, value))
        elif field.type == FieldDescriptor.TYPE_STRING:
            _redact_field(message, field, value)
    return masked


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _parts(field: FieldDescriptor, value: object) -> list[Message]:
    if not _is_map(field):
        return list(value) if _repeated(field) else [value]  # type: ignore[call-overload,list-item]
    kind = cast("Any", field.message_type).fields_by_name["value"]
    if kind.message_type is not None:
        return list(value.values())  # type: ignore[attr-defined]
    if kind.type == FieldDescriptor.TYPE_STRING:
        for key in list(value):  # type: ignore[call-overload]
            value[key] = shown_text(value[key])  # type: ignore[index]
    return []


def _mask_field(message: Message, field: FieldDescriptor) -> None:
    count = len(getattr(message, field.name)) if _repeated(field) else 0
    message.ClearField(field.name)
    if _is_map(field) or field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return
    mask: str | bytes = MASK if field.type == FieldDescriptor.TYPE_STRING else MASK.encode()
    if _repeated(field):
        getattr(message, field.name).extend([mask] * count)
    else:
        setattr(message, field.name, mask)


def _redact_field(message: Message, field: FieldDescriptor, value: object) -> None:
    if _repeated(field):
        texts = [shown_text(text) for text in value]  # type: ignore[attr-defined]
        message.ClearField(field.name)
        getattr(message, field.name).extend(texts)
    else:
        setattr(message, field.name, shown_text(str(value)))


def peer_address(peer: str) -> Address:
    """Return host and port of a gRPC peer name, e.g. ``ipv4:127.0.0.1:5000``; an empty host for anything else."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return "", 0
    return host.strip("[]"), int(port)


class RpcWatch:
    """The steps of one RPC at one end of it, for those who watch at the moment of each step.

    ``consumer`` and ``producer`` are the addresses of both ends as this end knows them; ``outgoing`` says which end
    this is.
    """

    def __init__(
        self,
        tap: Tap,
        contract: MethodContract,
        metadata: Metadata,
        consumer: Address,
        producer: Address,
        *,
        authority: str,
        outgoing: bool,
    ) -> None:
        self._tap = tap
        self._contract = contract
        self._metadata = tuple(metadata)
        self._ends = consumer, producer
        self._authority = authority
        self._outgoing = outgoing
        self._silent = contract.service.startswith(_UNSEEN)
        self._traceparent = next((str(value) for name, value in self._metadata if name == "traceparent"), "")
        self._call = f"{id(self):x}.{time.monotonic_ns():x}"
        self._responses = 0
        self._asked = False
        self.peer = ""

    def request(self, body: bytes, at_ns: int = 0) -> None:
        """Note the request, which was sent or came at ``at_ns`` (nanoseconds since the epoch; 0: now)."""
        if not self._asked:
            self._asked = True
            self._step(capture_pb2.SbaStep.REQUEST, body, at_ns=at_ns)

    def response(self, body: bytes) -> None:
        """Note a response message."""
        self._responses += 1
        self._step(capture_pb2.SbaStep.RESPONSE, body)

    def end(self, status: grpc.StatusCode = grpc.StatusCode.OK, message: str = "") -> None:
        """Note how the call ended."""
        self._step(capture_pb2.SbaStep.END, b"", status=status, text=message)

    def _step(
        self,
        phase: capture_pb2.SbaStep.Phase,
        body: bytes,
        *,
        at_ns: int = 0,
        status: grpc.StatusCode = grpc.StatusCode.OK,
        text: str = "",
    ) -> None:
        if self._silent or not self._tap.wants(SBA):
            return
        at_ns = at_ns or time.time_ns()
        number = self._responses

        def render(with_keys: bool) -> capture_pb2.CapturedMessage:
            asking = phase == capture_pb2.SbaStep.REQUEST
            source, destination = self._ends if asking else self._ends[::-1]
            shown, comment = (
                (None, "")
                if phase == capture_pb2.SbaStep.END
                else self._shown(body, asking=asking, with_keys=with_keys)
            )
            return capture_pb2.CapturedMessage(
                kind=SBA,
                time_ns=at_ns,
                sent=asking is self._outgoing,
                transport="TLS",
                source_ip=source[0],
                source_port=source[1],
                destination_ip=destination[0],
                destination_port=destination[1],
                comment=comment,
                trace_id=self._traceparent[3:35],
                pair=f"{self._traceparent}{self._contract.path} {phase} {number}" if self._traceparent else "",
                sba=capture_pb2.SbaStep(
                    phase=phase,
                    call=f"{self._traceparent}{self._contract.path}" if self._traceparent else self._call,
                    path=self._contract.path,
                    authority=self._authority,
                    headers=masked_headers(self._metadata, with_keys=with_keys),
                    size=len(body),
                    shown=shown is not None,
                    body=shown or b"",
                    status=status.value[0],
                    status_message=shown_text(text),
                    peer=self.peer,
                ),
            )

        self._tap.put(SBA, render)

    def _shown(self, body: bytes, *, asking: bool, with_keys: bool) -> tuple[bytes | None, str]:
        """Return the message as a capture shows it, None where it does not, and what a reader has to know of that."""
        if not with_keys:
            return None, f"message of {len(body)} octets, encrypted"
        if len(body) > MOST_BODY:
            return None, f"message of {len(body)} octets left out: too long"
        contract = self._contract
        try:
            message = contract.parse_request(body) if asking else contract.parse_response(body)
        except DecodeError:
            return None, f"message of {len(body)} octets left out: malformed"
        message.DiscardUnknownFields()  # nobody says whether those are secret
        masked = mask_secrets(message)
        return message.SerializeToString(), f"{masked} secret field{'s' if masked > 1 else ''} masked" if masked else ""
