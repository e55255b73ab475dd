"""MIKEY-TICKET verified straight from RFC 6043, 3830 and 4563, knowing no line of keying.mikey.

Two paths that were written apart and agree octet by octet are worth more than one path tested by its own author,
as nobody has published numeric vectors for these messages. Plain functions; the clause stands beside each.
Everything wrong raises `Mismatch` with the place.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.keying.mikey.independent.crypto import (
    constant,
    fork,
    key_tuple,
    mac,
    message_label,
    open_kemac,
    prf,
    protection,
    rand,
    unix,
)
from tests.keying.mikey.independent.wire import (
    MPK,
    ORDER,
    POLICY_ORDER,
    REQUEST_INIT_PK,
    REQUEST_INIT_PSK,
    REQUEST_RESP,
    RESOLVE_INIT_PK,
    RESOLVE_INIT_PSK,
    RESOLVE_RESP,
    TEK,
    TEK_SALT,
    TGK,
    TGK_SALT,
    TRANSFER_INIT,
    TRANSFER_RESP,
    Message,
    Mismatch,
    Octets,
    Payload,
    check_order,
    parse,
    read_chain,
    read_initiator_data,
    read_ticket_data,
    require,
)


@dataclass
class Verified:
    """What a verified exchange holds: every key by name, the ticket, who took part, and each crypto session's key."""

    keys: dict[str, bytes] = field(default_factory=dict)
    ticket: Payload = field(default_factory=dict)  # the TICKET of the Transfer: kind, prf, flags, policy, data
    initiator: bytes = b""
    responder: bytes = b""
    rand_kms: bytes = b""
    master: list[Payload] = field(default_factory=list)  # keys of the ticket as the Initiator has them
    session_keys: list[Payload] = field(default_factory=list)  # as both sides use them, forked where they fork
    sessions: dict[int, dict[str, Any]] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)  # keys and algorithm that protected the last Transfer message


def octets_of(exchange: Mapping[str, Any], name: str) -> bytes:
    value = exchange[name]
    if isinstance(value, bytes):
        return value
    return base64.b64decode(value, validate=True) if name.isupper() else bytes.fromhex(value)


def verify_exchange(exchange: Mapping[str, Any]) -> Verified:
    """Verify every message and derive every key.

    `exchange` holds REQUEST_INIT, REQUEST_RESP, TRANSFER_INIT, RESOLVE_INIT, RESOLVE_RESP, TRANSFER_RESP (octets or
    base64; a mode or F = 0 leaves some out), psk_i, psk_r, tpk (octets or hex; in the PK variants psk_i and psk_r are
    the envelope keys), and where messages leave identities out: identity_i, identity_r, identity_kms (text).
    Raises Mismatch.
    """
    done = Verified()
    for name in ("REQUEST_INIT", "REQUEST_RESP", "TRANSFER_INIT", "RESOLVE_INIT", "RESOLVE_RESP", "TRANSFER_RESP"):
        if exchange.get(name):
            done.messages[name] = message = parse(octets_of(exchange, name))
            check_header(done, name, message)
    check_ticket(done, octets_of(exchange, "tpk"))
    if "REQUEST_INIT" in done.messages:
        check_request(done, exchange)
    check_transfer_init(done, exchange)
    if "RESOLVE_INIT" in done.messages:
        check_resolve(done, exchange)
    if "TRANSFER_RESP" in done.messages or done.ticket["flags"]["F"]:
        check_transfer_resp(done)
    check_one_suite(done)
    derive_sessions(done)
    return done


def check_header(done: Verified, name: str, message: Message) -> None:
    """Data type, order, and what must repeat or be fixed in the header (RFC 6043 4.2.*.1, 4.2.*.5)."""
    types: dict[str, tuple[int, ...]]
    types = {"REQUEST_INIT": (REQUEST_INIT_PSK, REQUEST_INIT_PK), "RESOLVE_INIT": (RESOLVE_INIT_PSK, RESOLVE_INIT_PK)}
    types |= {"REQUEST_RESP": (REQUEST_RESP,), "RESOLVE_RESP": (RESOLVE_RESP,)}
    types |= {"TRANSFER_INIT": (TRANSFER_INIT,), "TRANSFER_RESP": (TRANSFER_RESP,)}
    require(message.data_type in types[name], f"{name}: data type {message.data_type}")
    check_order(message.payloads, ORDER[message.data_type], name)
    require(message.payloads[-1]["name"] in ("V", "SIGN"), f"{name}: V is last")
    if name.startswith("TRANSFER"):
        require(message.map_type == 2 or (message.map_type == 1 and not message.find("SP")), f"{name}: map type")
        require(len({cs["cs_id"] for cs in message.sessions}) == len(message.sessions), f"{name}: CS ID twice")
    else:
        require((message.count, message.map_type) == (0, 1), f"{name}: crypto sessions")
    if name.endswith("RESP"):
        initial = done.messages[name.replace("RESP", "INIT")]
        require((message.prf, message.csb_id, message.v) == (initial.prf, initial.csb_id, 0), f"{name}: header")
    elif name == "TRANSFER_INIT":
        require(message.v == message.get("TICKET")["flags"]["F"], f"{name}: V flag")
    else:
        require(message.v == 1, f"{name}: V flag")


def check_ticket(done: Verified, tpk: bytes) -> None:
    """Policy rules and Ticket Data (RFC 6043 6.10, A); the ticket that travels is the ticket that was issued."""
    done.ticket = ticket = done.messages["TRANSFER_INIT"].get("TICKET")
    for name in ("REQUEST_RESP", "RESOLVE_INIT"):
        if name in done.messages:
            other = done.messages[name].get("TICKET")
            same = ("kind", "prf", "flags", "reserved", "tp_data", "data")
            require(all(other[key] == ticket[key] for key in same), f"{name}: another ticket")
            wanted = ticket["initiator_data"] if name == "RESOLVE_INIT" else b""
            require(other["initiator_data"] == wanted, f"{name}: Initiator Data")
    require(ticket["kind"] == (1, 1, 1), f"ticket type {ticket['kind']}")  # the only format that is published
    check_order(ticket["policy"], POLICY_ORDER, "ticket policy")
    require(all(payload["name"] != "KEMAC" for payload in ticket["policy"]), "KEMAC in a granted policy")
    require(all(payload["type"] == 3 for payload in ticket["policy"] if payload["name"] == "TRr"), "type of TRr")
    check_flags(ticket["flags"])

    inside = read_ticket_data(ticket["data"])
    where = b"\xff\xff\xff\xff\x05" + rand(inside["RAND"]["data"])
    keys = protection(ticket["prf"], tpk, where, inside["KEMAC"]["encr"], inside["V"]["alg"])
    carrier = done.messages["TRANSFER_INIT"].octets
    covered = carrier[ticket["start"] + 1 : ticket["data_end"] - len(inside["V"]["mac"])]
    require(
        hmac.compare_digest(mac(inside["V"]["alg"], keys["auth"], covered), inside["V"]["mac"]), "MAC of the ticket"
    )
    chain = open_kemac(inside["KEMAC"], keys, b"\xff" * 4, inside["T"])
    require([key["type"] for key in chain].count(MPK) == 1 and chain[0]["type"] == MPK, "one MPK first in the ticket")
    require(len(inside["RAND"]["data"]) >= max(len(tpk), len(chain[0]["data"])), "RAND of the ticket too short")
    where = b"\xff\xff\xff\xff\x06" + rand(inside["RAND"]["data"])
    for name in ("MPKi", "MPKr"):
        label = constant(name) + b"\xff" + where
        done.keys[name] = prf(ticket["prf"], chain[0]["data"], label, len(chain[0]["data"]) * 8)
    done.keys |= {f"ticket.{use}": key for use, key in keys.items()}
    done.master, done.session_keys = chain[1:], chain[1:]
    require(len({key["spi"] for key in chain}) == len(chain), "SPI twice in the ticket")
    if ticket["flags"]["I"] and any(key["type"] in (TGK, TGK_SALT) for key in chain):
        require(ticket["flags"]["F"], "a forked TGK without TRANSFER_RESP")


def check_flags(flags: Mapping[str, int]) -> None:
    """RFC 6043 6.10: the flags are not independent."""
    for left, right in (("!D", "L"), ("G", "F"), ("!G", "H"), ("!H", "G"), ("I", "E"), ("K", "D"), ("M", "F")):
        holds = flags[left[-1]] == (0 if left[0] == "!" else 1)
        require(not holds or flags[right], f"flags: {left} without {right}")


def check_mac(done: Verified, name: str, inkey: bytes, phase: int, rands: tuple[bytes, bytes], behind: bytes) -> None:
    """V of one message over what Table 5.2 of RFC 6043 names; leaves the message's three keys in `done`."""
    message = done.messages[name]
    verification = message.get("V")
    kemac = message.find("KEMAC")
    encr = kemac["encr"] if kemac else {1: 1, 2: 3}.get(verification["alg"], 1)
    label = message_label(message.csb_id, phase, *rands)
    keys = protection(message.prf, inkey, label, encr, verification["alg"])
    covered = message.octets[: len(message.octets) - len(verification["mac"])]
    if name == "TRANSFER_INIT":
        ticket = message.get("TICKET")
        covered = covered[: ticket["data_end"]] + covered[ticket["end"] :]
    require(
        hmac.compare_digest(mac(verification["alg"], keys["auth"], covered + behind), verification["mac"]),
        f"{name}: MAC",
    )
    done.keys |= {f"{name}.{use}": key for use, key in keys.items()}
    if name.startswith("TRANSFER"):
        done.last = {"keys": keys, "alg": verification["alg"]}


def identity(message: Message, name: str, exchange: Mapping[str, Any], key: str) -> bytes:
    """ID Data of a party; one that is left out of the message is known otherwise (RFC 6043 4.2.1.2)."""
    payload = message.find(name)
    return payload["data"] if payload else str(exchange[key]).encode()


def check_initial(done: Verified, name: str, inkey: bytes, rands: tuple[bytes, bytes], behind: bytes) -> None:
    """REQUEST_INIT or RESOLVE_INIT: a MAC in the PSK variant, a signature in the PK variant."""
    message = done.messages[name]
    require(sum(map(len, rands)) >= len(inkey), f"{name}: RAND shorter than the key")  # RFC 6043 12.1
    if message.find("V"):
        check_mac(done, name, inkey, 1, rands, behind)
        return
    signature = message.get("SIGN")
    key = x509.load_der_x509_certificate(message.get("CERT")["data"]).public_key()
    require(signature["type"] == 0 and isinstance(key, RSAPublicKey), f"{name}: signature scheme")
    assert isinstance(key, RSAPublicKey)
    covered = message.octets[: len(message.octets) - len(signature["data"])] + behind
    # RFC 3830 4.2.1 has SHA-1 for default and no field to name another; SHA-256 is what is fit to sign with today.
    try:
        key.verify(signature["data"], covered, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise Mismatch(f"{name}: signature") from None


def check_request(done: Verified, exchange: Mapping[str, Any]) -> None:
    """Ticket Request (RFC 6043 4.2.1): MACs, and the keys handed out are the keys in the ticket."""
    initial, response = done.messages["REQUEST_INIT"], done.messages["REQUEST_RESP"]
    psk, rands = octets_of(exchange, "psk_i"), (initial.get("RANDRi")["data"], b"")
    kms = identity(initial, "IDRkms", exchange, "identity_kms")
    check_initial(done, "REQUEST_INIT", psk, rands, identity(initial, "IDRi", exchange, "identity_i") + kms)
    check_mac(done, "REQUEST_RESP", psk, 2, rands, initial.octets)
    keys = {use: done.keys[f"REQUEST_RESP.{use}"] for use in ("encr", "salt")}
    chain = open_kemac(response.get("KEMAC"), keys, response.csb_id, response.get("T"))
    names = ["MPKi", "MPKr"] if done.ticket["flags"]["I"] else ["MPKi"]
    require([key["type"] for key in chain[: len(names)]] == [MPK] * len(names), "REQUEST_RESP: MPKs")
    for name, key in zip(names, chain, strict=False):
        require(key["data"] == done.keys[name], f"REQUEST_RESP: {name}")
    require(list(map(key_tuple, chain[len(names) :])) == list(map(key_tuple, done.master)), "REQUEST_RESP: keys")
    check_granted(initial.get("TP"), done.ticket, done.master)


def check_granted(asked: Payload, granted: Payload, master: list[Payload]) -> None:
    """K says whether the KMS changed the desired policy or KEMAC (RFC 6043 6.10)."""
    check_order(asked["policy"], POLICY_ORDER, "desired policy")
    wishes = next((payload for payload in asked["policy"] if payload["name"] == "KEMAC"), None)
    require(asked["flags"]["K"] == 0, "K in a desired policy")

    def comparable(ticket: Payload) -> tuple[Any, ...]:
        parts = [
            (part["name"], part["type"], part.get("data", part.get("value")))
            for part in ticket["policy"]
            if part["name"] != "KEMAC"
        ]
        return ticket["kind"], ticket["prf"], {**ticket["flags"], "K": 0}, parts

    same = comparable(asked) == comparable(granted)
    if wishes:
        require((wishes["encr"], wishes["mac_alg"]) == (0, 0), "algorithms of the wish")
        wished = read_chain(Octets(wishes["data"]), 20)
        require(not any(any(key["data"]) for key in wished), "key bytes in a wish")
        shape = [[(key["type"], len(key["data"]), len(key["salt"])) for key in keys] for keys in (wished, master)]
        same = same and shape[0] == shape[1]
    require(same or granted["flags"]["K"], "policy changed without K")


def check_transfer_init(done: Verified, exchange: Mapping[str, Any]) -> None:
    """RFC 6043 4.2.2.1, and Vi and Vr of 6.10."""
    message = done.messages["TRANSFER_INIT"]
    flags, inside = done.ticket["flags"], done.ticket["initiator_data"]
    done.initiator = identity(message, "IDRi", exchange, "identity_i")
    done.responder = identity(message, "IDRr", exchange, "identity_r")
    rands = (message.get("RANDRi")["data"], b"")
    check_mac(done, "TRANSFER_INIT", done.keys["MPKi"], 1, rands, done.initiator + done.responder)
    require(bool(inside) == bool(flags["I"]), "Initiator Data if and only if forking")
    if inside:
        vi, vr = read_initiator_data(inside)
        verification = message.get("V")
        require((vi["alg"], vi["mac"]) == (verification["alg"], verification["mac"]), "Vi")
        keys = protection(done.ticket["prf"], done.keys["MPKr"], b"\xff\xff\xff\xff\x04", 1, vr["alg"])
        covered = inside[: len(inside) - len(vr["mac"])]
        require(vr["alg"] == vi["alg"] and hmac.compare_digest(mac(vr["alg"], keys["auth"], covered), vr["mac"]), "Vr")
        done.keys["Vr.auth"] = keys["auth"]
    asker = [payload["data"] for payload in done.ticket["policy"] if payload["name"] == "IDRi"]
    require(not flags["I"] or asker in ([], [done.initiator]), "IDRi is not who asked for the ticket")
    for role, sign in (("TRs", 1), ("TRe", -1)):  # RFC 6043 6.10: inside the validity period
        for bound in (payload for payload in done.ticket["policy"] if payload["name"] == role):
            require(sign * (unix(message.get("T")) - unix(bound)) >= 0, f"TRANSFER_INIT outside {role}")
    take_kemac(done, "TRANSFER_INIT", allowed=flags["L"])


def take_kemac(done: Verified, name: str, *, allowed: int) -> None:
    """Session keys of a party itself, only with L or M, never forked (RFC 6043 4.2.2.1, 4.2.2.3, 5.2)."""
    message = done.messages[name]
    if kemac := message.find("KEMAC"):
        require(allowed, f"{name}: KEMAC against the policy")
        chain = open_kemac(kemac, done.last["keys"], message.csb_id, message.get("T"))
        require(all(key["type"] != MPK for key in chain), f"{name}: MPK in a KEMAC")
        done.session_keys = done.session_keys + chain


def check_resolve(done: Verified, exchange: Mapping[str, Any]) -> None:
    """Ticket Resolve (RFC 6043 4.2.3) and the forking of 5.1.1."""
    initial, response = done.messages["RESOLVE_INIT"], done.messages["RESOLVE_RESP"]
    psk, rands = octets_of(exchange, "psk_r"), (b"", initial.get("RANDRr")["data"])
    kms = identity(initial, "IDRkms", exchange, "identity_kms")
    check_initial(done, "RESOLVE_INIT", psk, rands, identity(initial, "IDRr", exchange, "identity_r") + kms)
    check_mac(done, "RESOLVE_RESP", psk, 2, rands, initial.octets)
    keys = {use: done.keys[f"RESOLVE_RESP.{use}"] for use in ("encr", "salt")}
    chain = open_kemac(response.get("KEMAC"), keys, response.csb_id, response.get("T"))
    wanted = [done.keys["MPKi"]]
    if done.ticket["flags"]["I"]:
        done.responder, done.rand_kms = response.get("IDRr")["data"], response.get("RANDRkms")["data"]
        wanted.append(fork_all(done))
    else:
        require(not response.find("RANDRkms"), "RANDRkms without forking")
    require(
        [(key["type"], key["data"]) for key in chain[: len(wanted)]] == [(MPK, key) for key in wanted],
        "RESOLVE_RESP: MPKs",
    )
    ticket_keys = done.session_keys[: len(done.master)]
    require(list(map(key_tuple, chain[len(wanted) :])) == list(map(key_tuple, ticket_keys)), "RESOLVE_RESP: keys")


def fork_all(done: Verified) -> bytes:
    """Fork MPKr and every TGK of the ticket under (responder, rand_kms), and return MPKr' (RFC 6043 5.1.1)."""
    function = done.ticket["prf"]
    forking = [key for key in done.master if key["type"] in (TGK, TGK_SALT)]
    longest = max(len(key) for key in [done.keys["MPKr"], *(key["data"] for key in forking)])
    require(len(done.rand_kms) >= longest, "RANDRkms too short")  # RFC 6043 12.1
    done.keys["MPKr'"] = fork(function, "fork MPKr", done.keys["MPKr"], done.responder, done.rand_kms)
    for place, key in enumerate(done.master):
        if key in forking:
            forked = fork(function, "fork TGK", key["data"], done.responder, done.rand_kms)
            done.keys[f"TGK' {key['spi'].hex()}"] = forked
            done.session_keys[place] = key | {"data": forked}
    return done.keys["MPKr'"]


def check_transfer_resp(done: Verified) -> None:
    """RFC 6043 4.2.2.3: who answered, with which modifier, under which MPK."""
    initial, response, flags = done.messages["TRANSFER_INIT"], done.messages["TRANSFER_RESP"], done.ticket["flags"]
    require(flags["F"], "TRANSFER_RESP against the policy")
    answered, modifier = response.find("IDRr"), response.find("RANDRkms")
    if flags["I"]:
        require(answered and modifier, "TRANSFER_RESP: no modifier")
        got = (response.get("IDRr")["data"], response.get("RANDRkms")["data"])
        require(
            "RESOLVE_RESP" not in done.messages or got == (done.responder, done.rand_kms), "TRANSFER_RESP: modifier"
        )
        done.responder, done.rand_kms = got
        fork_all(done)
    random = response.find("RANDRr")
    require(bool(random) == bool(flags["G"]), "RANDRr if and only if G")
    rands = (initial.get("RANDRi")["data"], random["data"] if random else b"")
    longest = max([len(done.keys["MPKi"]), *(len(k["data"]) for k in done.master if k["type"] not in (TEK, TEK_SALT))])
    require(sum(map(len, rands)) >= longest, "RANDRi and RANDRr too short")  # RFC 6043 12.1
    check_mac(done, "TRANSFER_RESP", done.keys["MPKr'" if flags["I"] else "MPKi"], 2, rands, initial.octets)
    take_kemac(done, "TRANSFER_RESP", allowed=flags["M"])
    for session in response.sessions:
        require(len(session["policies"]) == 1 and session["spi"], f"CS {session['cs_id']}: one policy and an SPI")
        require(session["prot"] != 0 or session["data"], f"CS {session['cs_id']}: session data")
    asked = {session["cs_id"] for session in initial.sessions}
    require(asked <= {session["cs_id"] for session in response.sessions}, "TRANSFER_RESP: a crypto session is missing")


def check_one_suite(done: Verified) -> None:
    """RFC 6043 12.1: 256-bit algorithms are not mixed with shorter ones, and long session keys need them."""
    long = set()
    for message in done.messages.values():
        long.add(message.prf == 1)
        long |= {payload["alg"] == 2 for payload in message.payloads if payload["name"] == "V"}
        long |= {payload["encr"] == 3 for payload in message.payloads if payload["name"] == "KEMAC"}
    inside = read_ticket_data(done.ticket["data"])
    long |= {done.ticket["prf"] == 1, inside["KEMAC"]["encr"] == 3, inside["V"]["alg"] == 2}
    require(len(long) == 1, "algorithms of 128 and 256 bits mixed")
    require(
        long == {True} or all(len(key["data"]) <= 16 for key in done.session_keys), "long keys under 128-bit algorithms"
    )


def derive_sessions(done: Verified) -> None:
    """TEK and master salt of each crypto session from the key its SPI names (RFC 6043 5.1.3, 6.1.1)."""
    initial, response, flags = done.messages["TRANSFER_INIT"], done.messages.get("TRANSFER_RESP"), done.ticket["flags"]
    rand_i = initial.get("RANDRi")["data"] if flags["H"] else b""
    rand_r = response.get("RANDRr")["data"] if response and flags["G"] else b""
    derive(done, [initial, *([response] if response else [])], rand(rand_i) + rand(rand_r))


def derive(done: Verified, carriers: list[Message], rands: bytes) -> None:
    by_spi = {key["spi"]: key for key in done.session_keys}
    require(len(by_spi) == len(done.session_keys), "SPI twice among the session keys")
    policies = {
        payload["no"]: payload for message in carriers for payload in message.payloads if payload["name"] == "SP"
    }
    for session in carriers[-1].sessions:
        require(session["spi"] in by_spi, f"CS {session['cs_id']}: no key of that SPI")
        key = by_spi[session["spi"]]
        require(
            all(no in policies and policies[no]["prot"] == session["prot"] for no in session["policies"]),
            "policy of a CS",
        )
        params = dict(policies[session["policies"][0]]["params"]) if session["policies"] else {}
        tek_length = int.from_bytes(params.get(1, b"\x10"), "big")  # RFC 3830 6.10.1: the master key length too
        salt_length = int.from_bytes(params.get(4, b"\x0c" if params.get(0) == b"\x06" else b"\x0e"), "big")
        tek, salt = key["data"], key["salt"]
        if key["type"] not in (TEK, TEK_SALT):
            where = bytes([session["cs_id"]]) + b"\xff\xff\xff\xff\x03" + rands
            tek = prf(carriers[0].prf, key["data"], constant("tek") + where, tek_length * 8)
            salt = salt or prf(carriers[0].prf, key["data"], constant("tek salt") + where, salt_length * 8)
        done.sessions[session["cs_id"]] = {**session, "tek": tek, "salt": salt, "params": params}
