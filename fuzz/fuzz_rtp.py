"""Fuzz RTP, RTCP, telephone events and the demultiplexer: any octets give a value or the parser's own error."""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["media"]):
    from media.demux import MediaProtocol, classify
    from media.dtmf import DtmfError, DtmfReceiver
    from media.rtcp import RtcpError, build_rtcp, parse_rtcp
    from media.rtp import RtpError, parse_rtp
    from media.rtp_session import RtpSession
    from media.wav import WavError, parse_wav


def one_input(octets: bytes) -> None:
    protocol = classify(octets)
    assert isinstance(protocol, MediaProtocol)
    try:
        packet = parse_rtp(octets)
    except RtpError:
        pass
    else:
        assert parse_rtp(packet.to_bytes()) == packet
    for reduced in (False, True):
        try:
            packets = parse_rtcp(octets, reduced_size=reduced)
        except RtcpError:
            continue
        assert parse_rtcp(build_rtcp(packets), reduced_size=reduced) == packets
    with contextlib.suppress(DtmfError):
        DtmfReceiver().packet(octets, 0)
    with contextlib.suppress(WavError):
        parse_wav(octets)
    session = RtpSession(clock=lambda: 0.0)
    # a length octet, then that many octets: several datagrams to one session
    position = 0
    while position < len(octets):
        end = position + 1 + octets[position]
        session.receive(octets[position + 1 : end], ("192.0.2.1", 4000))
        position = end
    session.heard()
    session.statistics()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
