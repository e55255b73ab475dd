"""One mode-1 exchange with forking under the 128-bit suite: inputs, keys and octets.

Not published: these numbers were computed once by a scratch encoder that shares no code with
this tree and checked there by a second one. Both paths of this tree must reach them.
"""

from __future__ import annotations

from typing import Any

EXCHANGE: dict[str, bytes] = {
    "psk_i": bytes.fromhex("00112233445566778899aabbccddeeff" * 2),
    "psk_r": bytes.fromhex("ffeeddccbbaa99887766554433221100" * 2),
    "tpk": bytes(range(0x10)),
    "REQUEST_INIT": bytes.fromhex(
        "010b05801122334400010f00d5a0b0c0000000000e0120e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fa"
        "fbfcfdfeff0e010100137369703a616c69636540612e6578616d706c65100301000d6b6d732e612e6578616d706c650e0001"
        "010101f86000410e0e0301000d6b6d732e612e6578616d706c650e010100137369703a616c69636540612e6578616d706c65"
        "00020100117369703a626f6240622e6578616d706c650904020018627469642d616c696365406273662e612e6578616d706c"
        "650001c6765da96decb137b1b6db46600ef06595c9c11d"
    ),
    "REQUEST_RESP": bytes.fromhex(
        "010d05001122334400010e00d5a0b0c100000000110301000d6b6d732e612e6578616d706c65010001010101f86000410e0e"
        "0301000d6b6d732e612e6578616d706c650e010100137369703a616c69636540612e6578616d706c6500020100117369703a"
        "626f6240622e6578616d706c6500660500000b00d5a0b0c1000000000110d0d1d2d3d4d5d6d7d8d9dadbdcdddedf0901002c"
        "46a3fd217b27b43a8c54e109b2590b55f2e87159577a40d2dfa4bcd813b3748d7fbd30970bc862e71421112200000171ae73"
        "a5274a7b9e373efcb2e7e9412a89e97d3e000009010042dc7e984298c784669b60af6b901f8c9edceaa314a8c19940edcc6f"
        "48b8821b54e2a23f963923a63d6972b64b873fa0e59de729abff69a0a8bdbc65133c5c2812067f00000104114333d630fb49"
        "6d5007bed71271820a6f4798"
    ),
    "TRANSFER_INIT": bytes.fromhex(
        "010e05805566778802020100010000040102030401020200010000040000000001020f00d5a0b0c2000000000e0110a0a1a2"
        "a3a4a5a6a7a8a9aaabacadaeaf0e010100137369703a616c69636540612e6578616d706c650a020100117369703a626f6240"
        "622e6578616d706c651100000000090001010101f86000410e0e0301000d6b6d732e612e6578616d706c650e010100137369"
        "703a616c69636540612e6578616d706c6500020100117369703a626f6240622e6578616d706c6500660500000b00d5a0b0c1"
        "000000000110d0d1d2d3d4d5d6d7d8d9dadbdcdddedf0901002c46a3fd217b27b43a8c54e109b2590b55f2e87159577a40d2"
        "dfa4bcd813b3748d7fbd30970bc862e71421112200000171ae73a5274a7b9e373efcb2e7e9412a89e97d3e002d09090173ba"
        "d91ffb8ab32c0a325fc211b1a9765915edc30001b40c8fe7fd03d3ab298057aad841cf9c285e7fb3000173bad91ffb8ab32c"
        "0a325fc211b1a9765915edc3"
    ),
    "RESOLVE_INIT": bytes.fromhex(
        "0110058099aabbcc00010f00d5a0b0c3000000000e0220606162636465666768696a6b6c6d6e6f707172737475767778797a"
        "7b7c7d7e7f0e020100117369703a626f6240622e6578616d706c65110301000d6b6d732e612e6578616d706c650e00010101"
        "01f86000410e0e0301000d6b6d732e612e6578616d706c650e010100137369703a616c69636540612e6578616d706c650002"
        "0100117369703a626f6240622e6578616d706c6500660500000b00d5a0b0c1000000000110d0d1d2d3d4d5d6d7d8d9dadbdc"
        "dddedf0901002c46a3fd217b27b43a8c54e109b2590b55f2e87159577a40d2dfa4bcd813b3748d7fbd30970bc862e7142111"
        "2200000171ae73a5274a7b9e373efcb2e7e9412a89e97d3e002d09090173bad91ffb8ab32c0a325fc211b1a9765915edc300"
        "01b40c8fe7fd03d3ab298057aad841cf9c285e7fb30904020016627469642d626f62406273662e612e6578616d706c650001"
        "f7a1c8a37c22094ad3e3a71edec9d1aca6d4234a"
    ),
    "RESOLVE_RESP": bytes.fromhex(
        "0112050099aabbcc00010e00d5a0b0c400000000010301000d6b6d732e612e6578616d706c650e010042b5d5ca5f4fb1295a"
        "e60fc69f3e40e6b5fc24738eb40d353522e8d72a793096257cbbc297df7bb5ee6a7dc87a64b158dc566333bec55ea535a68e"
        "02d63b7227f83446000f020100117369703a626f6240622e6578616d706c65090310c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
        "0001ac46952703d9eb89e46f3791dd9bbdb0e4ad6c29"
    ),
    "TRANSFER_RESP": bytes.fromhex(
        "010f05005566778802020100010000040102030401020200010000040a0b0c0d01020f00d5a0b0c5000000000e0210b0b1b2"
        "b3b4b5b6b7b8b9babbbcbdbebf0f020100117369703a626f6240622e6578616d706c65090310c0c1c2c3c4c5c6c7c8c9cacb"
        "cccdcecf0001c8b129cacdbc15c13bf20d0ca2096ad9e28d3e2f"
    ),
}

# What goes in, for the builder; flags and the word 0x01f860 are D E F G H I N O.
INPUTS: dict[str, Any] = {
    "psk_i": EXCHANGE["psk_i"],
    "psk_r": EXCHANGE["psk_r"],
    "tpk": EXCHANGE["tpk"],
    "mpk": bytes(range(0x10, 0x20)),
    "keys": [(0, bytes(range(0x20, 0x30)), b"\x02", b"")],
    "mpk_spis": (b"\x01", b"\x03"),
    "flags": "DEFGHINO",
    "suite": (0, 1, 1),
    "identities": {
        "i": b"sip:alice@a.example",
        "r": b"sip:bob@b.example",
        "kms": b"kms.a.example",
        "psk_i": b"btid-alice@bsf.a.example",
        "psk_r": b"btid-bob@bsf.a.example",
    },
    "times": [bytes.fromhex(f"d5a0b0c{number}00000000") for number in range(6)],
    "csb_ids": [bytes.fromhex(text) for text in ("11223344", "55667788", "99aabbcc")],
    "rands": {
        "ticket": bytes(range(0xD0, 0xE0)),
        "request": bytes(range(0xE0, 0x100)),
        "transfer": bytes(range(0xA0, 0xB0)),
        "resolve": bytes(range(0x60, 0x80)),
        "answer": bytes(range(0xB0, 0xC0)),
        "kms": bytes(range(0xC0, 0xD0)),
    },
    "sessions": (
        [(1, "01020304", b"\x02"), (2, "00000000", b"\x02")],
        [(1, "01020304", b"\x02"), (2, "0a0b0c0d", b"\x02")],
    ),
}

# Every value that the exchange passes through.
KEYS = {
    "REQUEST_INIT.auth": "9689d85f9b36319e0b0345e8880df93834c86e6c",
    "ticket.encr": "52a7868b86268b5ff832de39dd650ec4",
    "ticket.salt": "ba92a37a3dbdc2714f97017a30b4",
    "ticket.auth": "f05b666f8aa064be66c97f6ddea28ab91b02f23e",
    "MPKi": "927331c9178627d518282fcf1873a77b",
    "MPKr": "47e93107688786e5e0630e1aaf75fd29",
    "REQUEST_RESP.encr": "23fdaa774d7a2216eb19c82398388f10",
    "REQUEST_RESP.salt": "2982ae3cc32a0fac6796cd245937",
    "REQUEST_RESP.auth": "4001c052b85225c2f91ef148af3046de04fb7bb4",
    "TRANSFER_INIT.auth": "baad9d5fc429b4a5126f7eede9f798756813fd5a",
    "Vr.auth": "a1e94afb51cb3a3c21622878b4a2d863f167a36b",
    "RESOLVE_INIT.auth": "45579f86457c04d48eb1c710486c0ce394a5c062",
    "RESOLVE_RESP.encr": "aaa7ee430e5c5be7573fed035b718ddb",
    "RESOLVE_RESP.salt": "17fdfc0698b3481bfbe67454e37c",
    "RESOLVE_RESP.auth": "0f2a5f84856b0a1d707ea5eb24dbee1a97caa364",
    "MPKr'": "dda0f12fa8cb533e29606de154d71a3d",
    "TGK' 02": "16e4ec900368424c88eb1f6508095f75",
    "TRANSFER_RESP.auth": "c7502ab1aa699725fbf720175e119f45f82597c4",
}

# CS ID -> TEK and 112-bit master salt.
SESSIONS = {
    1: ("6c95f1abcea1d8d5f3e51452ae3af361", "f4e18d380e885ad0cab1e7a5536d"),
    2: ("78299bedf7ac64fde9e7c48855bd4026", "bed2e41f25bfd47066f026dd7161"),
}
