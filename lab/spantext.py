"""The events of a span as the trace store keeps them: JSON, and compressed where that saves room.

SIP messages of a lab are much alike, so a preset dictionary (RFC 1950 2.2) with their header fields makes a message of
5 kB one of some hundred octets. Text that is kept plain stays readable for whoever opens the file.
"""

from __future__ import annotations

import json
import zlib
from typing import Final

SHORTEST: Final = 400
"""Texts below this length are kept plain, characters."""
_MARK: Final = b"\x01"
"""First octet of a compressed text: the number of the dictionary."""
_LEVEL: Final = 2
LARGEST: Final = 64 << 20
"""A text that would grow beyond this is refused, octets: the file may have been tampered with."""
# What stands at the end costs least to point at (RFC 1950 2.2). Never change it: stored texts need it to be read.
_WORDS: Final = (
    "SIP/2.0 100 Trying\\r\\nSIP/2.0 180 Ringing\\r\\nSIP/2.0 183 Session Progress\\r\\nSIP/2.0 488"
    ' Not Acceptable Here\\r\\nWarning: 399 \\"media-sec:\\r\\nSecurity-Client: Security-Server: S'
    "ecurity-Verify: sdes-srtp;mediasec\\r\\nRSeq: 1\\r\\nRAck: 1 1 Expires: 600000\\r\\nP-Called-P"
    "arty-ID: P-Charging-Vector: icid-value=;orig-ioi=ims.test\\r\\nRequire: 100rel\\r\\na=3ge2ae"
    ":requested\\r\\na=key-mgmt:mikey a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:<redacted>\\r\\na"
    "=crypto:2 AEAD_AES_256_GCM a=crypto:3 AEAD_AES_128_GCM v=0\\r\\no=- 0 1 IN IP4 127.0.0.1\\r"
    "\\ns=-\\r\\nc=IN IP4 127.0.0.1\\r\\nt=0 0\\r\\nm=audio 35800 RTP/AVP RTP/SAVP 8 0 101\\r\\na=rtpm"
    "ap:8 PCMA/8000\\r\\na=rtpmap:0 PCMU/8000\\r\\na=rtpmap:101 telephone-event/8000\\r\\na=fmtp:10"
    "1 0-15\\r\\na=ptime:20\\r\\na=sendrecv\\r\\na=maxptime:\\r\\nP-Access-Network-Info: 3GPP-E-UTRAN"
    "-FDD;utran-cell-id-3gpp=0010100010000001\\r\\nP-Preferred-Identity: <sip:\\r\\nP-Asserted-Id"
    "entity: <sip:\\r\\nP-Asserted-Service: P-Preferred-Service: urn:urn-7:3gpp-service.ims.ics"
    "i.mmtel\\r\\nP-Early-Media: supported\\r\\nSupported: 100rel\\r\\nUser-Agent: imslab-ue\\r\\nSer"
    "ver: imslab\\r\\nAllow: INVITE, ACK, CANCEL, BYE, PRACK, UPDATE, OPTIONS\\r\\nAccept: applic"
    'ation/sdp\\r\\nAccept-Contact: *;+g.3gpp.icsi-ref=\\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mm'
    'tel\\"\\r\\nRecord-Route: <sip:127.0.0.1:5060;transport=tls;lr>\\r\\nRoute: <sip:orig-term-\\r'
    "\\nContact: <sip:alice@127.0.0.1:5060;transport=tls>\\r\\nVia: SIP/2.0/UDP SIP/2.0/TCP SIP/"
    "2.0/TLS 127.0.0.1:5061;branch=z9hG4bK;rport;received=127.0.0.1\\r\\nMax-Forwards: 70\\r\\nFr"
    "om: <sip:alice@ims.test>;tag=\\r\\nTo: <sip:bob@ims.test>;tag=\\r\\nCall-ID: \\r\\nCSeq: 1 INV"
    "ITE\\r\\nCSeq: 2 BYE\\r\\nContent-Type: application/sdp\\r\\ntraceparent: 00-\\r\\nContent-Lengt"
    'h: 0\\r\\n\\r\\n"sip.message", {"direction": "received", "start_line": "SIP/2.0 200 OK", "te'
    'xt": "SIP/2.0 200 OK\\r\\n"sip.message", {"direction": "sent", "start_line": "INVITE sip:b'
    'ob@ims.test SIP/2.0", "text": "INVITE sip:", "size": 1400, "retransmission": false}]'
)  # fmt: skip
_DICTIONARY: Final = _WORDS.encode()


def pack(content: object) -> str | bytes:
    """Return ``content`` as JSON, compressed where that is shorter."""
    text = json.dumps(content)
    if len(text) < SHORTEST:
        return text
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=_DICTIONARY)
    octets = _MARK + compressor.compress(text.encode()) + compressor.flush()
    return octets if len(octets) < len(text) else text


def unpack(stored: str | bytes) -> object:
    """Return what was packed. Raises ``ValueError`` for what ``pack`` did not make."""
    if isinstance(stored, str):
        return json.loads(stored)
    if stored[:1] != _MARK:
        raise ValueError("a text of the trace store is packed in a way this version does not know")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARY)
    try:
        text = decompressor.decompress(stored[1:], LARGEST)
    except zlib.error as error:
        raise ValueError(f"a text of the trace store is damaged: {error}") from None
    if not decompressor.eof:
        raise ValueError("a text of the trace store is damaged or too long")
    return json.loads(text)
