"""libsrtp as an oracle: the whole C interface of the library inside the pylibsrtp wheel, MKI and AES-192/256 included."""

from cffi import FFI
from pylibsrtp import _binding

from keying.suites import CryptoSuite

ffi = FFI()
ffi.cdef("""
typedef struct { int cipher_type, cipher_key_len, auth_type, auth_key_len, auth_tag_len, sec_serv; } srtp_crypto_policy_t;
typedef struct { unsigned char *key; unsigned char *mki_id; unsigned int mki_size; } srtp_master_key_t;
typedef struct srtp_policy_t {
  int ssrc_type; unsigned int ssrc_value;
  srtp_crypto_policy_t rtp, rtcp;
  unsigned char *key;
  srtp_master_key_t **keys;
  unsigned long num_master_keys;
  void *deprecated_ekt;
  unsigned long window_size;
  int allow_repeat_tx;
  int *enc_xtn_hdr;
  int enc_xtn_hdr_count;
  struct srtp_policy_t *next;
} srtp_policy_t;
typedef void *srtp_t;
int srtp_create(srtp_t *session, const srtp_policy_t *policy);
int srtp_dealloc(srtp_t session);
int srtp_update(srtp_t session, const srtp_policy_t *policy);
int srtp_protect_mki(srtp_t ctx, void *rtp_hdr, int *pkt_octet_len, unsigned int use_mki, unsigned int mki_index);
int srtp_unprotect_mki(srtp_t ctx, void *rtp_hdr, int *pkt_octet_len, unsigned int use_mki);
int srtp_protect_rtcp_mki(srtp_t ctx, void *rtcp_hdr, int *pkt_octet_len, unsigned int use_mki, unsigned int mki_index);
int srtp_unprotect_rtcp_mki(srtp_t ctx, void *rtcp_hdr, int *pkt_octet_len, unsigned int use_mki);
int srtp_set_stream_roc(srtp_t session, unsigned int ssrc, unsigned int roc);
void srtp_crypto_policy_set_rtp_default(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_128_hmac_sha1_32(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_192_hmac_sha1_80(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_192_hmac_sha1_32(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_256_hmac_sha1_80(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_cm_256_hmac_sha1_32(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_gcm_128_16_auth(srtp_crypto_policy_t *p);
void srtp_crypto_policy_set_aes_gcm_256_16_auth(srtp_crypto_policy_t *p);
""")
lib = ffi.dlopen(_binding.__file__)
assert ffi.sizeof("srtp_policy_t") == _binding.ffi.sizeof("srtp_policy_t")

POLICIES = {
    "AES_CM_128_HMAC_SHA1_80": ("rtp_default", "rtp_default"),
    "AES_CM_128_HMAC_SHA1_32": ("aes_cm_128_hmac_sha1_32", "rtp_default"),
    "AES_192_CM_HMAC_SHA1_80": ("aes_cm_192_hmac_sha1_80",) * 2,
    "AES_192_CM_HMAC_SHA1_32": ("aes_cm_192_hmac_sha1_32", "aes_cm_192_hmac_sha1_80"),
    "AES_256_CM_HMAC_SHA1_80": ("aes_cm_256_hmac_sha1_80",) * 2,
    "AES_256_CM_HMAC_SHA1_32": ("aes_cm_256_hmac_sha1_32", "aes_cm_256_hmac_sha1_80"),
    "AEAD_AES_128_GCM": ("aes_gcm_128_16_auth",) * 2,
    "AEAD_AES_256_GCM": ("aes_gcm_256_16_auth",) * 2,
}
ANY_INBOUND, ANY_OUTBOUND = 2, 3
BUFFER = 2048


class LibsrtpError(Exception):
    """libsrtp refused; its status is the argument."""


class Libsrtp:
    """One libsrtp session; `keys` are (master key and salt, MKI) and the first one sends."""

    def __init__(self, suite: CryptoSuite, *keys: tuple[bytes, bytes], inbound: bool) -> None:
        self._keys = keys
        self._use_mki = bool(keys[0][1])
        self._policy, self._alive = self._build(suite, keys, inbound)
        self._session = ffi.new("srtp_t *")
        check(lib.srtp_create(self._session, self._policy))
        self._buffer = ffi.new("char[]", BUFFER)

    def _build(self, suite: CryptoSuite, keys: tuple[tuple[bytes, bytes], ...], inbound: bool):
        policy = ffi.new("srtp_policy_t *")
        policy.ssrc_type = ANY_INBOUND if inbound else ANY_OUTBOUND
        policy.window_size = 128
        for part, name in zip((policy.rtp, policy.rtcp), POLICIES[suite.name], strict=True):
            getattr(lib, f"srtp_crypto_policy_set_{name}")(ffi.addressof(part))
        alive = []
        masters = ffi.new("srtp_master_key_t *[]", len(keys))
        for n, (key, mki) in enumerate(keys):
            key_octets, mki_octets = ffi.new("unsigned char[]", key), ffi.new("unsigned char[]", mki or b"\0")
            masters[n] = master = ffi.new(
                "srtp_master_key_t *", {"key": key_octets, "mki_id": mki_octets, "mki_size": len(mki)}
            )
            alive += [key_octets, mki_octets, master]
        if self._use_mki:
            policy.keys, policy.num_master_keys = masters, len(keys)
        else:
            policy.key = alive[0]
        return policy, [*alive, masters]

    def update(self, suite: CryptoSuite, key: bytes, *, inbound: bool) -> None:
        self._policy, self._alive = self._build(suite, ((key, b""),), inbound)
        check(lib.srtp_update(self._session[0], self._policy))

    def set_roc(self, ssrc: int, roc: int) -> None:
        check(lib.srtp_set_stream_roc(self._session[0], ssrc, roc))

    def close(self) -> None:
        lib.srtp_dealloc(self._session[0])

    def protect_rtp(self, packet: bytes, key: int = 0) -> bytes:
        return self._run(lib.srtp_protect_mki, packet, self._use_mki, key)

    def protect_rtcp(self, packet: bytes, key: int = 0) -> bytes:
        return self._run(lib.srtp_protect_rtcp_mki, packet, self._use_mki, key)

    def unprotect_rtp(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_unprotect_mki, packet, self._use_mki)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._run(lib.srtp_unprotect_rtcp_mki, packet, self._use_mki)

    def _run(self, function, packet: bytes, *arguments: int) -> bytes:
        length = ffi.new("int *", len(packet))
        ffi.memmove(self._buffer, packet, len(packet))
        check(function(self._session[0], self._buffer, length, *map(int, arguments)))
        return ffi.buffer(self._buffer, length[0])[:]


def check(status: int) -> None:
    if status:
        raise LibsrtpError(status)
