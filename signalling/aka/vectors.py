"""Authentication vectors, nonces, sequence numbers and resynchronisation (TS 33.102, TS 33.203, RFC 3310)."""

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from keying.secret import Secret
from signalling.aka.milenage import RAND_LENGTH, SQN_LENGTH, Milenage

IND_BITS = 5
"""Low bits of SQN that name the entry of the array (TS 33.102 Annex C, assumed)."""
DELTA = 1 << 28
"""Largest step of SEQ that a USIM accepts (TS 33.102 Annex C, assumed)."""
AUTN_LENGTH = 16
AUTS_LENGTH = 14
DEFAULT_AMF = b"\x80\x00"
RESYNC_AMF = b"\x00\x00"
"""AMF of MAC-S (TS 33.102 6.3.3, assumed)."""
_TOP_SQN = (1 << 8 * SQN_LENGTH) - 1


class AkaError(Exception):
    """A challenge or a resynchronisation is not valid."""


class MalformedNonce(AkaError):  # noqa: N818 - the fault's own name
    """The nonce is not base64 of at least RAND and AUTN (RFC 3310 3.2); to be treated as an invalid challenge."""


class MacFailure(AkaError):  # noqa: N818
    """MAC-A of a challenge or MAC-S of a resynchronisation is wrong."""


class SyncFailure(AkaError):  # noqa: N818
    """The challenge is genuine, but its SQN is out of range; `auts` (14 octets) tells the network where to resume."""

    def __init__(self, auts: bytes) -> None:
        super().__init__("sequence number out of range")
        self.auts = auts


@dataclass(frozen=True, slots=True)
class AuthenticationVector:
    """One quintet of the home network (TS 33.203 6.1.1): RAND 16, XRES 8, CK 16, IK 16, AUTN 16 octets."""

    rand: bytes
    xres: Secret
    ck: Secret
    ik: Secret
    autn: bytes

    @property
    def nonce(self) -> str:
        """RAND and AUTN as they stand in a challenge (RFC 3310 3.2)."""
        return format_nonce(self.rand, self.autn)


@dataclass(frozen=True, slots=True)
class AkaResult:
    """What the USIM gives for a good challenge: RES 8, CK 16, IK 16 octets."""

    res: Secret
    ck: Secret
    ik: Secret


def format_nonce(rand: bytes, autn: bytes, server_data: bytes = b"") -> str:
    """Return base64 of RAND, AUTN and optional server data (RFC 3310 3.2)."""
    return base64.b64encode(rand + autn + server_data).decode("ascii")


def parse_nonce(nonce: str) -> tuple[bytes, bytes]:
    """Return RAND and AUTN of a nonce. Raises MalformedNonce when it is not base64 of at least 32 octets."""
    try:
        octets = base64.b64decode(nonce, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedNonce("nonce is not base64") from None
    if len(octets) < RAND_LENGTH + AUTN_LENGTH:
        raise MalformedNonce("nonce is shorter than RAND and AUTN")
    return octets[:RAND_LENGTH], octets[RAND_LENGTH : RAND_LENGTH + AUTN_LENGTH]


def parse_auts(auts: str) -> bytes:
    """Return the 14 octets of the ``auts`` parameter (RFC 3310 3.4). Raises MacFailure for anything else."""
    try:
        octets = base64.b64decode(auts, validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) != AUTS_LENGTH:
        raise MacFailure("AUTS is not base64 of 14 octets")
    return octets


def _octets(sqn: int) -> bytes:
    if not 0 <= sqn <= _TOP_SQN:
        raise ValueError("SQN has 48 bits")
    return sqn.to_bytes(SQN_LENGTH, "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def generate_vector(
    k: Secret, opc: Secret, sqn: int, *, amf: bytes = DEFAULT_AMF, rand: bytes | None = None
) -> AuthenticationVector:
    """Make the vector for `sqn` (48 bits), with a fresh RAND unless one is given (TS 33.102 6.3.2, assumed layout)."""
    challenge = secrets.token_bytes(RAND_LENGTH) if rand is None else rand
    milenage = Milenage(k, opc)
    outputs = milenage.f2345(challenge)
    mac = milenage.f1(challenge, _octets(sqn), amf)
    autn = _xor(_octets(sqn), outputs.ak.reveal()) + amf + mac
    return AuthenticationVector(challenge, outputs.res, outputs.ck, outputs.ik, autn)


def next_sqn(sqn: int) -> int:
    """Return the home network's SQN after `sqn`: SEQ and IND each a step on, IND round-robin (assumed)."""
    seq, ind = sqn >> IND_BITS, sqn & ((1 << IND_BITS) - 1)
    following = ((seq + 1) << IND_BITS) | ((ind + 1) % (1 << IND_BITS))
    return following & _TOP_SQN


def resynchronise(k: Secret, opc: Secret, rand: bytes, auts: bytes) -> int:
    """Return SQN_MS hidden in `auts`, the answer to challenge `rand`. Raises MacFailure when MAC-S is wrong."""
    if len(auts) != AUTS_LENGTH:
        raise MacFailure("AUTS does not have 14 octets")
    milenage = Milenage(k, opc)
    sqn = _xor(auts[:SQN_LENGTH], milenage.f5_star(rand).reveal())
    if not hmac.compare_digest(milenage.f1_star(rand, sqn, RESYNC_AMF), auts[SQN_LENGTH:]):
        raise MacFailure("MAC-S of the resynchronisation is wrong")
    return int.from_bytes(sqn, "big")


@dataclass(slots=True)
class UsimState:
    """The USIM's memory of sequence numbers: highest accepted SEQ per IND (TS 33.102 Annex C, assumed)."""

    highest: dict[int, int] = field(default_factory=dict)

    @property
    def sqn_ms(self) -> int:
        """The highest SQN accepted so far, which AUTS reports."""
        if not self.highest:
            return 0
        ind = max(self.highest, key=lambda entry: self.highest[entry])
        return self.highest[ind] << IND_BITS | ind

    def is_fresh(self, sqn: int) -> bool:
        """Tell whether `sqn` is above all accepted in its array entry and not too far ahead of the highest one."""
        seq, ind = sqn >> IND_BITS, sqn & ((1 << IND_BITS) - 1)
        return seq > self.highest.get(ind, 0) and seq - max(self.highest.values(), default=0) <= DELTA

    def accept(self, sqn: int) -> None:
        """Remember `sqn` as used."""
        self.highest[sqn & ((1 << IND_BITS) - 1)] = sqn >> IND_BITS

    def to_dict(self) -> dict[str, int]:
        """Return the memory for storage: IND as text to SEQ."""
        return {str(ind): seq for ind, seq in self.highest.items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, int]) -> "UsimState":
        """Restore what :meth:`to_dict` gave."""
        return cls({int(ind): int(seq) for ind, seq in stored.items()})


class Usim:
    """A subscriber's card: the key, the operator's code and the memory of sequence numbers."""

    def __init__(self, k: Secret, opc: Secret, state: UsimState | None = None) -> None:
        self._milenage = Milenage(k, opc)
        self.state = state if state is not None else UsimState()

    def authenticate(self, rand: bytes, autn: bytes) -> AkaResult:
        """Check a challenge and answer it (TS 33.203 6.1.1).

        Raises MacFailure when it does not come from the home network and SyncFailure when its SQN is out of range.
        """
        if len(autn) != AUTN_LENGTH:
            raise MacFailure("AUTN does not have 16 octets")
        outputs = self._milenage.f2345(rand)
        sqn = _xor(autn[:SQN_LENGTH], outputs.ak.reveal())
        if not hmac.compare_digest(self._milenage.f1(rand, sqn, autn[6:8]), autn[8:]):
            raise MacFailure("MAC-A of the challenge is wrong")
        number = int.from_bytes(sqn, "big")
        if not self.state.is_fresh(number):
            raise SyncFailure(self.auts(rand))
        self.state.accept(number)
        return AkaResult(outputs.res, outputs.ck, outputs.ik)

    def auts(self, rand: bytes) -> bytes:
        """Return the resynchronisation token for the challenge with `rand`, 14 octets (TS 33.102 6.3.3, assumed)."""
        sqn = _octets(self.state.sqn_ms)
        hidden = _xor(sqn, self._milenage.f5_star(rand).reveal())
        return hidden + self._milenage.f1_star(rand, sqn, RESYNC_AMF)
