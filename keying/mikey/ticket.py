"""The MIKEY base ticket (RFC 6043 appendix A): what protects it, what is in it, and what an initiator holds.

A type 2 ticket (3GPP base ticket) has the same Ticket Data here: TS 33.328 D.4 was not seen (assumed).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey import cipher, codec
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidTicket,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
)
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import MIN_KEY_OCTETS, SUITES, mpki, mpkr, suite_of, ticket_keys, vr_auth_key
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    IdRoled,
    Kemac,
    KeyData,
    Payload,
    Rand,
    TicketHeader,
    TicketPayload,
    TicketPolicy,
    Timestamp,
    Verification,
)
from keying.mikey.policy import (
    Validity,
    WantedKey,
    Wish,
    check_granted,
    has,
    initiator_of,
    responders_of,
    validity,
    wished_policy,
)
from keying.mikey.profile import Profile
from keying.mikey.protection import Entropy, check_rand, check_spis, check_strength, one, split_keys, timestamp
from keying.mikey.registry import IdRole, IdType, KeyDataType, TicketFlag
from keying.secret import Secret

_MODE_3_LABEL = b"imslab MIKEY-TICKET mode 3 ticket protection key"


@dataclass(frozen=True, slots=True)
class TicketProtectionKey:
    """A TPK and its name (IDRpsk of Ticket Data). `owners` None: the KMS's own key, for tickets with D=1 alone.

    Else the key is shared with a user (mode 3): a ticket under it has D=0 and IDRi among `owners`.
    """

    key_id: bytes
    key: Secret
    owners: tuple[Identity, ...] | None = None


FindTicketKey = Callable[[bytes], TicketProtectionKey | None]
"""The TPK of that name; the name is empty where the ticket has no IDRpsk."""


@dataclass(frozen=True, slots=True)
class TicketContents:
    """What Ticket Data says: MPK and session keys as the KMS made them, RAND, time of issue, name of the TPK."""

    mpk: KeyData
    keys: tuple[KeyData, ...]
    rand: bytes
    timestamp: Timestamp
    key_id: bytes = b""
    header: bytes = b""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket in the hands of an initiator: the payload without Initiator Data, and the keys to use it with."""

    payload: TicketPayload
    mpki: KeyData
    mpkr: KeyData | None
    keys: tuple[KeyData, ...]

    @property
    def policy(self) -> TicketPolicy:
        """The granted policy."""
        return self.payload.policy

    @property
    def validity(self) -> Validity:
        """When it may be used."""
        return validity(self.policy)

    @property
    def initiator(self) -> Identity | None:
        """IDRi of the policy."""
        return initiator_of(self.policy)

    @property
    def responders(self) -> tuple[Identity, ...]:
        """IDRr of the policy."""
        return responders_of(self.policy)

    @property
    def reusable(self) -> bool:
        """The J flag."""
        return has(self.policy, TicketFlag.J)

    @property
    def forking(self) -> bool:
        """The I flag."""
        return has(self.policy, TicketFlag.I)

    def to_record(self) -> Mapping[str, str]:
        """Return the ticket with its keys as text fields, for sealed storage alone."""
        mpks = (self.mpki,) if self.mpkr is None else (self.mpki, self.mpkr)
        return {
            "ticket": base64.b64encode(codec.encode_ticket(self.payload)).decode(),
            "keys": base64.b64encode(codec.encode_key_data((*mpks, *self.keys))).decode(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Ticket:
        """Return the ticket of a record. Raises MalformedMessage."""
        try:
            payload, keys = (base64.b64decode(record[name], validate=True) for name in ("ticket", "keys"))
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise MalformedMessage("record", "no record of a ticket") from None
        return hold(codec.decode_ticket(payload), codec.decode_key_data(keys))


def hold(payload: TicketPayload, keys: Sequence[KeyData]) -> Ticket:
    """Return the ticket of an initiator from the keys that a KMS gave with it: MPKi, with I=1 MPKr, session keys.

    Raises MalformedMessage for other keys, InvalidTicketPolicy where they contradict the policy.
    """
    forking = has(payload.policy, TicketFlag.I)
    mpks, rest = split_keys(keys, 2 if forking else 1)
    if forking and not has(payload.policy, TicketFlag.F) and any(key.key_type.is_tgk for key in rest):
        raise InvalidTicketPolicy("flags", "a forked TGK needs F")
    return Ticket(payload, mpks[0], mpks[1] if forking else None, rest)


def ticket_key_id(ticket: TicketPayload) -> bytes:
    """Return the name of the TPK (IDRpsk in Ticket Data), unverified; empty without one. Raises MikeyError."""
    found = identity(codec.decode_ticket_data(ticket.ticket_data), IdRole.PSK)
    return b"" if found is None else found.data


def ticket_id(ticket: TicketPayload) -> str:
    """Return a short public name of a ticket for logs and spans: hex of a hash over policy and Ticket Data."""
    return hashlib.sha256(ticket_octets(ticket)).hexdigest()[:16]


def ticket_octets(ticket: TicketPayload) -> bytes:
    """Return what stays the same wherever the ticket goes: policy and Ticket Data, without Initiator Data."""
    return codec.encode_policy(ticket.policy) + ticket.ticket_data


def seal_ticket(
    profile: Profile, policy: TicketPolicy, tpk: TicketProtectionKey, contents: TicketContents
) -> TicketPayload:
    """Return the TICKET payload over `contents` (RFC 6043 A). Raises Unspecified for a RAND that is too short."""
    tgk = any(key.key_type.is_tgk for key in contents.keys)
    check_granted(profile, policy, tgk_in_ticket=tgk)
    check_rand(len(contents.rand), tpk.key, contents.mpk.key)
    check_spis((contents.mpk, *contents.keys))
    suite = suite_of(policy.prf)
    check_strength(suite, contents.keys)
    keys = ticket_keys(policy.prf, tpk.key, contents.rand, suite)
    kemac = cipher.seal_kemac(
        suite.encr_alg, keys, cipher.TICKET_CSB_ID, t64(contents.timestamp), (contents.mpk, *contents.keys)
    )
    payloads: list[Payload] = [TicketHeader(contents.header), contents.timestamp, Rand(contents.rand), kemac]
    if contents.key_id:
        payloads.append(IdRoled(IdRole.PSK, IdType.BYTE_STRING, contents.key_id))
    payloads.append(Verification(suite.mac_alg, bytes(suite.mac_alg.length)))
    data = codec.encode_ticket_data(payloads)
    mac = cipher.mac(suite.mac_alg, keys.auth, codec.ticket_mac_input(policy, data))
    return TicketPayload(policy, data[: len(data) - len(mac)] + mac)


def open_ticket(profile: Profile, ticket: TicketPayload, find_tpk: FindTicketKey) -> TicketContents:
    """Return the contents of a ticket whose MAC is right under its TPK (RFC 6043 A.1).

    Checks D against the owner of the TPK, and IDRi against the owners in mode 3.
    Raises InvalidTicket for an unknown type or TPK and for a wrong MAC, InvalidIdentity for another's IDRi.
    """
    policy = ticket.policy
    if policy.kind not in profile.base_format_kinds:
        raise InvalidTicket("Ticket Type", "Ticket Data of that kind is not known here")
    payloads = codec.decode_ticket_data(ticket.ticket_data)
    moment, rand = one(payloads, Timestamp, "T of Ticket Data"), one(payloads, Rand, "RAND of Ticket Data")
    kemac, verification = one(payloads, Kemac, "KEMAC of Ticket Data"), one(payloads, Verification, "V of Ticket Data")
    if payloads[-1] is not verification:
        raise MalformedMessage("Ticket Data", "V is not its last payload")
    suite = suite_of(policy.prf, verification.auth_alg, kemac.encr_alg)
    key_id = ticket_key_id(ticket)
    tpk = find_tpk(key_id)
    if tpk is None:
        raise InvalidTicket("Ticket Data", "no ticket protection key of that name")
    keys = ticket_keys(policy.prf, tpk.key, rand.value, suite)
    try:
        covered = codec.ticket_mac_input(policy, ticket.ticket_data)
        cipher.verify_mac(suite.mac_alg, keys.auth, covered, verification.mac, "V of Ticket Data")
    except AuthenticationFailure as error:
        raise InvalidTicket(error.where, error.reason) from None
    _check_owner(policy, tpk)
    opened = cipher.open_kemac(kemac, keys, cipher.TICKET_CSB_ID, t64(moment))
    check_spis(opened)
    (mpk,), session_keys = split_keys(opened, 1)
    check_rand(len(rand.value), tpk.key, mpk.key)
    check_granted(profile, policy, tgk_in_ticket=any(key.key_type.is_tgk for key in session_keys))
    header = one(payloads, TicketHeader, "THDR")
    return TicketContents(mpk, session_keys, rand.value, moment, key_id, header.data)


def _check_owner(policy: TicketPolicy, tpk: TicketProtectionKey) -> None:
    """Check that the maker is who D says and used its own name. Raises InvalidTicket, InvalidIdentity."""
    if has(policy, TicketFlag.D) is not (tpk.owners is None):
        raise InvalidTicket("D", "the ticket protection key is not that of the party that D names")
    if tpk.owners is None:
        return
    initiator = initiator_of(policy)
    if initiator is None or not any(owner.same(initiator) for owner in tpk.owners):
        raise InvalidIdentity("IDRi", "a ticket made in the name of somebody else")


def protection_keys(policy: TicketPolicy, contents: TicketContents) -> tuple[KeyData, Secret]:
    """Return MPKi (with the MPK's SPI) and MPKr of a ticket (RFC 6043 A.2.2)."""
    inner = contents.mpk
    first = KeyData(KeyDataType.MPK, mpki(policy.prf, inner.key, contents.rand), spi=inner.spi)
    return first, mpkr(policy.prf, inner.key, contents.rand)


def fresh_spi(profile: Profile, taken: Container[bytes | None], entropy: Entropy) -> bytes:
    """Return a random SPI that is not `taken`, or the next one after it that is not."""
    length = profile.spi_octets
    spi = entropy(length)
    while spi in taken:
        spi = ((int.from_bytes(spi, "big") + 1) % (1 << 8 * length)).to_bytes(length, "big")
    return spi


def make_ticket(
    profile: Profile,
    policy: TicketPolicy,
    tpk: TicketProtectionKey,
    wanted: Sequence[WantedKey],
    now: float,
    entropy: Entropy,
) -> Ticket:
    """Return a new ticket with fresh keys, as its initiator will hold it: what a KMS makes, in mode 3 the initiator."""
    length = suite_of(policy.prf).key_bits // 8
    taken = {key.spi for key in wanted}

    def new_spi() -> bytes:
        spi = fresh_spi(profile, taken, entropy)
        taken.add(spi)
        return spi

    mpk = KeyData(KeyDataType.MPK, Secret(entropy(length)), spi=new_spi())
    keys = tuple(
        KeyData(
            key.key_type,
            Secret(entropy(key.length)),
            Secret(entropy(key.salt_length)) if key.key_type.salted else None,
            key.spi or new_spi(),
        )
        for key in wanted
    )
    spi_r = new_spi()
    rand = entropy(max(profile.ticket_rand_octets, len(tpk.key), length))
    contents = TicketContents(mpk, keys, rand, timestamp(profile, now), tpk.key_id)
    payload = seal_ticket(profile, policy, tpk, contents)
    key_i, key_r = protection_keys(policy, contents)
    forking = has(policy, TicketFlag.I)
    return Ticket(payload, key_i, KeyData(KeyDataType.MPK, key_r, spi=spi_r) if forking else None, keys)


def mode3_ticket_key(
    psk_identity: bytes, psk: Secret, kms: Identity, length: int, owners: tuple[Identity, ...] = ()
) -> TicketProtectionKey:
    """Return the TPK that a user and its KMS share for tickets the user makes (mode 3, RFC 6043 4.1.1; assumed).

    HMAC-SHA-256 of the PSK over a label and the KMS's identity, cut to `length` octets; its name is the PSK's name.
    `owners` are the identities the user may write into IDRi: the KMS knows them, the user needs none.
    """
    if not MIN_KEY_OCTETS <= length <= 32:
        raise ValueError("a ticket protection key has 16 to 32 octets")
    octets = hmac.digest(psk.reveal(), _MODE_3_LABEL + b"\0" + kms.data, "sha256")
    return TicketProtectionKey(psk_identity, Secret(octets[:length]), owners)


def create_ticket(
    profile: Profile,
    wish: Wish,
    initiator: Identity,
    kms: Identity,
    tpk: TicketProtectionKey,
    now: float,
    entropy: Entropy = token_bytes,
) -> Ticket:
    """Return a ticket the initiator makes itself (mode 3: D=0, L=1), doing what a KMS would do."""
    suite = SUITES[profile.suite]
    policy = wished_policy(profile, wish, initiator, kms, now, made_by_kms=False, prf=suite.prf)
    wanted = wish.keys or (WantedKey(KeyDataType.TGK, suite.key_bits // 8),)
    return make_ticket(profile, policy, tpk, wanted, now, entropy)


def build_initiator_data(ticket: Ticket, verification: Verification) -> bytes:
    """Return Initiator Data: Vi as in V of the TRANSFER_INIT, Vr under MPKr (RFC 6043 6.10)."""
    if ticket.mpkr is None:
        raise InvalidTicketPolicy("I", "Initiator Data goes with key forking alone")
    suite = suite_of(ticket.policy.prf, verification.auth_alg)
    data = codec.encode_initiator_data(verification, Verification(suite.mac_alg, bytes(suite.mac_alg.length)))
    covered = data[: len(data) - suite.mac_alg.length]
    return covered + cipher.mac(suite.mac_alg, vr_auth_key(suite.prf, ticket.mpkr.key, suite), covered)


def check_initiator_data(ticket: TicketPayload, mpkr: Secret) -> None:
    """Check Vr, as the KMS does with I=1. Raises AuthenticationFailure, InvalidTicket where there is none."""
    vi, vr = _initiator_data(ticket)
    suite = suite_of(ticket.policy.prf, vi.auth_alg)
    covered = ticket.initiator_data[: len(ticket.initiator_data) - len(vr.mac)]
    cipher.verify_mac(vr.auth_alg, vr_auth_key(suite.prf, mpkr, suite), covered, vr.mac, "Vr")


def check_vi(ticket: TicketPayload, verification: Verification) -> None:
    """Check that Vi repeats V of the TRANSFER_INIT, as the responder does with I=1. Raises AuthenticationFailure."""
    vi, _ = _initiator_data(ticket)
    if vi.auth_alg is not verification.auth_alg or not hmac.compare_digest(vi.mac, verification.mac):
        raise AuthenticationFailure("Vi", "not the V of this message")


def check_initiator_data_presence(ticket: TicketPayload) -> None:
    """Check that Initiator Data is there if and only if keys are forked (RFC 6043 6.10). Raises InvalidTicket."""
    if has(ticket.policy, TicketFlag.I):
        _initiator_data(ticket)
    elif ticket.initiator_data:
        raise InvalidTicket("Initiator Data", "goes with key forking alone")


def _initiator_data(ticket: TicketPayload) -> tuple[Verification, Verification]:
    if not ticket.initiator_data:
        raise InvalidTicket("Initiator Data", "missing")
    try:
        vi, vr = codec.decode_initiator_data(ticket.initiator_data)
    except MikeyError as error:
        raise InvalidTicket("Initiator Data", error.reason) from None
    if vi.auth_alg is not vr.auth_alg:
        raise InvalidTicket("Initiator Data", "Vi and Vr are of different algorithms")
    return vi, vr
