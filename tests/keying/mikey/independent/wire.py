"""The layouts of RFC 3830 6, RFC 4563 5 and RFC 6043 6 as plain readers of octets; anything wrong raises `Mismatch`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

REQUEST_INIT_PSK, REQUEST_INIT_PK, REQUEST_RESP, TRANSFER_INIT, TRANSFER_RESP = range(11, 16)
RESOLVE_INIT_PSK, RESOLVE_INIT_PK, RESOLVE_RESP, ERROR = 16, 17, 18, 6
TGK, TGK_SALT, TEK, TEK_SALT, GTGK, GTGK_SALT, MPK = range(7)

# What a payload is called, from its number and, where it has one, its role (RFC 3830 6.1, RFC 6043 6.1, 6.4-6.8).
ROLES = {
    13: {1: "TRi", 2: "TRs", 3: "TRe", 4: "TRr"},
    14: {1: "IDRi", 2: "IDRr", 3: "IDRkms", 4: "IDRpsk", 5: "IDRapp"},
    15: {1: "RANDRi", 2: "RANDRr", 3: "RANDRkms"},
}
NAMES = {1: "KEMAC", 2: "PKE", 4: "SIGN", 5: "T", 7: "CERT", 8: "CHASH", 9: "V", 10: "SP", 11: "RAND", 12: "ERR"}
NAMES |= {16: "TP", 17: "TICKET", 20: "KEY", 21: "GENEXT"}
TS_LENGTH = {0: 8, 1: 8, 2: 4, 3: 4}  # NTP-UTC, NTP, COUNTER (RFC 3830 6.6), NTP-UTC-32 (RFC 6043 6.3)
MAC_LENGTH = {0: 0, 1: 20, 2: 32}  # RFC 3830 6.2, RFC 6043 6.2
HASH_LENGTH = {0: 20, 1: 16, 2: 32}  # RFC 3830 6.8, RFC 6043 6.7
FLAGS = "DEFGHIJKLMNO"  # RFC 6043 6.10, the 12 bits behind the 7 of the PRF

# Which payloads in which order (RFC 6043 4.2, 5.2, 5.4, 6.10, A); a general extension may stand anywhere (RFC 3830 6.15).
ORDER = {
    REQUEST_INIT_PSK: "T RANDRi [IDRi] [IDRkms] TP [IDRpsk] V",
    REQUEST_INIT_PK: "T RANDRi [IDRi] {CERT} [IDRkms] TP [CHASH] PKE SIGN",
    REQUEST_RESP: "T [IDRkms] TICKET KEMAC V",
    TRANSFER_INIT: "T RANDRi [IDRi] [IDRr] {SP} TICKET [KEMAC] V",
    TRANSFER_RESP: "T [RANDRr] [IDRr] [RANDRkms] {SP} [KEMAC] V",
    RESOLVE_INIT_PSK: "T RANDRr [IDRr] [IDRkms] TICKET [IDRpsk] V",
    RESOLVE_INIT_PK: "T RANDRr [IDRr] {CERT} [IDRkms] TICKET [CHASH] PKE SIGN",
    RESOLVE_RESP: "T [IDRkms] KEMAC [IDRr] [RANDRkms] V",
    ERROR: "T (ERR) {SP} [V] [SIGN]",
}
POLICY_ORDER = "[IDRkms] [IDRi] [TRs] [TRe] [TRr] [KEMAC] {IDRapp} (IDRr)"
TICKET_DATA_ORDER = "T RAND KEMAC [IDRpsk] V"
UPDATE_INIT_ORDER = {"i": "T [IDRi] [IDRr] {SP} [KEMAC] V", "r": "T [IDRr] [IDRi] {SP} [KEMAC] V"}
UPDATE_RESP_ORDER = {"i": "T [IDRr] {SP} [KEMAC] V", "r": "T [IDRi] {SP} [KEMAC] V"}

Payload = dict[str, Any]


class Mismatch(Exception):
    """An octet is not where or what the RFC says."""


def require(condition: object, where: str) -> None:
    if not condition:
        raise Mismatch(where)


class Octets:
    """A cursor that refuses to run past its end."""

    def __init__(self, octets: bytes, start: int = 0, end: int | None = None) -> None:
        self.octets, self.at, self.end = octets, start, len(octets) if end is None else end

    def take(self, count: int, what: str = "octets") -> bytes:
        require(self.at + count <= self.end, f"{what} cut short")
        self.at += count
        return self.octets[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count, "number"), "big")

    def vector(self, length_octets: int) -> bytes:
        return self.take(self.number(length_octets), "field")


@dataclass
class Message:
    """One message: header fields and payloads in order, with the octets they came from."""

    octets: bytes
    data_type: int
    v: int
    prf: int
    csb_id: bytes
    map_type: int
    count: int
    sessions: list[dict[str, Any]]
    payloads: list[Payload]

    def find(self, name: str) -> Payload | None:
        return next((payload for payload in self.payloads if payload["name"] == name), None)

    def get(self, name: str) -> Payload:
        found = self.find(name)
        if found is None:
            raise Mismatch(f"no {name}")
        return found


def parse(octets: bytes) -> Message:
    """Read one whole message (RFC 3830 6.1)."""
    read = Octets(octets)
    require(read.number(1) == 1, "version")
    data_type, first, v_and_prf, csb_id = read.number(1), read.number(1), read.number(1), read.take(4)
    count, map_type = read.number(1), read.number(1)
    require(map_type in (0, 1, 2), "CS ID map type")
    sessions = [read_session(read, map_type, index + 1) for index in range(count if map_type != 1 else 0)]
    payloads = read_chain(read, first)
    return Message(octets, data_type, v_and_prf >> 7, v_and_prf & 0x7F, csb_id, map_type, count, sessions, payloads)


def read_session(read: Octets, map_type: int, ordinal: int) -> dict[str, Any]:
    """Read one block of the map: SRTP-ID (RFC 3830 6.1.1) or GENERIC-ID (RFC 6043 6.1.1)."""
    if map_type == 0:
        return {"cs_id": ordinal, "policies": [read.number(1)], "data": read.take(8), "s": 1, "prot": 0, "spi": b""}
    cs_id, prot, s_and_count = read.number(1), read.number(1), read.number(1)
    policies = list(read.take(s_and_count & 0x7F))
    data, spi = read.vector(2), read.vector(1)
    return {"cs_id": cs_id, "prot": prot, "s": s_and_count >> 7, "policies": policies, "data": data, "spi": spi}


def read_chain(read: Octets, number: int) -> list[Payload]:
    """Read payloads from `number` on to the last; nothing may follow it."""
    payloads = []
    while number:
        start = read.at
        name, next_number = NAMES.get(number, ""), 0 if number == 4 else read.number(1)
        require(name or number in ROLES, f"payload number {number}")
        if number in ROLES:
            role = read.number(1)
            name = ROLES[number].get(role, f"{number}/{role}")
        payload = {"name": name, "start": start, **read_body(read, number)}
        payloads.append(payload | {"end": read.at})
        number = next_number
    require(read.at == read.end, "octets behind the last payload")
    return payloads


def read_body(read: Octets, number: int) -> Payload:
    """Read what follows the next-payload octet and the role (RFC 3830 6.2-6.15, RFC 6043 6.2-6.10)."""
    if number in (5, 13):
        kind = read.number(1)
        require(kind in TS_LENGTH, "timestamp type")
        return {"type": kind, "value": read.take(TS_LENGTH[kind], "timestamp")}
    if number in (7, 14, 21):
        return {"type": read.number(1), "data": read.vector(2)}
    if number in (11, 15):
        return {"data": read.vector(1)}
    if number == 1:
        encr, data, mac = read.number(1), read.vector(2), read.number(1)
        require(mac in MAC_LENGTH, "MAC algorithm")
        return {"encr": encr, "data": data, "mac_alg": mac, "mac": read.take(MAC_LENGTH[mac], "MAC")}
    if number == 9:
        mac = read.number(1)
        require(mac in MAC_LENGTH, "MAC algorithm")
        return {"alg": mac, "mac": read.take(MAC_LENGTH[mac], "MAC")}
    if number == 10:
        no, prot, inner = read.number(1), read.number(1), Octets(read.vector(2))
        params = []
        while inner.at < inner.end:
            params.append((inner.number(1), inner.vector(1)))
        return {"no": no, "prot": prot, "params": params}
    if number == 12:
        return {"error": read.number(1), "reserved": read.number(2)}
    if number == 20:
        return read_key(read)
    if number in (16, 17):
        return read_ticket(read, has_data=number == 17)
    if number == 8:
        kind = read.number(1)
        require(kind in HASH_LENGTH, "hash function")
        return {"hash": kind, "data": read.take(HASH_LENGTH[kind], "hash")}
    word = read.number(2)  # PKE: 2 + 14 bits; SIGN: 4 + 12 bits, the word standing first (RFC 3830 6.3, 6.5)
    bits = 14 if number == 2 else 12
    return {"type": word >> bits, "data": read.take(word & (1 << bits) - 1, "data")}


def read_key(read: Octets) -> Payload:
    """Key data behind its next-payload octet (RFC 3830 6.13, 6.14; RFC 6043 6.2.1)."""
    kinds = read.number(1)
    key: Payload = {"type": kinds >> 4, "kv": kinds & 15, "data": read.vector(2), "salt": b"", "spi": b""}
    require(key["type"] <= MPK and key["kv"] <= 2, "key data type")
    if key["type"] in (TGK_SALT, TEK_SALT, GTGK_SALT):
        key["salt"] = read.vector(2)
    if key["kv"] == 1:
        key["spi"] = read.vector(1)
    if key["kv"] == 2:
        key["from"], key["to"] = read.vector(1), read.vector(1)
    return key


def read_ticket(read: Octets, *, has_data: bool) -> Payload:
    """TP or TICKET behind the next-payload octet (RFC 6043 6.10)."""
    kind, word = (read.number(2), read.number(1), read.number(1)), read.number(3)
    tp_data = read.vector(2)
    inner = Octets(tp_data)
    bits = {flag: word >> (16 - place) & 1 for place, flag in enumerate(FLAGS)}
    ticket: Payload = {"kind": kind, "prf": word >> 17, "flags": bits, "reserved": word & 31, "tp_data": tp_data}
    ticket["policy"] = read_chain(inner, inner.number(1))
    if has_data:
        ticket["data"] = read.vector(2)
        ticket["data_end"] = read.at
        ticket["initiator_data"] = read.vector(2)
    return ticket


def read_ticket_data(octets: bytes) -> dict[str, Payload]:
    """Ticket Data of the base ticket by payload name (RFC 6043 A.1, A.3)."""
    read = Octets(octets)
    first, thdr = read.number(1), read.vector(2)
    payloads = read_chain(read, first)
    check_order(payloads, TICKET_DATA_ORDER, "Ticket Data")
    return {payload["name"]: payload for payload in payloads} | {"THDR": {"data": thdr}}


def read_initiator_data(octets: bytes) -> tuple[Payload, Payload]:
    """Vi and Vr (RFC 6043 6.10); a Vi "identical to V" may carry V's own next payload, 0."""
    read, macs = Octets(octets), []
    require(read.number(1) == 9, "first payload of Initiator Data")
    for following in ((9, 0), (0,)):
        require(read.number(1) in following, "chain of Initiator Data")
        macs.append(read_body(read, 9))
    require(read.at == read.end, "octets behind Vr")
    return macs[0], macs[1]


def check_order(payloads: Iterable[Payload], order: str, where: str) -> None:
    """Compare the sequence of payloads with the RFC's own notation: [] optional, {} any number, () one or more."""
    suffix = {"[": "?", "{": "*", "(": "+"}
    words = (re.fullmatch(r"([\[{(]?)(\w+)\W?", word) for word in order.split())
    pattern = "".join(f"({match[2]} ){suffix.get(match[1], '')}" for match in words if match)
    names = "".join(f"{payload['name']} " for payload in payloads if payload["name"] != "GENEXT")
    require(re.fullmatch(pattern, names), f"{where}: payloads {names}")
