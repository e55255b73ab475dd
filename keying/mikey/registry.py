"""Code points of MIKEY and MIKEY-TICKET (IANA "MIKEY Payload Name Spaces"; RFC 3830 6, 4563, 4738, 6043 6).

RFC 6043 14 names wrong tables from TS Type on; the numbers here are those of the tables in its chapter 6.

Values of 3GPP that IANA does not list stand in :class:`keying.mikey.profile.Profile`, not here.
"""

from enum import IntEnum, IntFlag


class DataType(IntEnum):
    """Data type of HDR (RFC 3830 table 6.1.a, RFC 6043 table 6.1)."""

    PRE_SHARED = 0
    PSK_VERIFICATION = 1
    PUBLIC_KEY = 2
    PK_VERIFICATION = 3
    DH_INIT = 4
    DH_RESP = 5
    ERROR = 6
    DHHMAC_INIT = 7
    DHHMAC_RESP = 8
    RSA_R_I_MSG = 9
    RSA_R_R_MSG = 10
    REQUEST_INIT_PSK = 11
    REQUEST_INIT_PK = 12
    REQUEST_RESP = 13
    TRANSFER_INIT = 14
    TRANSFER_RESP = 15
    RESOLVE_INIT_PSK = 16
    RESOLVE_INIT_PK = 17
    RESOLVE_RESP = 18


class NextPayload(IntEnum):
    """Next payload numbers (RFC 3830 table 6.1.b, RFC 6043 table 6.2). THDR has none."""

    LAST = 0
    KEMAC = 1
    PKE = 2
    DH = 3
    SIGN = 4
    T = 5
    ID = 6
    CERT = 7
    CHASH = 8
    V = 9
    SP = 10
    RAND = 11
    ERR = 12
    TR = 13
    IDR = 14
    RANDR = 15
    TP = 16
    TICKET = 17
    KEY_DATA = 20
    GENERAL_EXTENSION = 21


class PrfFunc(IntEnum):
    """PRF functions (RFC 3830 6.1, RFC 6043 6.1)."""

    MIKEY_1 = 0
    PRF_HMAC_SHA_256 = 1


class CsIdMapType(IntEnum):
    """CS ID map types (RFC 3830 6.1.1, RFC 4563 5, RFC 6043 6.1.1)."""

    SRTP_ID = 0
    EMPTY = 1
    GENERIC_ID = 2


class EncrAlg(IntEnum):
    """Encryption algorithms of KEMAC."""

    NULL = 0
    AES_CM_128 = 1
    AES_KW_128 = 2
    AES_CM_256 = 3


class MacAlg(IntEnum):
    """MAC algorithms of KEMAC and V."""

    NULL = 0
    HMAC_SHA_1_160 = 1
    HMAC_SHA_256_256 = 2

    @property
    def length(self) -> int:
        """Octets of the MAC."""
        return {0: 0, 1: 20, 2: 32}[int(self)]


class TsType(IntEnum):
    """Timestamp types; NTP-UTC-32 has the era rule of RFC 6043 6.3."""

    NTP_UTC = 0
    NTP = 1
    COUNTER = 2
    NTP_UTC_32 = 3

    @property
    def length(self) -> int:
        """Octets of the value."""
        return {0: 8, 1: 8, 2: 4, 3: 4}[int(self)]


class TsRole(IntEnum):
    """Roles of TR (RFC 6043 6.4)."""

    ISSUE = 1
    START = 2
    END = 3
    REKEY = 4


class IdType(IntEnum):
    """ID types."""

    NAI = 0
    URI = 1
    BYTE_STRING = 2


class IdRole(IntEnum):
    """Roles of IDR (RFC 6043 6.6, RFC 6509, TS 33.180)."""

    INITIATOR = 1
    RESPONDER = 2
    KMS = 3
    PSK = 4
    APPLICATION = 5
    KMS_INITIATOR = 6
    KMS_RESPONDER = 7
    HASHED_INITIATOR = 8
    HASHED_RESPONDER = 9


class RandRole(IntEnum):
    """Roles of RANDR (RFC 6043 6.8)."""

    INITIATOR = 1
    RESPONDER = 2
    KMS = 3


class CertType(IntEnum):
    """Certificate types (RFC 3830 6.7)."""

    X509_V3 = 0
    X509_V3_URL = 1
    X509_V3_SIGN = 2
    X509_V3_ENCR = 3


class HashFunc(IntEnum):
    """Hash functions of CHASH."""

    SHA_1 = 0
    MD5 = 1
    SHA_256 = 2


class SignType(IntEnum):
    """Signature types of SIGN."""

    RSA_PKCS1_V1_5 = 0
    RSA_PSS = 1
    ECCSI = 2


class KeyDataType(IntEnum):
    """Key data types (RFC 3830 6.13, RFC 6043 6.2.1)."""

    TGK = 0
    TGK_SALT = 1
    TEK = 2
    TEK_SALT = 3
    GTGK = 4
    GTGK_SALT = 5
    MPK = 6

    @property
    def salted(self) -> bool:
        """True where the sub-payload carries a salt."""
        return self in {KeyDataType.TGK_SALT, KeyDataType.TEK_SALT, KeyDataType.GTGK_SALT}

    @property
    def is_tgk(self) -> bool:
        """True for a TGK, the one kind of session key that is forked (RFC 6043 5.1.1)."""
        return self in {KeyDataType.TGK, KeyDataType.TGK_SALT}


class KvType(IntEnum):
    """Key validity types (RFC 3830 6.14)."""

    NULL = 0
    SPI = 1
    INTERVAL = 2


class ProtType(IntEnum):
    """Security protocols of SP and GENERIC-ID; IANA has no value for TLS or S/MIME."""

    SRTP = 0
    TESLA = 1


class ErrorNumber(IntEnum):
    """MIKEY error numbers (RFC 3830 6.12, RFC 4738, RFC 6043 6.9)."""

    AUTH_FAILURE = 0
    INVALID_TS = 1
    INVALID_PRF = 2
    INVALID_MAC = 3
    INVALID_EA = 4
    INVALID_HA = 5
    INVALID_DH = 6
    INVALID_ID = 7
    INVALID_CERT = 8
    INVALID_SP = 9
    INVALID_SP_PAR = 10
    INVALID_DT = 11
    UNSPECIFIED = 12
    UNSUPPORTED_MESSAGE_TYPE = 13
    INVALID_TICKET = 14
    INVALID_TP_PAR = 15


class TicketType(IntEnum):
    """Ticket types (RFC 6043 table 6.15)."""

    RESERVED = 0
    MIKEY_BASE = 1
    THREE_GPP_BASE = 2


class TicketFlag(IntFlag):
    """Flags D to O of TP and TICKET, as masks of the 24-bit word (RFC 6043 6.10).

    L and M permit a KEMAC, as 6.10 says; 4.2.2.1, 4.2.2.3 and 5.2 can be read as if they forbade it.
    """

    D = 0x10000
    """The KMS made the ticket, not the initiator."""
    E = 0x08000
    """The responder has to resolve it at a KMS."""
    F = 0x04000
    """TRANSFER_RESP is sent."""
    G = 0x02000
    """The responder contributes RANDRr."""
    H = 0x01000
    """RANDRi enters the derivation from TGK and GTGK."""
    I = 0x00800  # noqa: E741 - the RFC's name
    """Keys are forked."""
    J = 0x00400
    """The ticket may be used again."""
    K = 0x00200
    """The KMS altered what was asked for."""
    L = 0x00100
    """The initiator may supply session keys."""
    M = 0x00080
    """The responder may supply session keys."""
    N = 0x00040
    """An initiator that knows RFC 6043 alone can use it."""
    O = 0x00020  # noqa: E741 - the RFC's name
    """A responder that knows RFC 6043 alone can use it."""


class ExtensionType(IntEnum):
    """General Extension types (RFC 3830 6.15, RFC 4563, 4738)."""

    VENDOR_ID = 0
    SDP_IDS = 1
    TESLA_I_KEY = 2
    KEY_ID = 3
    CSB_ID = 4
    OMA_BCAST = 5
    SAKKE_TO_SELF = 6
    KEY_PARAMETERS_3GPP = 7


class SrtpParameter(IntEnum):
    """SRTP policy parameters of SP (RFC 3830 table 6.10.1.a, RFC 4771, RFC 7714)."""

    ENCRYPTION = 0
    ENCRYPTION_KEY_LENGTH = 1
    AUTHENTICATION = 2
    AUTHENTICATION_KEY_LENGTH = 3
    SALT_KEY_LENGTH = 4
    PRF = 5
    KEY_DERIVATION_RATE = 6
    SRTP_ENCRYPTION = 7
    SRTCP_ENCRYPTION = 8
    FEC_ORDER = 9
    SRTP_AUTHENTICATION = 10
    TAG_LENGTH = 11
    PREFIX_LENGTH = 12
    ROC_RATE = 13
    SRTP_AUTH_ALG = 14
    SRTCP_AUTH_ALG = 15
    SRTP_AUTH_KEY_LENGTH = 16
    SRTCP_AUTH_KEY_LENGTH = 17
    SRTP_TAG_LENGTH = 18
    SRTCP_TAG_LENGTH = 19
    AEAD_TAG_LENGTH = 20


class SrtpEncryption(IntEnum):
    """Values of the SRTP encryption parameter."""

    NULL = 0
    AES_CM = 1
    AES_F8 = 2
    SEED_CTR = 3
    SEED_CCM = 4
    SEED_GCM = 5
    AES_GCM = 6
    ARIA_CTR = 7
    ARIA_GCM = 8
