"""Fuzz SRTP and SRTCP: no input raises anything but SrtpError, none is taken without the key."""

import struct
import sys

import atheris

with atheris.instrument_imports(include=["media"]):
    from keying.secret import Secret
    from keying.suites import SUITES
    from media.srtp import MasterKey, MasterKeySet, SrtpContext, SrtpError

ALL_SUITES = [SUITES[name] for name in sorted(SUITES)]


def context(choice: int) -> SrtpContext:
    suite = ALL_SUITES[choice % len(ALL_SUITES)]
    mkis = (b"\1", b"\2") if choice & 0x80 else (b"",)
    return SrtpContext.from_keys(
        MasterKeySet(
            [
                MasterKey(suite, Secret(bytes((n,)) * suite.key_length), Secret(bytes(suite.salt_length)), mki=mki)
                for n, mki in enumerate(mkis)
            ]
        )
    )


def good(sequence: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 8, sequence, sequence * 160, 77) + b"sound" * 8


def one_input(octets: bytes) -> None:
    if not octets:
        return
    sender, receiver = context(octets[0]), context(octets[0])
    invented = octets[1:]
    receiver.unprotect_rtp(sender.protect_rtp(good(1)))
    protected = sender.protect_rtp(good(2))
    # the invented octets alone, and laid over a good packet
    mixed = bytes(a ^ b for a, b in zip(protected, invented.ljust(len(protected), b"\0"), strict=False))
    for unprotect in (receiver.unprotect_rtp, receiver.unprotect_rtcp):
        for packet in (invented, mixed):
            if packet == protected:
                continue
            try:
                unprotect(packet)
            except SrtpError:
                continue
            raise AssertionError("a forged packet was taken")
    for protect in (sender.protect_rtp, sender.protect_rtcp):
        try:
            sealed = protect(invented)
        except SrtpError:
            continue
        fresh = context(octets[0])
        fresh.set_roc(int.from_bytes(invented[8:12], "big"), 0)
        opened = fresh.unprotect_rtp(sealed) if protect == sender.protect_rtp else fresh.unprotect_rtcp(sealed)
        assert opened == invented
    assert receiver.unprotect_rtp(protected) == good(2)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
