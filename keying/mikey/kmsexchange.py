"""The user's side of both exchanges with a KMS: a protected question out, its verified answer in (RFC 6043 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keying.mikey import codec
from keying.mikey.errors import InvalidIdentity
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import SUITES, MessageKeys, Phase, message_keys
from keying.mikey.payloads import Header, KeyData, Message, Payload, RandRoled, Signature
from keying.mikey.pk import PkCredential
from keying.mikey.profile import Profile
from keying.mikey.protection import (
    Entropy,
    check_empty_map,
    check_response,
    check_time,
    csb_id,
    open_keys,
    protect,
    raise_error,
    read,
    timestamp,
    verify,
)
from keying.mikey.registry import DataType, IdRole, RandRole, SignType
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class PskCredential:
    """A pre-shared key with a KMS and its name (IDRpsk): in IMS the B-TID and Ks_NAF (assumed, TS 33.328 6.2.3)."""

    identity: bytes
    key: Secret


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells Ticket Request from Ticket Resolve."""

    psk: DataType
    pk: DataType
    response: DataType
    role: IdRole
    rand_role: RandRole

    def rands(self, value: bytes) -> tuple[bytes, bytes]:
        """Return RANDRi and RANDRr as they enter the labels."""
        return (value, b"") if self.rand_role is RandRole.INITIATOR else (b"", value)


REQUEST = Shape(
    DataType.REQUEST_INIT_PSK,
    DataType.REQUEST_INIT_PK,
    DataType.REQUEST_RESP,
    IdRole.INITIATOR,
    RandRole.INITIATOR,
)
RESOLVE = Shape(
    DataType.RESOLVE_INIT_PSK,
    DataType.RESOLVE_INIT_PK,
    DataType.RESOLVE_RESP,
    IdRole.RESPONDER,
    RandRole.RESPONDER,
)


class KmsExchange:
    """One exchange of a user with a KMS; `body` is TP or TICKET."""

    def __init__(
        self,
        profile: Profile,
        credential: PskCredential | PkCredential,
        shape: Shape,
        body: Payload,
        *,
        own: Identity,
        kms: Identity,
        rand_octets: int,
        now: float,
        entropy: Entropy,
    ) -> None:
        self._profile = profile
        self._shape = shape
        self._kms = kms
        self._suite = SUITES[profile.suite]
        psk = isinstance(credential, PskCredential)
        self.header = Header(shape.psk if psk else shape.pk, csb_id(entropy), self._suite.prf, verification=True)
        key = credential.key if isinstance(credential, PskCredential) else Secret(entropy(self._suite.key_bits // 8))
        rand = entropy(max(rand_octets, len(key)))
        self._key, self._rands = key, shape.rands(rand)
        head = (timestamp(profile, now), RandRoled(shape.rand_role, rand), own.payload(shape.role))
        suffix = own.data + kms.data
        if isinstance(credential, PskCredential):
            named = Identity(profile.psk_identity_type, credential.identity).payload(IdRole.PSK)
            payloads: tuple[Payload, ...] = (*head, kms.payload(IdRole.KMS), body, named)
            self.message = protect(self.header, payloads, self._suite, self._keys(Phase.INITIAL).auth, suffix)
        else:
            payloads = (*head, *credential.certificates(), kms.payload(IdRole.KMS), body, *credential.envelope(key))
            self.message = self._signed(credential, payloads, suffix)

    def _signed(self, credential: PkCredential, payloads: Sequence[Payload], suffix: bytes) -> bytes:
        blank = Signature(SignType.RSA_PKCS1_V1_5, bytes(credential.signature_octets))
        covered = codec.without_signature(codec.encode(Message(self.header, (*payloads, blank))))
        return covered + credential.sign(covered + suffix)

    def _keys(self, phase: Phase) -> MessageKeys:
        return message_keys(self._suite.prf, self._key, phase, self.header.csb_id, *self._rands, self._suite)

    def receive(self, octets: bytes, now: float) -> tuple[Message, tuple[KeyData, ...]]:
        """Return the KMS's response, verified, and the keys in it.

        Raises PeerError for an Error message, AuthenticationFailure and other MikeyErrors.
        """
        raise_error(octets, self.header, (self._suite, self._keys(Phase.INITIAL).auth))
        message = read(octets, self._shape.response)
        check_response(message, self.header)
        check_empty_map(message)
        check_time(self._profile, message, now)
        keys = self._keys(Phase.RESPONSE)
        verify(message, self._suite, keys.auth, self.message)
        named = identity(message.payloads, IdRole.KMS)
        if named is not None and named != self._kms:
            raise InvalidIdentity("IDRkms", "not the KMS that was asked")
        return message, open_keys(message, keys)
