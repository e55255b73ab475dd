"""The UE's card: who it is, how it answers challenges, and its memory of sequence numbers."""

from __future__ import annotations

import binascii
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from keying.secret import Secret
from signalling.aka.digest import (
    AKA_ALGORITHMS,
    DigestChallenge,
    DigestCredentials,
    aka_password,
    answer_challenge,
    canonical_algorithm,
    choose_challenge,
    is_aka,
)
from signalling.aka.vectors import AkaError, MalformedNonce, SyncFailure, Usim, UsimState, parse_nonce

MODE_KEY = "mode:"
"""Opens the name of the key of a security mode in the key file."""
DIGEST_ALGORITHMS = ("SHA-512-256", "SHA-256", "MD5")
ALGORITHMS = {"aka-tls": ("AKAv2-SHA-256",), "aka-udp": ("AKAv1-MD5",), "digest": DIGEST_ALGORITHMS}
"""Algorithms a profile answers to; none answers to a weaker one than its own."""


class CardError(Exception):
    """The key file is not one."""


class ChallengeFault(Enum):
    """Why a challenge is not valid for this card."""

    NONE = "none"
    MAC = "mac"
    """It does not come from the home network (E-3)."""
    SYNC = "sync"
    """Its SQN is out of range (E-5)."""
    UNSUPPORTED = "unsupported"
    """No challenge of an algorithm this UE answers to."""


@dataclass(frozen=True)
class ChallengeAnswer:
    """What goes into the next REGISTER; `password` proves the server later and is None for an invalid challenge."""

    fault: ChallengeFault
    credentials: DigestCredentials | None = None
    algorithm: str = ""
    password: Secret | None = None


class Card:
    """Identity and keys of one subscriber. `usim` for AKA, `password` for digest."""

    def __init__(
        self, impi: str, realm: str, profile: str, *, usim: Usim | None = None, password: Secret | None = None
    ) -> None:
        self.impi = impi
        self.realm = realm
        self.profile = profile
        self.usim = usim
        self.kms_psk: Secret | None = None
        """Key shared with the KMS in a lab without GBA; NON-SECURE there, and None anywhere else."""
        self.mode_keys: dict[str, Secret] = {}
        """Keys of security modes of packages, by mode."""
        self._password = password
        self._last: ChallengeAnswer | None = None
        self._count = 0

    @classmethod
    def load(cls, content: bytes, impi: str, realm: str, profile: str, sequence: Mapping[str, int]) -> Card:
        """Make the card of the opened key file. Raises CardError when it does not fit the profile."""
        try:
            stored = {name: Secret(bytes.fromhex(text)) for name, text in json.loads(content).items()}
        except (ValueError, TypeError, AttributeError, binascii.Error):
            raise CardError("the key file is not JSON with hexadecimal values") from None
        if profile == "digest":
            if "password" not in stored:
                raise CardError("the key file has no password")
            card = cls(impi, realm, profile, password=stored["password"])
        elif not {"k", "opc"} <= stored.keys():
            raise CardError("the key file has no K and OPc")
        else:
            try:
                usim = Usim(stored["k"], stored["opc"], UsimState.from_dict(sequence))
            except ValueError as error:
                raise CardError(str(error)) from None
            card = cls(impi, realm, profile, usim=usim)
        card.kms_psk = stored.get("kms_psk")
        card.mode_keys = {name.removeprefix(MODE_KEY): key for name, key in stored.items() if name.startswith(MODE_KEY)}
        return card

    @property
    def last(self) -> ChallengeAnswer | None:
        """The last good answer."""
        return self._last

    def forget(self) -> None:
        """Forget the last challenge: the next REGISTER is an initial one."""
        self._last = None

    def initial(self, uri: str) -> DigestCredentials:
        """Return the credentials of a REGISTER before any challenge; AKAv2 names itself (TS 33.203 P.3, PC-2)."""
        algorithm = "AKAv2-SHA-256" if self.profile == "aka-tls" else None
        return DigestCredentials(self.impi, self.realm, uri, algorithm=algorithm)

    def refreshed(self, method: str, uri: str) -> DigestCredentials:
        """Return the credentials of a re-registration: AKA repeats the last ones, digest counts on (RR-2)."""
        if self._last is None or self._last.credentials is None:
            return self.initial(uri)
        former = self._last.credentials
        if is_aka(self._last.algorithm) or self._password is None:
            return former
        self._count += 1
        challenge = DigestChallenge(
            former.realm, former.nonce, former.algorithm, (former.qop,) if former.qop else (), opaque=former.opaque
        )
        return self._respond(challenge, self._password, method, uri)

    def answer(self, values: Sequence[str], method: str, uri: str, *, spoil: bool = False) -> ChallengeAnswer:
        """Answer the challenges of a 401 (UE-1). `spoil` gives a wrong proof, for negative tests."""
        challenge = choose_challenge(values, ALGORITHMS[self.profile])
        if challenge is None:
            return ChallengeAnswer(ChallengeFault.UNSUPPORTED)
        algorithm = canonical_algorithm(challenge.algorithm) or ""
        if algorithm not in AKA_ALGORITHMS:
            if self._password is None:
                return ChallengeAnswer(ChallengeFault.UNSUPPORTED)
            password = self._password
        else:
            assert self.usim is not None
            try:
                rand, autn = parse_nonce(challenge.nonce)
                result = self.usim.authenticate(rand, autn)
            except SyncFailure as failure:
                return self.refuse_sync(values, method, uri, failure.auts)
            except AkaError:
                return self.refuse_mac(uri, challenge.nonce, challenge.algorithm)
            password = aka_password(algorithm, result.res, result.ik, result.ck)
        self._count = 1
        proof = Secret(b"wrong") if spoil else password
        credentials = self._respond(challenge, proof, method, uri)
        self._last = ChallengeAnswer(ChallengeFault.NONE, credentials, algorithm, password)
        return self._last

    def _respond(self, challenge: DigestChallenge, password: Secret, method: str, uri: str) -> DigestCredentials:
        return answer_challenge(
            challenge,
            username=self.impi,
            password=password,
            method=method,
            uri=uri,
            cnonce=secrets.token_hex(8),
            nc=self._count,
        )

    def refuse_mac(self, uri: str, nonce: str = "", algorithm: str | None = None) -> ChallengeAnswer:
        """Return the answer to a challenge that is not of the home network: empty response, no AUTS (E-3)."""
        credentials = DigestCredentials(self.impi, self.realm, uri, nonce, algorithm=algorithm)
        return ChallengeAnswer(ChallengeFault.MAC, credentials)

    def refuse_sync(self, values: Sequence[str], method: str, uri: str, auts: bytes | None = None) -> ChallengeAnswer:
        """Return the answer to a challenge out of range: AUTS and an empty password (E-5, RFC 3310 3.4)."""
        challenge = choose_challenge(values, ALGORITHMS[self.profile])
        if challenge is None or self.usim is None:
            return ChallengeAnswer(ChallengeFault.UNSUPPORTED)
        if auts is None:
            try:
                rand, _ = parse_nonce(challenge.nonce)
            except MalformedNonce:
                return self.refuse_mac(uri)
            auts = self.usim.auts(rand)
        credentials = answer_challenge(
            challenge,
            username=self.impi,
            password=Secret(b""),
            method=method,
            uri=uri,
            cnonce=secrets.token_hex(8),
            auts=auts,
        )
        return ChallengeAnswer(ChallengeFault.SYNC, credentials)

    def sequence(self) -> dict[str, int]:
        """Return the memory of sequence numbers for storage; empty for digest."""
        return self.usim.state.to_dict() if self.usim is not None else {}
