"""Every code point of registry.py, and no other, stands in the tables of IANA (as of 2019-02-15)."""

from __future__ import annotations

import re

import pytest

from keying.mikey import registry

# Numbers and names as IANA and the RFCs have them (RFC 3830 6.10.1 for SRTP parameters, RFC 6043 6.10 for flags); what we do not read (IBAKE, SAKKE, ESK and the like) stands in LEFT_OUT.
TABLES = {
    "DataType": "0 Pre-shared; 1 PSK ver msg; 2 Public key; 3 PK ver msg; 4 D-H init; 5 D-H resp; 6 Error; 7 DHHMAC init;"
    " 8 DHHMAC resp; 9 RSA-R I_MSG; 10 RSA-R R_MSG; 11 REQUEST_INIT_PSK; 12 REQUEST_INIT_PK; 13 REQUEST_RESP;"
    " 14 TRANSFER_INIT; 15 TRANSFER_RESP; 16 RESOLVE_INIT_PSK; 17 RESOLVE_INIT_PK; 18 RESOLVE_RESP; 26 SAKKE msg",
    "NextPayload": "0 Last; 1 KEMAC; 2 PKE; 3 DH; 4 SIGN; 5 T; 6 ID; 7 CERT; 8 CHASH; 9 V; 10 SP; 11 RAND; 12 ERR; 13 TR;"
    " 14 IDR; 15 RANDR; 16 TP; 17 TICKET; 20 Key data; 21 General Extension; 22 IBAKE; 23 ESK; 24 SK; 25 ECCPT; 26 SAKKE",
    "PrfFunc": "0 MIKEY-1; 1 PRF-HMAC-SHA-256",
    "CsIdMapType": "0 SRTP-ID; 1 Empty; 2 GENERIC-ID",
    "EncrAlg": "0 NULL; 1 AES-CM-128; 2 AES-KW-128; 3 AES-CM-256",
    "MacAlg": "0 NULL; 1 HMAC-SHA-1-160; 2 HMAC-SHA-256-256",
    "TsType": "0 NTP-UTC; 1 NTP; 2 COUNTER; 3 NTP-UTC-32",
    "TsRole": "1 issue; 2 start; 3 end; 4 rekey",
    "IdType": "0 NAI; 1 URI; 2 Byte string",
    "IdRole": "1 Initiator; 2 Responder; 3 KMS; 4 PSK; 5 Application; 6 KMS initiator; 7 KMS responder;"
    " 8 hashed initiator; 9 hashed responder",
    "RandRole": "1 Initiator; 2 Responder; 3 KMS",
    "CertType": "0 X509 v3; 1 X509 v3 URL; 2 X509 v3 Sign; 3 X509 v3 Encr",
    "HashFunc": "0 SHA-1; 1 MD5; 2 SHA-256",
    "SignType": "0 RSA PKCS1 v1 5; 1 RSA-PSS; 2 ECCSI",
    "KeyDataType": "0 TGK; 1 TGK+SALT; 2 TEK; 3 TEK+SALT; 4 GTGK; 5 GTGK+SALT; 6 MPK; 7 K_PR",
    "KvType": "0 Null; 1 SPI; 2 Interval",
    "ProtType": "0 SRTP; 1 TESLA",
    "ErrorNumber": "0 Auth failure; 1 Invalid TS; 2 Invalid PRF; 3 Invalid MAC; 4 Invalid EA; 5 Invalid HA; 6 Invalid DH;"
    " 7 Invalid ID; 8 Invalid Cert; 9 Invalid SP; 10 Invalid SP par; 11 Invalid DT; 12 Unspecified;"
    " 13 Unsupported message type; 14 Invalid TICKET; 15 Invalid TP par",
    "TicketType": "0 reserved; 1 MIKEY base; 2 three GPP base",
    "ExtensionType": "0 Vendor ID; 1 SDP IDs; 2 TESLA I-Key; 3 Key ID; 4 CSB_ID; 5 OMA BCAST; 6 SAKKE-to-self;"
    " 7 key parameters 3GPP",
    "SrtpParameter": "0 encryption; 1 encryption key length; 2 authentication; 3 authentication key length;"
    " 4 salt key length; 5 PRF; 6 key derivation rate; 7 SRTP encryption; 8 SRTCP encryption; 9 FEC order;"
    " 10 SRTP authentication; 11 tag length; 12 prefix length; 13 ROC rate; 14 SRTP auth alg; 15 SRTCP auth alg;"
    " 16 SRTP auth key length; 17 SRTCP auth key length; 18 SRTP tag length; 19 SRTCP tag length; 20 AEAD tag length",
    "SrtpEncryption": "0 NULL; 1 AES-CM; 2 AES-F8; 3 SEED-CTR; 4 SEED-CCM; 5 SEED-GCM; 6 AES-GCM; 7 ARIA-CTR; 8 ARIA-GCM",
}
LEFT_OUT = {("DataType", 26), ("KeyDataType", 7), *(("NextPayload", number) for number in range(22, 27))}
OUR_WORD = {
    ("DataType", 1): "PSK_VERIFICATION",
    ("DataType", 3): "PK_VERIFICATION",
    ("DataType", 4): "DH_INIT",
    ("DataType", 5): "DH_RESP",
}
FLAGS = "D 0x10000, E 0x8000, F 0x4000, G 0x2000, H 0x1000, I 0x0800, J 0x0400, K 0x0200, L 0x0100, M 0x0080, N 0x0040, O 0x0020"


def test_every_registry_has_its_table() -> None:
    enums = {name for name in vars(registry) if isinstance(vars(registry)[name], type)} - {"IntEnum", "IntFlag"}
    assert enums == {*TABLES, "TicketFlag"}


@pytest.mark.clause("RFC 6043", "14")
@pytest.mark.clause("TS 33.328", "D-1", "D-2")
@pytest.mark.parametrize("name", TABLES)
def test_a_registry_is_its_table(name: str) -> None:
    table = {}
    for row in TABLES[name].split("; "):
        number, word = row.split(" ", 1)
        if (name, int(number)) not in LEFT_OUT:
            written = re.sub(r"[^A-Z0-9]+", "_", word.upper())
            table[OUR_WORD.get((name, int(number)), written)] = int(number)
    assert {member.name: member.value for member in vars(registry)[name]} == table


@pytest.mark.clause("RFC 6043", "6.10")
def test_flags_are_their_masks() -> None:
    table = {flag: int(mask, 16) for flag, mask in (row.split() for row in FLAGS.split(", "))}
    assert {flag.name: flag.value for flag in registry.TicketFlag} == table


def test_lengths_follow_the_algorithms() -> None:
    assert [alg.length for alg in registry.MacAlg] == [0, 20, 32]
    assert [kind.length for kind in registry.TsType] == [8, 8, 4, 4]
    assert [kind.name for kind in registry.KeyDataType if kind.salted] == ["TGK_SALT", "TEK_SALT", "GTGK_SALT"]
