"""What a StreamSpec asks for, as a configuration of the relay: a pure function of the request and what was before."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keying.sdes import CryptoAttribute
from media.relay import Address, InactivityDirection, Latching, Mode, Protection, Side, SideConfig
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import StreamRecord
from nodes.imsagw.crypto import key_set, make_lines, read_crypto
from nodes.imsagw.errors import SUITE, iq_error
from protos import iq_pb2

PROTECTIONS = {
    iq_pb2.RTP_AVP: Protection.RTP,
    iq_pb2.RTP_AVPF: Protection.RTP,
    iq_pb2.RTP_SAVP: Protection.SRTP,
    iq_pb2.RTP_SAVPF: Protection.SRTP,
    iq_pb2.OPAQUE_UDP: Protection.OPAQUE,
}
"""Transports this gateway carries; the others are refused with IQ_445."""
MODES = {
    iq_pb2.INACTIVE: Mode.INACTIVE,
    iq_pb2.SENDONLY: Mode.SENDONLY,
    iq_pb2.RECVONLY: Mode.RECVONLY,
    iq_pb2.SENDRECV: Mode.SENDRECV,
}
_LATCHING = {iq_pb2.LATCH_OFF: Latching.OFF, iq_pb2.LATCH: Latching.LATCH, iq_pb2.RELATCH: Latching.RELATCH}
_DIRECTIONS = {
    iq_pb2.INACTIVITY_UNSPECIFIED: InactivityDirection.IN,
    iq_pb2.IN: InactivityDirection.IN,
    iq_pb2.OUT: InactivityDirection.OUT,
    iq_pb2.BOTH: InactivityDirection.BOTH,
}


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A StreamSpec after all checks: the side it leads to, and the keys it makes or takes."""

    config: SideConfig
    transport: iq_pb2.Transport
    offered: tuple[CryptoAttribute, ...]
    sending: CryptoAttribute | None
    receiving: CryptoAttribute | None

    def apply(self, record: StreamRecord) -> None:
        """Write it into the record, once the relay has taken it."""
        record.config, record.transport, record.offered = self.config, self.transport, self.offered
        record.sending, record.receiving = self.sending, self.receiving
        protected = self.config.protection is Protection.SRTP
        record.keyless = record.keyless and protected and (self.sending is None or self.receiving is None)


def read_stream(
    spec: iq_pb2.StreamSpec, side: Side, before: StreamRecord | None, settings: ImsAgwSettings
) -> StreamRequest:
    """Check a StreamSpec and merge it over `before`; what it leaves out stays as it was.

    Raises ProblemError IQ_442, IQ_445, IQ_449 or IQ_X01.
    """
    if not 1 <= spec.stream_id <= 1000:
        raise iq_error("442", "stream_id is the number of the m-line, from 1", stream=spec.stream_id)
    transport = spec.transport or (before.transport if before is not None else iq_pb2.TRANSPORT_UNSPECIFIED)
    protection = _protection(spec, transport, settings)
    offered, sending, receiving = _keys(spec, protection, before, settings)
    start = before.config if before is not None else _fresh(spec, side, protection, settings)
    config = replace(
        start,
        protection=protection,
        mode=MODES.get(spec.mode, start.mode),
        latching=_latching(spec, start.latching, fresh=before is None),
        any_source=settings.unfiltered_plain_latching and side is Side.ACCESS,
        send=key_set(sending),
        receive=key_set(receiving),
    )
    if spec.HasField("remote"):
        remote = _address(spec.remote.ip, spec.remote.port, config.local_ip, spec.stream_id)
        config = replace(
            config,
            remote=remote,
            remote_rtcp=_rtcp_address(spec, config.local_ip),
            await_media=spec.remote.await_media,
        )
    if spec.HasField("rtcp"):
        rtcp = spec.rtcp
        config = replace(config, rtcp=rtcp.enabled or rtcp.mux or rtcp.explicit_port, rtcp_mux=rtcp.mux)
    if spec.HasField("source_filter"):
        config = replace(config, source_address=spec.source_filter.address, source_port=spec.source_filter.port)
    if spec.dscp:
        config = replace(config, dscp=_dscp(spec))
    if spec.HasField("inactivity"):
        config = with_inactivity(config, spec.inactivity)
    return StreamRequest(config, transport, offered, sending, receiving)


def with_inactivity(config: SideConfig, inactivity: iq_pb2.Inactivity) -> SideConfig:
    """Set the silence to be reported; 0 seconds switch it off."""
    direction = _DIRECTIONS.get(inactivity.direction, InactivityDirection.IN)
    return replace(config, inactivity_s=float(inactivity.seconds), inactivity_direction=direction)


def _protection(spec: iq_pb2.StreamSpec, transport: iq_pb2.Transport, settings: ImsAgwSettings) -> Protection:
    if transport == iq_pb2.TRANSPORT_UNSPECIFIED:
        raise iq_error("442", "transport is missing", stream=spec.stream_id)
    if spec.remote_fingerprints or spec.local_fingerprint_request or spec.establish_dtls or spec.tls_id:
        raise iq_error("445", "certificate fingerprints are not supported", stream=spec.stream_id)
    protection = PROTECTIONS.get(transport)
    if protection is None:
        raise iq_error("445", f"transport {transport} is not supported", stream=spec.stream_id)
    if protection is Protection.SRTP and settings.srtp == "off":
        raise iq_error("445", "SRTP is switched off", stream=spec.stream_id, param=SUITE)
    if protection is not Protection.SRTP and (spec.sdes_remote or spec.HasField("sdes_local_request")):
        raise iq_error("449", "SDES keys belong to an RTP/SAVP(F) stream", stream=spec.stream_id)
    return protection


def _keys(
    spec: iq_pb2.StreamSpec, protection: Protection, before: StreamRecord | None, settings: ImsAgwSettings
) -> tuple[tuple[CryptoAttribute, ...], CryptoAttribute | None, CryptoAttribute | None]:
    """Return the gateway's lines, the one it sends with, and the peer's.

    New lines that replace others wait until the peer has answered: it cannot know them earlier (RFC 4568 7.1.4).
    """
    if protection is not Protection.SRTP:
        return (), None, None
    receiving = before.receiving if before is not None else None
    sending = before.sending if before is not None else None
    offered = before.offered if before is not None else ()
    if spec.sdes_remote:
        receiving = read_crypto(spec.sdes_remote[0], spec.stream_id)
        if receiving.suite.name not in settings.suites:
            raise iq_error("449", f"suite {receiving.suite.name} is not carried", stream=spec.stream_id, param=SUITE)
    if spec.HasField("sdes_local_request"):
        offered = _offer(spec, offered, sending, settings.suites)
    if spec.sdes_local_selected:
        sending = _tagged(offered, spec.sdes_local_selected, spec.stream_id)
    elif spec.sdes_remote and receiving is not None:
        sending = next((line for line in offered if line.suite == receiving.suite), sending)
    elif sending is None and len(offered) == 1 and not (before is not None and before.keyless):
        sending = offered[0]
    return offered, sending, receiving


def _offer(
    spec: iq_pb2.StreamSpec,
    offered: tuple[CryptoAttribute, ...],
    sending: CryptoAttribute | None,
    carried: Sequence[str],
) -> tuple[CryptoAttribute, ...]:
    request = spec.sdes_local_request
    if not request.rekey:
        for lines in (offered, (sending,) if sending is not None else ()):
            if lines and _fits(lines, list(request.suites), request.tag):
                return lines
    return make_lines(request.suites or carried[:1], request.tag, carried, spec.stream_id)


def _fits(lines: tuple[CryptoAttribute, ...], suites: list[str], tag: int) -> bool:
    return (not suites or [line.suite.name for line in lines] == suites) and (not tag or lines[0].tag == tag)


def _tagged(lines: tuple[CryptoAttribute, ...], tag: int, stream: int) -> CryptoAttribute:
    for line in lines:
        if line.tag == tag:
            return line
    raise iq_error("449", f"no line of the gateway has tag {tag}", stream=stream)


def _fresh(spec: iq_pb2.StreamSpec, side: Side, protection: Protection, settings: ImsAgwSettings) -> SideConfig:
    addresses = (
        (settings.access_ip, settings.access_ip_other)
        if side is Side.ACCESS
        else (settings.core_ip, settings.core_ip_other)
    )
    version = spec.ip_version
    if not version and spec.HasField("remote"):
        version = "6" if ":" in spec.remote.ip else "4"
    if not version:
        return SideConfig(addresses[0], protection)
    for address in addresses:
        if address and (":" in address) == (version == "6"):
            return SideConfig(address, protection)
    raise iq_error("449", f"no IPv{version[:2]} address on the {side} side", stream=spec.stream_id)


def _latching(spec: iq_pb2.StreamSpec, before: Latching, *, fresh: bool) -> Latching:
    if spec.latching:
        return _LATCHING[spec.latching]
    if fresh:
        return Latching.OFF
    return Latching.LATCH if before is Latching.RELATCH else before


def _address(ip: str, port: int, local_ip: str, stream: int) -> Address:
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError:
        raise iq_error("449", "the remote address is no IP address", stream=stream) from None
    if (parsed.version == 6) != (":" in local_ip):
        raise iq_error("449", "local and remote IP versions differ", stream=stream)
    if port > 65535:
        raise iq_error("449", "the remote port exceeds 65535", stream=stream)
    return str(parsed), port


def _rtcp_address(spec: iq_pb2.StreamSpec, local_ip: str) -> Address | None:
    remote = spec.remote
    if not remote.rtcp_port and not remote.rtcp_ip:
        return None
    return _address(remote.rtcp_ip or remote.ip, remote.rtcp_port or remote.port + 1, local_ip, spec.stream_id)


def _dscp(spec: iq_pb2.StreamSpec) -> int:
    if spec.dscp > 63:
        raise iq_error("449", "a DiffServ code point has six bits", stream=spec.stream_id)
    return spec.dscp
