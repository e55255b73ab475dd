"""MILENAGE, the example algorithm set for f1 to f5* with AES-128 (TS 35.206, confirmed by published values)."""

from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keying.secret import Secret

KEY_LENGTH = 16
RAND_LENGTH = 16
SQN_LENGTH = 6
AMF_LENGTH = 2

_ROTATIONS = (64, 0, 32, 64, 96)
"""r1 to r5 in bits."""
_CONSTANTS = tuple(bytes(15) + bytes([last]) for last in (0, 1, 2, 4, 8))
"""c1 to c5."""


class AkaOutputs(NamedTuple):
    """What f2 to f5 give for one RAND: RES 8, CK 16, IK 16, AK 6 octets."""

    res: Secret
    ck: Secret
    ik: Secret
    ak: Secret


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _rotate(block: bytes, bits: int) -> bytes:
    octets = bits // 8
    return block[octets:] + block[:octets]


class _Kernel:
    """E_K, the block cipher under the subscriber's key."""

    def __init__(self, k: Secret) -> None:
        if len(k) != KEY_LENGTH:
            raise ValueError("K has 16 octets")
        # One block at a time is what the algorithm is defined on; no data is encrypted in this mode.
        self._cipher = Cipher(algorithms.AES(k.reveal()), modes.ECB())  # noqa: S305

    def __call__(self, block: bytes) -> bytes:
        encryptor = self._cipher.encryptor()
        return encryptor.update(block) + encryptor.finalize()


def opc_from_op(k: Secret, op: Secret) -> Secret:
    """Return OPc, the operator's code bound to one subscriber key. Raises ValueError unless both have 16 octets."""
    if len(op) != KEY_LENGTH:
        raise ValueError("OP has 16 octets")
    return Secret(_xor(op.reveal(), _Kernel(k)(op.reveal())))


class Milenage:
    """The functions of one subscriber. Raises ValueError when `k` or `opc` is not 16 octets."""

    def __init__(self, k: Secret, opc: Secret) -> None:
        if len(opc) != KEY_LENGTH:
            raise ValueError("OPc has 16 octets")
        self._encrypt = _Kernel(k)
        self._opc = opc.reveal()

    def _temp(self, rand: bytes) -> bytes:
        if len(rand) != RAND_LENGTH:
            raise ValueError("RAND has 16 octets")
        return self._encrypt(_xor(rand, self._opc))

    def _out(self, number: int, temp: bytes) -> bytes:
        block = _rotate(_xor(temp, self._opc), _ROTATIONS[number - 1])
        return _xor(self._encrypt(_xor(block, _CONSTANTS[number - 1])), self._opc)

    def _out1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        if len(sqn) != SQN_LENGTH or len(amf) != AMF_LENGTH:
            raise ValueError("SQN has 6 octets and AMF 2")
        in1 = (sqn + amf) * 2
        block = _rotate(_xor(in1, self._opc), _ROTATIONS[0])
        return _xor(self._encrypt(_xor(_xor(self._temp(rand), block), _CONSTANTS[0])), self._opc)

    def f1(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """Return MAC-A, 8 octets, with which the network proves itself."""
        return self._out1(rand, sqn, amf)[:8]

    def f1_star(self, rand: bytes, sqn: bytes, amf: bytes) -> bytes:
        """Return MAC-S, 8 octets, with which the USIM proves a resynchronisation."""
        return self._out1(rand, sqn, amf)[8:]

    def f2345(self, rand: bytes) -> AkaOutputs:
        """Return RES, CK, IK and AK for `rand`."""
        temp = self._temp(rand)
        out2 = self._out(2, temp)
        return AkaOutputs(Secret(out2[8:]), Secret(self._out(3, temp)), Secret(self._out(4, temp)), Secret(out2[:6]))

    def f5_star(self, rand: bytes) -> Secret:
        """Return AK*, 6 octets, which hides SQN in AUTS."""
        return Secret(self._out(5, self._temp(rand))[:6])
