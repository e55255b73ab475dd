"""libsrtp as the pinned pylibsrtp wheel carries it, reached in place: every suite, MKI, ROC, key update.

The wheel's own binding knows four profiles. Its shared object exports the whole C interface of libsrtp 2.7, which is
declared here and used on caller-owned buffers. `self_test` proves it before a packet loop starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, cast

import cffi
from pylibsrtp import _binding

from media.relay.interface import REPLAY_WINDOW, BadStreamConfigError, KeySet, RelayUnavailableError
from media.srtp_transform import is_carried

TRAILER_LIMIT = 4 + 16 + 128
"""Octets that SRTCP index, tag and MKI can add to a packet (SRTP_MAX_SRTCP_TRAILER_LEN)."""

OK = 0
BAD_PARAM = 2
AUTH_FAIL = 7
CIPHER_FAIL = 8
REPLAY_FAIL = 9
REPLAY_OLD = 10
KEY_EXPIRED = 15
PARSE_ERROR = 21
BAD_MKI = 25
INDEX_OLD = 26
STATUSES = 32
"""More than there are statuses."""

_SUPPORTED_VERSION = "libsrtp2 2.7."

_DECLARATIONS = """
typedef struct { uint32_t cipher_type; int cipher_key_len; uint32_t auth_type; int auth_key_len; int auth_tag_len;
    int sec_serv; } crypto_policy_t;
typedef struct { unsigned char *key; unsigned char *mki_id; unsigned int mki_size; } master_key_t;
typedef struct policy_t { int ssrc_type; unsigned int ssrc_value; crypto_policy_t rtp; crypto_policy_t rtcp;
    unsigned char *key; master_key_t **keys; unsigned long num_master_keys; void *deprecated_ekt;
    unsigned long window_size; int allow_repeat_tx; int *enc_xtn_hdr; int enc_xtn_hdr_count; struct policy_t *next; }
    policy_t;
const char *srtp_get_version_string(void);
int srtp_create(void **session, const policy_t *policy);
int srtp_dealloc(void *session);
int srtp_add_stream(void *session, const policy_t *policy);
int srtp_update(void *session, const policy_t *policy);
int srtp_protect(void *session, void *packet, int *length);
int srtp_unprotect(void *session, void *packet, int *length);
int srtp_protect_rtcp(void *session, void *packet, int *length);
int srtp_unprotect_rtcp(void *session, void *packet, int *length);
int srtp_protect_mki(void *session, void *packet, int *length, unsigned int use_mki, unsigned int mki_index);
int srtp_unprotect_mki(void *session, void *packet, int *length, unsigned int use_mki);
int srtp_protect_rtcp_mki(void *session, void *packet, int *length, unsigned int use_mki, unsigned int mki_index);
int srtp_unprotect_rtcp_mki(void *session, void *packet, int *length, unsigned int use_mki);
int srtp_set_stream_roc(void *session, uint32_t ssrc, uint32_t roc);
int srtp_get_stream_roc(void *session, uint32_t ssrc, uint32_t *roc);
void srtp_crypto_policy_set_rtp_default(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_128_hmac_sha1_32(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_192_hmac_sha1_80(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_192_hmac_sha1_32(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_256_hmac_sha1_80(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_256_hmac_sha1_32(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_gcm_128_16_auth(crypto_policy_t *p);
void srtp_crypto_policy_set_aes_gcm_256_16_auth(crypto_policy_t *p);
"""

_SYMBOLS = tuple(
    word.split("(")[0].lstrip("*") for word in _DECLARATIONS.split() if word.lstrip("*").startswith("srtp_")
)

_POLICY_SETTERS: dict[str, tuple[str, str]] = {
    "AES_CM_128_HMAC_SHA1_80": ("rtp_default", "rtp_default"),
    "AES_CM_128_HMAC_SHA1_32": ("aes_cm_128_hmac_sha1_32", "rtp_default"),
    "AES_192_CM_HMAC_SHA1_80": ("aes_cm_192_hmac_sha1_80", "aes_cm_192_hmac_sha1_80"),
    "AES_192_CM_HMAC_SHA1_32": ("aes_cm_192_hmac_sha1_32", "aes_cm_192_hmac_sha1_80"),
    "AES_256_CM_HMAC_SHA1_80": ("aes_cm_256_hmac_sha1_80", "aes_cm_256_hmac_sha1_80"),
    "AES_256_CM_HMAC_SHA1_32": ("aes_cm_256_hmac_sha1_32", "aes_cm_256_hmac_sha1_80"),
    "AEAD_AES_128_GCM": ("aes_gcm_128_16_auth", "aes_gcm_128_16_auth"),
    "AEAD_AES_256_GCM": ("aes_gcm_256_16_auth", "aes_gcm_256_16_auth"),
}
SUPPORTED_SUITES = tuple(_POLICY_SETTERS)
"""Names of the suites the relay carries; RTCP always has the 80-bit tag (RFC 4568 6.2.2, RFC 6188 4)."""

_SSRC_SPECIFIC, _ANY_INBOUND, _ANY_OUTBOUND = 1, 2, 3

_ffi = cffi.FFI()
_ffi.cdef(_DECLARATIONS)

_PLAIN = {
    (sender, rtcp): getattr(_binding.lib, f"srtp_{'protect' if sender else 'unprotect'}{'_rtcp' if rtcp else ''}")
    for sender in (False, True)
    for rtcp in (False, True)
}
"""Transforms without MKI by (sender, RTCP). The wheel's compiled wrappers take a third of the time of a call by
declaration."""


class Pointer(Protocol):
    """A value of the C world; only passed on."""

    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...


Transform = Callable[[object, Pointer], int]
"""Protects or unprotects the packet in the buffer in place, updates the length, returns an error code of libsrtp."""


class PacketBuffer:
    """A buffer that sockets and libsrtp share: `octets` for recv_into, `view` for send, `data` and `length` for C."""

    def __init__(self, size: int) -> None:
        self.octets = bytearray(size + TRAILER_LIMIT)
        self.view = memoryview(self.octets)
        self.data: object = _ffi.from_buffer(self.octets)
        self.length = cast("Pointer", _ffi.new("int *"))

    def load(self, packet: bytes) -> None:
        """Put a whole packet in. Raises ValueError when it does not fit."""
        if len(packet) > len(self.octets) - TRAILER_LIMIT:
            raise ValueError("packet is longer than the buffer")
        self.octets[: len(packet)] = packet
        self.length[0] = len(packet)

    def packet(self) -> bytes:
        """Return a copy of the packet."""
        return bytes(self.view[: self.length[0]])


@cache
def _library() -> "_C":
    """Open the wheel's shared object. Raises RelayUnavailableError when it is not the one that was tested."""
    library = cast("_C", _ffi.dlopen(_binding.__file__))
    missing = [name for name in _SYMBOLS if not hasattr(library, name)]
    if missing:
        raise RelayUnavailableError(f"the SRTP library lacks {', '.join(missing)}")
    version = cast("bytes", _ffi.string(library.srtp_get_version_string())).decode()
    if not version.startswith(_SUPPORTED_VERSION):
        raise RelayUnavailableError(f"the SRTP library is {version}, tested is {_SUPPORTED_VERSION}x")
    here, there = _ffi.sizeof("policy_t"), _binding.ffi.sizeof("srtp_policy_t")
    if here != there:
        raise RelayUnavailableError(f"srtp_policy_t has {there} octets in the SRTP library, {here} were expected")
    return library  # importing the wheel has initialised it


def transform_addresses() -> tuple[int, int, int, int]:
    """Return where the library's srtp_protect, srtp_unprotect, srtp_protect_mki and srtp_unprotect_mki are."""
    library = cast("cffi.FFI.CData", _library())
    names = ("srtp_protect", "srtp_unprotect", "srtp_protect_mki", "srtp_unprotect_mki")
    first, second, third, fourth = (int(_ffi.cast("uintptr_t", _ffi.addressof(library, name))) for name in names)
    return first, second, third, fourth


@dataclass(slots=True)
class _Policy:
    """A policy and the memory it points to, wiped when the call that reads it is over."""

    pointer: object
    keep: list[object]
    secrets: list[object]

    def wipe(self) -> None:
        for memory in self.secrets:
            _ffi.buffer(memory)[:] = bytes(len(_ffi.buffer(memory)))


def check_keys(keys: KeySet) -> None:
    """Raise BadStreamConfigError unless the suite is carried and every key fits it (RFC 4568 6.1)."""
    if not is_carried(keys.suite):
        raise BadStreamConfigError(f"suite {keys.suite.name} is not carried")
    if not keys.keys:
        raise BadStreamConfigError("a key set needs a key")
    lengths = {key.mki_length for key in keys.keys}
    if len(keys.keys) > 1 and (len(lengths) > 1 or 0 in lengths):
        raise BadStreamConfigError("several keys need an MKI each, all of one length")
    for key in keys.keys:
        if len(key.key_salt) != keys.suite.key_length + keys.suite.salt_length:
            raise BadStreamConfigError(f"key has {len(key.key_salt)} octets, {keys.suite.name} takes another length")
        if not 0 <= key.mki_length <= 128 or key.mki >= 1 << (8 * key.mki_length or 1):
            raise BadStreamConfigError("MKI does not fit its length")
        if key.lifetime is not None and not 0 < key.lifetime <= keys.suite.max_srtp_packets:
            raise BadStreamConfigError("lifetime lies outside the suite's")


def _policy(keys: KeySet, ssrc_type: int, ssrc: int = 0) -> _Policy:
    library = _library()
    policy = cast("_PolicyFields", _ffi.new("policy_t *"))
    rtp, rtcp = _POLICY_SETTERS[keys.suite.name]
    getattr(library, f"srtp_crypto_policy_set_{rtp}")(_ffi.addressof(cast("cffi.FFI.CData", policy), "rtp"))
    getattr(library, f"srtp_crypto_policy_set_{rtcp}")(_ffi.addressof(cast("cffi.FFI.CData", policy), "rtcp"))
    policy.ssrc_type, policy.ssrc_value = ssrc_type, ssrc
    policy.window_size, policy.allow_repeat_tx = REPLAY_WINDOW, 0
    keep: list[object] = []
    secrets: list[object] = []
    masters = []
    for key in keys.keys:
        memory = _ffi.new("unsigned char[]", key.key_salt.reveal())
        secrets.append(memory)
        if not key.mki_length:
            policy.key = memory
            break
        mki = _ffi.new("unsigned char[]", key.mki.to_bytes(key.mki_length, "big"))
        master = _ffi.new("master_key_t *", {"key": memory, "mki_id": mki, "mki_size": key.mki_length})
        keep += [mki, master]
        masters.append(master)
    if masters:
        array = _ffi.new("master_key_t *[]", masters)
        keep.append(array)
        policy.keys, policy.num_master_keys = array, len(masters)
    return _Policy(policy, keep, secrets)


class _PolicyFields(Protocol):
    """srtp_policy_t."""

    ssrc_type: int
    ssrc_value: int
    window_size: int
    allow_repeat_tx: int
    key: object
    keys: object
    num_master_keys: int


class _C(Protocol):
    """The part of the C interface that is called by name."""

    def srtp_get_version_string(self) -> cffi.FFI.CData: ...

    def srtp_create(self, session: object, policy: object) -> int: ...
    def srtp_dealloc(self, session: object) -> int: ...
    def srtp_add_stream(self, session: object, policy: object) -> int: ...
    def srtp_update(self, session: object, policy: object) -> int: ...
    def srtp_set_stream_roc(self, session: object, ssrc: int, roc: int) -> int: ...
    def srtp_get_stream_roc(self, session: object, ssrc: int, roc: Pointer) -> int: ...


class Session:
    """A libsrtp session of one direction that binds any SSRC late, once a packet of it passed (RFC 4568 6.4.1).

    `rtp` and `rtcp` are the transforms: protect for a sender, unprotect for a receiver. They are made when asked for
    and good until the keys change; each keeps the session alive for as long as it is used itself.
    """

    __slots__ = ("__weakref__", "_pointer", "_sender", "mki_length")

    def __init__(self, keys: KeySet, *, sender: bool) -> None:
        check_keys(keys)
        self._sender = sender
        handle = _ffi.new("void **")
        self._call(lambda policy: _library().srtp_create(handle, policy), _policy(keys, self._wildcard))
        self._pointer: object = _binding.ffi.cast("srtp_ctx_t *", int(_ffi.cast("uintptr_t", handle[0])))
        self.mki_length = keys.keys[0].mki_length

    def __del__(self) -> None:
        if hasattr(self, "_pointer"):  # else it was refused
            _binding.lib.srtp_dealloc(self._pointer)

    @property
    def address(self) -> int:
        """Where the session is, for code outside the interpreter; good for as long as this object."""
        return int(_binding.ffi.cast("uintptr_t", self._pointer))

    @property
    def _session(self) -> object:
        return _ffi.cast("void *", self.address)

    @property
    def rtp(self) -> Transform:
        """The transform of RTP packets."""
        return self._transform(rtcp=False)

    @property
    def rtcp(self) -> Transform:
        """The transform of RTCP packets."""
        return self._transform(rtcp=True)

    @property
    def _wildcard(self) -> int:
        return _ANY_OUTBOUND if self._sender else _ANY_INBOUND

    @staticmethod
    def _call(function: Callable[[object], int], policy: _Policy) -> None:
        status = function(policy.pointer)
        policy.wipe()
        if status != OK:
            raise BadStreamConfigError(f"the SRTP library refused the keys with error {status}")

    def _transform(self, *, rtcp: bool) -> Transform:
        if not self.mki_length:
            plain = partial(_PLAIN[self._sender, rtcp], self._pointer)
            plain.__dict__["session"] = self  # which frees what it points to
            return plain
        verb, trailing = ("protect", (1, 0)) if self._sender else ("unprotect", (1,))
        function = getattr(_library(), f"srtp_{verb}{'_rtcp' if rtcp else ''}_mki")
        session = self._session

        def transform(data: object, length: Pointer, _owner: object = self) -> int:
            return cast("int", function(session, data, length, *trailing))

        return transform

    def update(self, keys: KeySet) -> None:
        """Change the key under which the known SSRCs go on: ROC and SRTCP index are kept (RFC 3711 3.3.1)."""
        check_keys(keys)
        self._call(partial(_library().srtp_update, self._session), _policy(keys, self._wildcard))
        self.mki_length = keys.keys[0].mki_length

    def roc(self, ssrc: int) -> int | None:
        """Return the rollover counter of an SSRC, None when it is not bound."""
        value = cast("Pointer", _ffi.new("uint32_t *"))
        return value[0] if _library().srtp_get_stream_roc(self._session, ssrc, value) == OK else None

    def start_at(self, keys: KeySet, ssrc: int, roc: int, sequence: int) -> None:
        """Place an SSRC of a fresh receiver or sender at (`roc`, `sequence`) as highest index.

        libsrtp can be told a ROC but no sequence number, and a sender that wraps just then would be lost. So a packet
        with that index is protected here and shown to the receiver; it never leaves this function. It has no payload,
        so that of a sender gives away nothing of the key stream either.
        """
        helper = self if self._sender else Session(keys, sender=True)
        for session in {id(one): one for one in (helper, self)}.values():
            if roc:
                kind = _policy(keys, _SSRC_SPECIFIC, ssrc)
                self._call(partial(_library().srtp_add_stream, session._session), kind)  # noqa: SLF001 - same class
                session.set_roc(ssrc, roc)
        buffer = PacketBuffer(12)
        buffer.load(b"\x80\x00" + sequence.to_bytes(2, "big") + bytes(4) + ssrc.to_bytes(4, "big"))
        taken = helper.rtp(buffer.data, buffer.length) == OK
        if not taken or (helper is not self and self.rtp(buffer.data, buffer.length) != OK):
            raise BadStreamConfigError("the SRTP library does not take the rollover counter")

    def set_roc(self, ssrc: int, roc: int) -> None:
        """Tell the rollover counter of a bound SSRC to a late joiner (RFC 3711 3.3.1). Raises BadStreamConfigError."""
        if _library().srtp_set_stream_roc(self._session, ssrc, roc) != OK:
            raise BadStreamConfigError("SSRC is not bound")
