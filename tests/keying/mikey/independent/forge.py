"""Builds MIKEY-TICKET messages payload by payload, right or wrong, with valid MACs over whatever it was told to send.

The attacks need messages that an honest implementation would not write: this is the dishonest one. It shares the
derivations of crypto.py with the verifier and nothing with keying.mikey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.keying.mikey.independent.crypto import aes_cm, constant, fork, mac, message_label, prf, protection, rand
from tests.keying.mikey.independent.wire import (
    FLAGS,
    MPK,
    REQUEST_INIT_PSK,
    REQUEST_RESP,
    RESOLVE_INIT_PSK,
    RESOLVE_RESP,
    TGK,
    TGK_SALT,
    TRANSFER_INIT,
    TRANSFER_RESP,
    Octets,
    parse,
)

Part = tuple[int, bytes]  # payload number, and the octets behind its next-payload octet
Suite = tuple[int, int, int]  # PRF, encryption, MAC
SHORT: Suite = (0, 1, 1)
LONG: Suite = (1, 3, 2)


def vector(octets: bytes, length_octets: int = 2) -> bytes:
    return len(octets).to_bytes(length_octets, "big") + octets


def t(value: bytes, kind: int = 0) -> Part:
    return 5, bytes([kind]) + value


def tr(role: int, value: bytes, kind: int = 3) -> Part:
    return 13, bytes([role, kind]) + value


def idr(role: int, data: bytes, kind: int = 1) -> Part:
    return 14, bytes([role, kind]) + vector(data)


def randr(role: int, data: bytes) -> Part:
    return 15, bytes([role]) + rand(data)


def sp(no: int, params: bytes = b"", prot: int = 0) -> Part:
    return 10, bytes([no, prot]) + vector(params)


def genext(kind: int, data: bytes) -> Part:
    return 21, bytes([kind]) + vector(data)


def err(number: int) -> Part:
    return 12, bytes([number, 0, 0])


def v(alg: int, octets: bytes = b"") -> Part:
    return 9, bytes([alg]) + octets


def kemac(data: bytes, encr: int, mac_alg: int = 0) -> Part:
    return 1, bytes([encr]) + vector(data) + bytes([mac_alg])


def key(kind: int, data: bytes, spi: bytes, salt: bytes = b"") -> Part:
    with_salt = vector(salt) if kind in (1, 3, 5) else b""
    return 20, bytes([kind << 4 | 1]) + vector(data) + with_salt + vector(spi, 1)


def chain(parts: Sequence[Part]) -> tuple[int, bytes]:
    """First payload number and the octets of a whole chain."""
    numbers = [number for number, _ in parts] + [0]
    octets = (bytes([following]) + body for following, (_, body) in zip(numbers[1:], parts, strict=True))
    return numbers[0], b"".join(octets)


def policy(parts: Sequence[Part], flags: str, prf_func: int = 0, kind: tuple[int, int, int] = (1, 1, 1)) -> bytes:
    """A TP payload behind its next-payload octet."""
    word = prf_func << 17 | sum(1 << (16 - FLAGS.index(flag)) for flag in flags)
    first, inner = chain(parts)
    head = kind[0].to_bytes(2, "big") + bytes(kind[1:]) + word.to_bytes(3, "big")
    return head + vector(bytes([first]) + inner)


def ticket(policy_octets: bytes, data: bytes, initiator_data: bytes = b"") -> Part:
    return 17, policy_octets + vector(data) + vector(initiator_data)


def session(cs_id: int, data: bytes, spi: bytes, policies: bytes = b"\0", prot: int = 0) -> bytes:
    """One GENERIC-ID block."""
    return bytes([cs_id, prot, len(policies)]) + policies + vector(data) + vector(spi, 1)


def message(
    data_type: int,
    csb_id: bytes,
    parts: Sequence[Part],
    *,
    flag: int = 0,
    prf_func: int = 0,
    sessions: Sequence[bytes] = (),
    map_type: int = 1,
) -> bytes:
    """A message as far as it goes; with a bare `v(alg)` at its end, the message without its MAC."""
    first, octets = chain(parts)
    head = bytes([1, data_type, first, flag << 7 | prf_func]) + csb_id + bytes([len(sessions), map_type])
    return head + b"".join(sessions) + octets


def encrypted(keys: Iterable[Part], under: Mapping[str, bytes], csb_id: bytes, time: bytes, encr: int) -> Part:
    _, plain = chain(list(keys))
    return kemac(aes_cm(under["encr"], under["salt"], csb_id, time, plain), encr)


def protect(suite: Suite, inkey: bytes, csb_id: bytes, phase: int, rand_i: bytes, rand_r: bytes) -> dict[str, bytes]:
    return protection(suite[0], inkey, message_label(csb_id, phase, rand_i, rand_r), suite[1], suite[2])


def ticket_data(
    policy_octets: bytes, tpk: bytes, keys: Sequence[Part], rand_t: bytes, time: bytes, suite: Suite, *extra: Part
) -> bytes:
    """Ticket Data of a base ticket (RFC 6043 A); `extra` stands between KEMAC and V."""
    under = protection(suite[0], tpk, b"\xff" * 4 + b"\x05" + rand(rand_t), suite[1], suite[2])
    box = encrypted(keys, under, b"\xff" * 4, time, suite[1])
    first, inner = chain([t(time), (11, rand(rand_t)), box, *extra, v(suite[2])])
    octets = bytes([first]) + vector(b"") + inner
    length = len(octets) + {1: 20, 2: 32}[suite[2]]
    covered = policy_octets + length.to_bytes(2, "big") + octets
    return octets + mac(suite[2], under["auth"], covered)


def mpk_part(suite: Suite, name: str, mpk: bytes, rand_t: bytes) -> bytes:
    """MPKi or MPKr (RFC 6043 A.2.2)."""
    return prf(suite[0], mpk, constant(name) + b"\xff" * 5 + b"\x06" + rand(rand_t), len(mpk) * 8)


def initiator_data(suite: Suite, mpkr: bytes, transfer_mac: bytes) -> bytes:
    """Vi and Vr (RFC 6043 6.10)."""
    first, octets = chain([v(suite[2], transfer_mac), v(suite[2])])
    octets = bytes([first]) + octets
    auth = protection(suite[0], mpkr, b"\xff" * 4 + b"\x04", suite[1], suite[2])["auth"]
    return octets + mac(suite[2], auth, octets)


def transfer_init(
    parts: Sequence[Part],
    issued: tuple[bytes, bytes],
    behind: Sequence[Part],
    identities: bytes,
    suite: Suite,
    mpks: tuple[bytes, bytes | None],
    rand_i: bytes,
    **header: Any,
) -> bytes:
    """TRANSFER_INIT around (policy, ticket data); with an MPKr it gets Initiator Data, which its own MAC leaves out."""
    head = {"flag": 1, "map_type": 2, "prf_func": suite[0]} | header
    csb_id = head.pop("csb_id")
    under = protect(suite, mpks[0], csb_id, 1, rand_i, b"")

    def build(inserted: bytes, verification: Part) -> bytes:
        whole = [*parts, ticket(*issued, inserted), *behind, verification]
        return message(TRANSFER_INIT, csb_id, whole, **head)

    # The two octets of Initiator Data length, zero here, are left out of what the MAC covers (RFC 6043 5.5).
    bare, tail = build(b"", v(suite[2])), len(chain([*behind, v(suite[2])])[1])
    tag = mac(suite[2], under["auth"], bare[: len(bare) - tail - 2] + bare[len(bare) - tail :] + identities)
    inserted = initiator_data(suite, mpks[1], tag) if mpks[1] is not None else b""
    return build(inserted, v(suite[2], tag))


def sealed(octets: bytes, suite: Suite, auth: bytes, behind: bytes) -> bytes:
    return octets + mac(suite[2], auth, octets + behind)


def exchange(**inputs: Any) -> dict[str, bytes]:
    """Build the six messages of mode 1 from keys, RANDs, identities and times (see example.INPUTS)."""
    suite, names, rands, times = inputs["suite"], inputs["identities"], inputs["rands"], inputs["times"]
    forking, (csb_q, csb_t, csb_v) = "I" in inputs["flags"], inputs["csb_ids"]
    parties = [idr(3, names["kms"]), idr(1, names["i"]), idr(2, names["r"])]
    granted = policy(parties, inputs["flags"], suite[0])
    spi_i, spi_r = inputs["mpk_spis"]
    session_keys = [key(*each) for each in inputs["keys"]]
    mpki, mpkr = (mpk_part(suite, name, inputs["mpk"], rands["ticket"]) for name in ("MPKi", "MPKr"))
    own = [key(MPK, mpki, spi_i), *([key(MPK, mpkr, spi_r)] if forking else []), *session_keys]
    inside = [key(MPK, inputs["mpk"], spi_i), *session_keys]
    data = ticket_data(granted, inputs["tpk"], inside, rands["ticket"], times[1], suite)
    built = {}

    under = protect(suite, inputs["psk_i"], csb_q, 1, rands["request"], b"")
    parts = [t(times[0]), randr(1, rands["request"]), idr(1, names["i"]), idr(3, names["kms"]), (16, granted)]
    octets = message(
        REQUEST_INIT_PSK, csb_q, [*parts, idr(4, names["psk_i"], 2), v(suite[2])], flag=1, prf_func=suite[0]
    )
    built["REQUEST_INIT"] = sealed(octets, suite, under["auth"], names["i"] + names["kms"])

    under = protect(suite, inputs["psk_i"], csb_q, 2, rands["request"], b"")
    box = encrypted(own, under, csb_q, times[1], suite[1])
    parts = [t(times[1]), idr(3, names["kms"]), ticket(granted, data), box, v(suite[2])]
    octets = message(REQUEST_RESP, csb_q, parts, prf_func=suite[0])
    built["REQUEST_RESP"] = sealed(octets, suite, under["auth"], built["REQUEST_INIT"])

    blocks = [[session(cs, bytes.fromhex(ssrc), spi) for cs, ssrc, spi in side] for side in inputs["sessions"]]
    parts = [t(times[2]), randr(1, rands["transfer"]), idr(1, names["i"]), idr(2, names["r"]), sp(0)]
    built["TRANSFER_INIT"] = transfer_init(
        parts,
        (granted, data),
        [],
        names["i"] + names["r"],
        suite,
        (mpki, mpkr if forking else None),
        rands["transfer"],
        csb_id=csb_t,
        sessions=blocks[0],
        flag=int("F" in inputs["flags"]),
    )
    tag = built["TRANSFER_INIT"][-{1: 20, 2: 32}[suite[2]] :]
    inserted = initiator_data(suite, mpkr, tag) if forking else b""

    under = protect(suite, inputs["psk_r"], csb_v, 1, b"", rands["resolve"])
    parts = [t(times[3]), randr(2, rands["resolve"]), idr(2, names["r"]), idr(3, names["kms"])]
    parts += [ticket(granted, data, inserted), idr(4, names["psk_r"], 2), v(suite[2])]
    octets = message(RESOLVE_INIT_PSK, csb_v, parts, flag=1, prf_func=suite[0])
    built["RESOLVE_INIT"] = sealed(octets, suite, under["auth"], names["r"] + names["kms"])

    def forked(name: str, octets: bytes) -> bytes:
        return fork(suite[0], name, octets, names["r"], rands["kms"]) if forking else octets

    modifier = [idr(2, names["r"]), randr(3, rands["kms"])] if forking else []
    theirs = [key(MPK, mpki, spi_i), *([key(MPK, forked("fork MPKr", mpkr), spi_r)] if forking else [])]
    for kind, octets, spi, salt in inputs["keys"]:
        theirs.append(key(kind, forked("fork TGK", octets) if kind in (TGK, TGK_SALT) else octets, spi, salt))
    under = protect(suite, inputs["psk_r"], csb_v, 2, b"", rands["resolve"])
    box = encrypted(theirs, under, csb_v, times[4], suite[1])
    parts = [t(times[4]), idr(3, names["kms"]), box, *modifier, v(suite[2])]
    octets = message(RESOLVE_RESP, csb_v, parts, prf_func=suite[0])
    built["RESOLVE_RESP"] = sealed(octets, suite, under["auth"], built["RESOLVE_INIT"])

    if "F" in inputs["flags"]:
        answer = rands["answer"] if "G" in inputs["flags"] else b""
        inkey = forked("fork MPKr", mpkr) if forking else mpki
        under = protect(suite, inkey, csb_t, 2, rands["transfer"], answer)
        parts = [t(times[5]), *([randr(2, answer)] if answer else []), *modifier, v(suite[2])]
        octets = message(TRANSFER_RESP, csb_t, parts, prf_func=suite[0], sessions=blocks[1], map_type=2)
        built["TRANSFER_RESP"] = sealed(octets, suite, under["auth"], built["TRANSFER_INIT"])
    return built


def take_apart(octets: bytes) -> tuple[dict[str, Any], list[Part]]:
    """Header fields and payloads of a message, ready to be changed and put together again."""
    read = parse(octets)
    parts, number = [], octets[2]
    for payload in read.payloads:
        parts.append((number, octets[payload["start"] + 1 : payload["end"]]))
        number = octets[payload["start"]]
    blocks = [session(cs["cs_id"], cs["data"], cs["spi"], bytes(cs["policies"]), cs["prot"]) for cs in read.sessions]
    head = {"data_type": read.data_type, "csb_id": read.csb_id, "flag": read.v, "prf_func": read.prf}
    return head | {"sessions": blocks, "map_type": read.map_type}, parts


def rand_in(parts: Iterable[Part], role: int) -> bytes:
    return next((body[2:] for number, body in parts if number == 15 and body[0] == role), b"")


def respell(
    octets: bytes,
    inkey: bytes,
    edit: Callable[[list[Part]], list[Part]] = list,
    *,
    behind: bytes = b"",
    initial: bytes = b"",
    suite: Suite = SHORT,
    mpkr: bytes | None = None,
    **header: Any,
) -> bytes:
    """A message with edited payloads and header and a right MAC again: what somebody who holds the keys may send.

    `behind` are the identities of an initial message, `initial` the message that a response answers. A TRANSFER_INIT
    gets the Initiator Data that goes with `mpkr`; without an MPKr it keeps what its TICKET says.
    """
    head, parts = take_apart(octets)
    parts, head = edit(parts), head | header
    asked = take_apart(initial)[1] if initial else []
    rand_i = rand_in(asked, 1) or rand_in(parts, 1)
    rand_r = rand_in(asked, 2) or (b"" if head["data_type"] == TRANSFER_INIT else rand_in(parts, 2))
    auth = protect(suite, inkey, head["csb_id"], 2 if initial else 1, rand_i, rand_r)["auth"]
    alg = parts.pop()[1][0]

    def build(chosen: Sequence[Part], tag: bytes) -> bytes:
        given = {key: value for key, value in head.items() if key not in ("data_type", "csb_id")}
        return message(head["data_type"], head["csb_id"], [*chosen, v(alg, tag)], **given)

    place = next((place for place, (number, _) in enumerate(parts) if number == 17), None)
    if head["data_type"] != TRANSFER_INIT or place is None:
        return build(parts, tag_over(alg, auth, build(parts, b"") + behind + initial))
    policy_octets, data, inserted = parse_ticket(parts[place][1])
    covered = build([*parts[:place], (17, policy_octets + vector(data)), *parts[place + 1 :]], b"")
    tag = tag_over(alg, auth, covered + behind)
    if mpkr is not None:
        inserted = initiator_data((suite[0], suite[1], alg), mpkr, tag)
    return build([*parts[:place], ticket(policy_octets, data, inserted), *parts[place + 1 :]], tag)


def tag_over(alg: int, auth: bytes, covered: bytes) -> bytes:
    """A MAC, or no octets under NULL."""
    return mac(alg, auth, covered) if alg else b""


def parse_ticket(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Policy, Ticket Data and Initiator Data out of a TICKET body."""
    read = Octets(body)
    read.take(7)
    read.vector(2)
    policy_octets = body[: read.at]
    return policy_octets, read.vector(2), read.vector(2)
