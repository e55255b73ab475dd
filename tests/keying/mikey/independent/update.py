"""What may follow an exchange: CSB updates (RFC 6043 5.2) and Error messages (5.4)."""

from __future__ import annotations

import hmac

from tests.keying.mikey.independent.crypto import mac, open_kemac, rand
from tests.keying.mikey.independent.rfc6043 import Verified, derive
from tests.keying.mikey.independent.wire import (
    ERROR,
    ORDER,
    TRANSFER_INIT,
    TRANSFER_RESP,
    UPDATE_INIT_ORDER,
    UPDATE_RESP_ORDER,
    check_order,
    parse,
    require,
)


def verify_update(done: Verified, init: bytes, resp: bytes | None, starter: str) -> Verified:
    """Verify one CSB update started by "i" or "r" and derive its sessions anew (RFC 6043 5.2).

    Both messages are protected by the keys of the last message of the initial exchange; identities keep their roles.
    """
    keys, alg, flags = done.last["keys"], done.last["alg"], done.ticket["flags"]
    first, answer = parse(init), parse(resp) if resp else None
    old = done.messages["TRANSFER_INIT"]
    fresh = Verified(**{**vars(done), "session_keys": list(done.session_keys), "sessions": {}})
    gates = ("L", "M") if starter == "i" else ("M", "L")
    names = {"IDRi": done.initiator, "IDRr": done.responder}
    orders = (UPDATE_INIT_ORDER[starter], UPDATE_RESP_ORDER[starter])
    for message, order, gate, kind in zip((first, answer), orders, gates, (TRANSFER_INIT, TRANSFER_RESP), strict=True):
        if message is None:
            require(first.v == 0, "update: an answer was asked for")
            continue
        require((message.data_type, message.csb_id, message.prf) == (kind, old.csb_id, old.prf), "update: header")
        check_order(message.payloads, order, "update")
        require(message.get("V")["alg"] == alg, "update: MAC algorithm")
        for name, known in names.items():
            require(message.find(name) is None or message.get(name)["data"] == known, f"update: {name}")
        behind = done.initiator + done.responder if message is first else first.octets
        covered = message.octets[: -len(message.get("V")["mac"])] + behind
        require(hmac.compare_digest(mac(alg, keys["auth"], covered), message.get("V")["mac"]), "update: MAC")
        if kemac := message.find("KEMAC"):
            require(flags[gate], "update: KEMAC against the policy")
            fresh.session_keys += open_kemac(kemac, keys, message.csb_id, message.get("T"))
    require(answer is None or first.v == 1, "update: an answer nobody asked for")
    transfer = [done.messages[name] for name in ("TRANSFER_INIT", "TRANSFER_RESP") if name in done.messages]
    rand_i = old.get("RANDRi")["data"] if flags["H"] else b""
    rand_r = transfer[-1].get("RANDRr")["data"] if flags["G"] else b""
    derive(fresh, [*transfer, first, *([answer] if answer else [])], rand(rand_i) + rand(rand_r))
    return fresh


def verify_error(error: bytes, failing: bytes, auth_key: bytes | None) -> list[int]:
    """Return the numbers of an Error message that answers `failing`; its MAC covers itself alone (RFC 6043 5.4, 5.5)."""
    message, cause = parse(error), parse(failing)
    require(message.data_type == ERROR and cause.data_type != ERROR, "error: data type")
    require((message.prf, message.csb_id, message.v) == (cause.prf, cause.csb_id, 0), "error: header")
    check_order(message.payloads, ORDER[ERROR], "error")
    if verification := message.find("V"):
        require(auth_key is not None, "error: authenticated without a key")
        covered = error[: len(error) - len(verification["mac"])]
        require(
            hmac.compare_digest(mac(verification["alg"], auth_key or b"", covered), verification["mac"]), "error: MAC"
        )
    return [payload["error"] for payload in message.payloads if payload["name"] == "ERR"]
