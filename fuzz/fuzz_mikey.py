"""Fuzz target: reading MIKEY messages, tickets and key chains, writing them again, and telling people what they say."""

import sys

import atheris

with atheris.instrument_imports(include=["keying"]):
    from keying.mikey import codec
    from keying.mikey.describe import describe, summary
    from keying.mikey.describe_keys import Known, with_keys
    from keying.mikey.errors import MikeyError
    from keying.mikey.payloads import TicketPayload
    from keying.secret import Secret

TPK = Secret(bytes(range(16)))
PSK = Secret(bytes.fromhex("00112233445566778899aabbccddeeff" * 2))
MPKR = Secret(bytes.fromhex("47e93107688786e5e0630e1aaf75fd29"))

READERS = (
    (codec.decode_ticket, codec.encode_ticket),
    (codec.decode_ticket_data, codec.encode_ticket_data),
    (codec.decode_key_data, codec.encode_key_data),
)
CUTS = (codec.without_mac, codec.without_signature, codec.without_initiator_data)


def one_input(data: bytes) -> None:
    message(data)
    for read, write in READERS:
        try:
            value = read(data)
        except MikeyError:
            continue
        assert write(value) == data
    try:
        vi, vr = codec.decode_initiator_data(data)
    except MikeyError:
        pass
    else:
        assert codec.decode_initiator_data(codec.encode_initiator_data(vi, vr)) == (vi, vr)
    if data:
        try:
            chain = codec.decode_chain(data[0], data[1:])
        except MikeyError:
            return
        assert codec.encode_chain(chain) == (data[0], data[1:])


def message(data: bytes) -> None:
    half = len(data) // 2
    known = Known(psk=PSK, tpk=TPK, mpkr=MPKR, initial=data[half:])
    assert summary(data)
    assert describe(data, with_keys(known)).lines()
    try:
        read = codec.decode(data)
    except MikeyError:
        return
    assert codec.encode(read) == data
    assert "key=<secret" in repr(read) or "KeyData" not in repr(read)
    for cut in CUTS:
        try:
            assert len(cut(read)) <= len(data)
        except MikeyError:
            continue
    for payload in read.payloads:
        if isinstance(payload, TicketPayload):
            assert codec.encode_ticket(payload) in data
            try:
                assert codec.ticket_mac_input(payload.policy, payload.ticket_data) in data
            except MikeyError:
                continue


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
