"""Keys out of a bootstrapping: Ks, Ks_NAF, their names, and the document that tells a UE of them.

TS 33.220 4.5, Annex B and H.3; TS 24.109 Annex C.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from keying.secret import Secret
from signalling.aka.milenage import RAND_LENGTH

UA_IMS_KMS: Final = bytes.fromhex("0100000006")
"""Ua security protocol identifier of the HTTP exchanges between IMS UE and KMS (TS 33.220 H.3)."""
UA_PROTOCOL_LENGTH: Final = 5
KS_LENGTH: Final = 32
KS_NAF_LENGTH: Final = 32
MAX_BTID: Final = 256
"""Longest B-TID that is read, characters."""
MAX_DOCUMENT: Final = 4096
"""Longest bootstrapping document that is read, octets."""
CONTENT_TYPE: Final = "application/vnd.3gpp.bsf+xml"
BSF_LABEL: Final = "bsf."
"""First label of a BSF's name; its home domain follows (TS 23.003 16.2; assumed for domains of any form)."""

_FC_NAF: Final = 0x01
_MAX_PARAMETER: Final = 0xFFFF
_NAMESPACE: Final = "uri:3gpp-gba"
_FQDN: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?Z")


class GbaFormatError(ValueError):
    """A B-TID, a NAF_Id or a bootstrapping document is malformed."""


def kdf(key: Secret, fc: int, *parameters: bytes) -> Secret:
    """Return 32 octets: HMAC-SHA-256 over FC and each parameter followed by its length (TS 33.220 B.2).

    Raises ValueError when a parameter is longer than 65535 octets or FC does not fit one octet.
    """
    if any(len(parameter) > _MAX_PARAMETER for parameter in parameters):
        raise ValueError("a parameter of the key derivation is longer than 65535 octets")
    text = b"".join(parameter + len(parameter).to_bytes(2, "big") for parameter in parameters)
    return Secret(hmac.digest(key.reveal(), bytes((fc,)) + text, "sha256"))


def bsf_of(domain: str) -> str:
    """Return the name of a home domain's BSF, in lower case: host of its B-TIDs, shown by its certificate."""
    return BSF_LABEL + domain.lower()


def bootstrap_key(ck: Secret, ik: Secret) -> Secret:
    """Return Ks, CK followed by IK (TS 33.220 4.5.2). Raises ValueError unless that is 32 octets."""
    ks = ck.joined(ik)
    if len(ks) != KS_LENGTH:
        raise ValueError("CK and IK have 16 octets each")
    return ks


def naf_key(ks: Secret, rand: bytes, impi: str, naf: bytes) -> Secret:
    """Return Ks_NAF, 32 octets, for a NAF_Id (TS 33.220 B.3: FC 0x01, "gba-me", RAND, IMPI, NAF_Id)."""
    if len(ks) != KS_LENGTH or len(rand) != RAND_LENGTH:
        raise ValueError("Ks has 32 octets and RAND 16")
    return kdf(ks, _FC_NAF, b"gba-me", rand, impi.encode(), naf)


def naf_id(fqdn: str, protocol: bytes = UA_IMS_KMS) -> bytes:
    """Return the NAF_Id: the FQDN in lower case, then the Ua security protocol identifier (5 octets).

    That order is assumed; case does not count in a DNS name, so both ends have to choose one. Raises GbaFormatError.
    """
    name = fqdn.lower()
    if _FQDN.fullmatch(name) is None or len(protocol) != UA_PROTOCOL_LENGTH:
        raise GbaFormatError("a NAF is named by a DNS name and a protocol identifier of 5 octets")
    return name.encode("ascii") + protocol


def split_naf_id(naf: bytes) -> tuple[str, bytes]:
    """Return FQDN and Ua security protocol identifier of a NAF_Id. Raises GbaFormatError."""
    try:
        fqdn = naf[:-UA_PROTOCOL_LENGTH].decode("ascii")
    except UnicodeDecodeError:
        raise GbaFormatError("the NAF has no DNS name") from None
    protocol = naf[-UA_PROTOCOL_LENGTH:]
    if naf_id(fqdn, protocol) != naf:
        raise GbaFormatError("the NAF's name is not in lower case")
    return fqdn, protocol


@dataclass(frozen=True, slots=True)
class Btid:
    """Bootstrapping transaction identifier: RAND (16 octets) of the challenge and the name of the BSF."""

    rand: bytes
    bsf: str

    def __str__(self) -> str:
        return f"{base64.b64encode(self.rand).decode('ascii')}@{self.bsf}"

    @classmethod
    def parse(cls, text: str) -> Btid:
        """Read a B-TID, base64(RAND)@BSF (TS 33.220 4.5.2). Raises GbaFormatError."""
        encoded, found, bsf = text.rpartition("@")
        try:
            rand = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            rand = b""
        if len(text) > MAX_BTID or not found or len(rand) != RAND_LENGTH or _FQDN.fullmatch(bsf.lower()) is None:
            raise GbaFormatError("not a B-TID")
        btid = cls(rand, bsf.lower())
        if str(btid).partition("@")[0] != encoded:
            raise GbaFormatError("not a B-TID: base64 in another form than the BSF's")
        return btid


@dataclass(frozen=True, slots=True)
class BootstrappingInfo:
    """What the BSF tells the UE: the B-TID, when its key ends and what time it is there (Unix seconds).

    `now` lets a UE whose clock is wrong work out how long the key lasts; a BSF need not say it.
    """

    btid: Btid
    expires_at: float
    now: float | None = None

    def format(self) -> bytes:
        """Return the XML document (TS 24.109 Annex C)."""
        extension = "" if self.now is None else f"<Extension><currenttime>{_time(self.now)}</currenttime></Extension>"
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<BootstrappingInfo xmlns="{_NAMESPACE}"><btid>{escape(str(self.btid))}</btid>'
            f"<lifetime>{_time(self.expires_at)}</lifetime>{extension}</BootstrappingInfo>\n"
        ).encode()

    @classmethod
    def parse(cls, document: bytes) -> BootstrappingInfo:
        """Read a document; what it does not know is passed over. Raises GbaFormatError.

        A document type is refused, so no entity is ever expanded.
        """
        if len(document) > MAX_DOCUMENT:
            raise GbaFormatError("the bootstrapping document is too long")
        texts = _texts(document)
        root = f"{_NAMESPACE} BootstrappingInfo"
        try:
            btid = Btid.parse(texts[(root, f"{_NAMESPACE} btid")])
            expires_at = _seconds(texts[(root, f"{_NAMESPACE} lifetime")])
        except KeyError:
            raise GbaFormatError("the bootstrapping document lacks B-TID or lifetime") from None
        current = texts.get((root, f"{_NAMESPACE} Extension", f"{_NAMESPACE} currenttime"))
        return cls(btid, expires_at, None if current is None else _seconds(current))


def _texts(document: bytes) -> dict[tuple[str, ...], str]:
    """The text of each element by its path of names, ``namespace local``; a repeated element is a fault."""
    found: dict[tuple[str, ...], str] = {}
    path: list[str] = []

    def begin(name: str, _attributes: dict[str, str]) -> None:
        path.append(name)
        if tuple(path) in found:
            raise GbaFormatError("an element of the bootstrapping document is repeated")
        found[tuple(path)] = ""

    def text(octets: str) -> None:
        found[tuple(path)] += octets

    def doctype(*_: object) -> None:
        raise GbaFormatError("the bootstrapping document has a document type")

    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _name: path.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(document, True)  # noqa: FBT003 - expat takes no names
    except expat.ExpatError:
        raise GbaFormatError("the bootstrapping document is not XML") from None
    return {where: words.strip() for where, words in found.items()}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise GbaFormatError("a time of the bootstrapping document is not in UTC form")
    try:
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise GbaFormatError("a time of the bootstrapping document does not exist") from None
