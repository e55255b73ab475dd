"""What can be wrong with SDES key management, one class per fault. No message repeats text of the peer."""

# ruff: noqa: N818 - the names say the fault, as the field says it: bad tag, key reuse

from typing import ClassVar


class SdesError(Exception):
    """A fault in an ``a=crypto`` attribute or in its negotiation (RFC 4568).

    `media_sec_token` is what a SIP refusal shows in ``Warning: 399 <node> "media-sec:<token>"`` (a testbed rule).
    """

    media_sec_token: ClassVar[str] = "bad-key"  # noqa: S105 - the word token means a syllable of a warning here


class CryptoSyntaxError(SdesError):
    """The line does not follow the grammar of RFC 4568 9.1 and 9.2."""


class BadTag(SdesError):
    """The tag is not 1 to 9 digits without leading zeros (RFC 4568 4.1); the whole stream is unacceptable (assumed)."""


class DuplicateTag(BadTag):
    """Two lines of a media description have the same tag (RFC 4568 4.1); the whole stream is unacceptable (assumed)."""


class UnknownSuite(SdesError):
    """The crypto suite is not registered (RFC 4568 6.2)."""

    media_sec_token = "no-common-suite"  # noqa: S105


class SuiteNotAcceptable(UnknownSuite):
    """The crypto suite is registered, but this side does not support it or its policy excludes it."""


class BadKeyMethod(SdesError):
    """The key method is not ``inline`` (RFC 4568 6.1)."""


class BadKeyLength(SdesError):
    """Key and salt are not base64, or not exactly as long as the suite asks (RFC 4568 6.1)."""


class BadLifetime(SdesError):
    """The lifetime is zero, malformed or above the suite's maximum (RFC 4568 6.1)."""


class BadMki(SdesError):
    """The MKI or its length is malformed, or missing or uneven where several keys need it (RFC 4568 6.1)."""


class TooManyKeys(SdesError):
    """The line holds more master keys than this side accepts (one by default, TS 33.328 Annex E, assumed)."""


class BadSessionParameter(SdesError):
    """A session parameter is unknown and mandatory, malformed or repeated (RFC 4568 6.3)."""


class SessionParameterRefused(SdesError):
    """A session parameter asks for what this side does not do: KDR, FEC_KEY, SRTP_FEC (Annex E, assumed)."""


class ProtectionWeakened(SessionParameterRefused):
    """The line asks for unencrypted or unauthenticated packets, which policy refuses (RFC 4568 6.3.2, 6.3.3)."""

    media_sec_token = "downgrade-refused"  # noqa: S105


class KeyReuse(SdesError):
    """A master key stands in two places, or stayed while address or port changed (RFC 4568 6.1, 7.1.2, 7.1.4)."""


class NoAcceptableCrypto(SdesError):
    """No line of the offer can be used, so the stream is rejected (RFC 4568 5.1.2)."""

    media_sec_token = "no-common-suite"  # noqa: S105


class AnswerMismatch(SdesError):
    """The answer does not fit the offer: tag, suite, number of lines or negotiated parameters (RFC 4568 5.1.3)."""

    media_sec_token = "downgrade-refused"  # noqa: S105


class MissingCrypto(AnswerMismatch):
    """The stream was accepted without any ``a=crypto`` line (RFC 4568 5.3, 7.4)."""
