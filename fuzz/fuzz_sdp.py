"""Fuzz target: reading a session description and every typed view of it; what is read survives writing."""

import sys

import atheris

with atheris.instrument_imports(include=["signalling.sdp"]):
    from signalling.sdp import SdpAttributeError, SdpError, parse_sdp

VIEWS = (
    "crypto",
    "e2ae",
    "rtpmaps",
    "fmtps",
    "ptime",
    "candidates",
    "dcmaps",
    "rtcp",
    "rtcp_mux",
    "direction",
    "connection",
    "fingerprints",
    "setup",
    "key_mgmt",
    "tls_id",
    "port_count",
)


def one_input(data: bytes) -> None:
    try:
        description = parse_sdp(data)
    except SdpError:
        return
    octets = description.to_bytes()
    assert parse_sdp(octets).to_bytes() == octets
    assert description.origin.version >= 0
    for media in description.media:
        description.connection_of(media)
        description.direction_of(media)
        for view in VIEWS:
            try:
                getattr(media, view)
            except SdpAttributeError:
                continue
        media.port = 0
        media.set("x", "y")
        media.remove("x")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
