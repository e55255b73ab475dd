"""Fuzz the SIP parsers: nothing but SipParseError may come out, and what was accepted must survive a round trip.

Run: ``python fuzz/fuzz_sip.py fuzz/seeds/sip -max_total_time=60``.
"""

import sys

import atheris

with atheris.instrument_imports():
    from signalling.sip.headers import GrammarError, parse_name_addr, parse_via
    from signalling.sip.message import SipParseError, SipRequest, StreamParser, parse_message
    from signalling.sip.uri import UriError, parse_uri
    from signalling.sip.validation import check_request

METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER")


def one_input(data: bytes) -> None:
    """Parse octets as a datagram, as a stream in two pieces, and as single values."""
    half = len(data) // 2
    stream = StreamParser()
    stream.receive(data[:half])
    stream.receive(data[half:])
    text = data[:2000].decode("utf-8", "surrogateescape")
    for parse, fault in ((parse_uri, UriError), (parse_name_addr, GrammarError), (parse_via, GrammarError)):
        try:
            str(parse(text))
        except fault:
            continue
    try:
        message = parse_message(data)
    except SipParseError:
        return
    if parse_message(message.to_bytes()).to_bytes() != message.to_bytes():
        raise AssertionError("round trip")
    if isinstance(message, SipRequest):
        for role in ("uas", "proxy", "registrar"):
            check_request(message, role=role, methods=METHODS, extensions=(), schemes=("sip", "sips", "tel"))


def main() -> None:
    """Hand over to libFuzzer."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
