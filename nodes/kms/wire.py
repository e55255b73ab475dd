"""Resolutions and MIKEY errors as they travel between KMSs (protos/kms_resolve.proto; TS 33.328 6.2.3.8, assumed)."""

from __future__ import annotations

from typing import Final

from keying.mikey import errors
from keying.mikey.errors import MalformedMessage, MikeyError
from keying.mikey.identity import Identity
from keying.mikey.kdf import MIN_KEY_OCTETS
from keying.mikey.payloads import KeyData
from keying.mikey.registry import ErrorNumber, IdType, KeyDataType
from keying.mikey.resolve import Resolution
from keying.secret import Secret
from protos import kms_resolve_pb2 as pb
from sba.errors import ProblemError, RemoteProblem

CAUSE: Final = "MIKEY_"
"""Prefix of the cause of a ProblemDetails that carries a MIKEY error."""
MAX_KEYS: Final = 64
_KINDS: Final = {KeyDataType.TGK: pb.TGK, KeyDataType.TEK: pb.TEK, KeyDataType.GTGK: pb.GTGK}
_PLAIN: Final = {
    KeyDataType.TGK_SALT: KeyDataType.TGK,
    KeyDataType.TEK_SALT: KeyDataType.TEK,
    KeyDataType.GTGK_SALT: KeyDataType.GTGK,
}
_SALTED: Final = {plain: salted for salted, plain in _PLAIN.items()}
_ERRORS: Final[dict[ErrorNumber, type[MikeyError]]] = {
    kind.default: kind
    for kind in (
        errors.AuthenticationFailure,
        errors.InvalidTimestamp,
        errors.InvalidPrf,
        errors.InvalidMac,
        errors.InvalidEncryption,
        errors.InvalidIdentity,
        errors.InvalidTicket,
        errors.InvalidTicketPolicy,
    )
    if kind.default is not None
}


def to_wire(resolution: Resolution) -> pb.ResolveTicketResponse:
    """Write a resolution."""
    forked, responder = resolution.forked_mpkr, resolution.responder
    response = pb.ResolveTicketResponse(
        mpki=resolution.mpki.key.reveal(),
        mpki_spi=resolution.mpki.spi or b"",
        forked_mpkr=b"" if forked is None else forked.key.reveal(),
        mpkr_spi=b"" if forked is None else forked.spi or b"",
        rand_kms=resolution.rand_kms,
        idr_type=0 if responder is None else responder.id_type,
        idr=b"" if responder is None else responder.data,
    )
    for key in resolution.keys:
        response.keys.add(
            kind=_KINDS[_PLAIN.get(key.key_type, key.key_type)],
            key=key.key.reveal(),
            salt=b"" if key.salt is None else key.salt.reveal(),
            spi=key.spi or b"",
        )
    return response


def from_wire(response: pb.ResolveTicketResponse) -> Resolution:
    """Read a resolution; IDRr and RANDRkms stay as they are (RFC 6043 10). Raises MalformedMessage."""
    if len(response.keys) > MAX_KEYS:
        raise MalformedMessage("Resolution", "too many keys")
    try:
        responder = Identity(IdType(response.idr_type), response.idr) if response.idr else None
    except ValueError:
        raise MalformedMessage("IDRr", "unknown ID type") from None
    forked = _mpk(response.forked_mpkr, response.mpkr_spi) if response.forked_mpkr else None
    if forked is not None and (responder is None or not response.rand_kms):
        raise MalformedMessage("Resolution", "forked keys without their modifier")
    keys = tuple(map(_key, response.keys))
    return Resolution(_mpk(response.mpki, response.mpki_spi), forked, keys, responder, response.rand_kms)


def _mpk(key: bytes, spi: bytes) -> KeyData:
    return KeyData(KeyDataType.MPK, _secret(key), spi=spi)


def _key(key: pb.ResolvedKey) -> KeyData:
    kind = next((kind for kind, number in _KINDS.items() if number == key.kind), None)
    if kind is None:
        raise MalformedMessage("Key data", "unknown kind of key")
    if not key.salt:
        return KeyData(kind, _secret(key.key), spi=key.spi)
    return KeyData(_SALTED[kind], _secret(key.key), salt=Secret(key.salt), spi=key.spi)


def _secret(octets: bytes) -> Secret:
    if len(octets) < MIN_KEY_OCTETS:
        raise MalformedMessage("Key data", "a key that is too short")
    return Secret(octets)


def to_problem(error: MikeyError) -> ProblemError:
    """The refusal of a KMS as ProblemDetails; a fault that asks for silence has no details."""
    number = error.number
    if number is None:
        return ProblemError(403, CAUSE + ErrorNumber.UNSPECIFIED.name)
    return ProblemError(
        403, CAUSE + number.name, "the ticket is not resolved", invalid_params=[(error.where, error.reason)]
    )


def from_problem(problem: RemoteProblem) -> MikeyError | None:
    """The MIKEY error another KMS refused with; None when it said something else."""
    name = problem.cause.removeprefix(CAUSE)
    if name == problem.cause or name not in ErrorNumber.__members__:
        return None
    params = problem.problem.invalid_params if problem.problem is not None else ()
    where, reason = (params[0].param, params[0].reason) if params else ("TICKET", "refused by its KMS")
    return _ERRORS.get(ErrorNumber[name], errors.Unspecified)(where[:64], reason[:200])
