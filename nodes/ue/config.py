"""Settings of a UE, and the switches of its control service.

Every switch is text in the ``options`` map of an RPC and is read into one of the classes below; an unknown name or a
value that does not fit is refused. Switches that make the UE misbehave are there for negative tests and say so.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from keying.suites import SUITES
from nodes.https import HttpsAddress
from sba.errors import ProblemError
from sba.nf import NodeSettings

Level = Literal["off", "preferred", "required"]
KmsLevel = Literal["off", "allowed", "preferred", "required"]


class PcscfAddress(BaseModel):
    """Where a P-CSCF listens on Gm, written down by the operator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transport: Literal["UDP", "TCP", "TLS"] = "TLS"
    """Transport of Gm; aka-tls needs TLS."""
    host: str
    """IP address."""
    port: int = Field(ge=1, le=65535)
    """Port."""
    tls_name: str = ""
    """DNS name the certificate has to show; empty: the host."""


class HomeServer(BaseModel):
    """An HTTPS server of the home domain: its name, and its address where the operator pins one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = ""
    """IP address; empty: found in the NRF."""
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port of a pinned server."""
    tls_name: str = ""
    """DNS name the certificate has to show; empty: the host, or what the NRF says."""

    @property
    def name(self) -> str:
        """The name the server goes by; empty where only the NRF knows it."""
        return self.tls_name or self.host

    @property
    def address(self) -> HttpsAddress | None:
        """Where a pinned server is."""
        return HttpsAddress(host=self.host, port=self.port, tls_name=self.name) if self.host else None

    @model_validator(mode="after")
    def _whole_address(self) -> Self:
        if bool(self.host) != bool(self.port):
            raise ValueError("a pinned server has a host and a port")
        return self


class KmsAddress(HomeServer):
    """The KMS of this user's home domain (TS 33.328 Annex A)."""

    identity: str = ""
    """IDRkms, and the FQDN that Ks_NAF is derived for; empty: the name of the certificate."""

    @property
    def fqdn(self) -> str:
        """The name under which GBA knows the KMS, e.g. ``kms.ims.test``."""
        return self.identity or self.tls_name or self.host

    @property
    def name(self) -> str:
        """The name its certificate has to show."""
        return self.tls_name or self.identity or self.host


class KmsPolicy(BaseModel):
    """Local policy of this UE on keys from the KMS (TS 33.328 6.2.3.3; its contents are assumed)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: KmsLevel = "allowed"
    """off: neither offered nor taken. allowed: taken when offered, offered when asked for. preferred: offered first.
    required: a call with other keys or with none is refused."""
    peers: dict[str, KmsLevel] = Field(default_factory=dict)
    """The level towards single users, by SIP or tel URI, or towards a domain, e.g. ``*@ims.test``."""
    reusable: bool = False
    """Ask for tickets that serve several calls (flag J), and keep them."""
    forking: bool = True
    """Ask for keys that differ for every responder (flag I)."""
    responder_rand: bool = True
    """Let the responder contribute to the keys (flag G)."""
    session_keys: bool = True
    """Let either end bring new keys in a later exchange (flags L and M); else re-keying takes another ticket."""
    validity_s: int = Field(default=3600, ge=1)
    """Validity asked for, s."""
    rekey_s: int = Field(default=0, ge=0)
    """Longest time under one key asked for, s (TRr); 0: none. Whatever the ticket says is kept."""
    also: tuple[str, ...] = ()
    """Who may answer besides who was called, e.g. a deputy or a group: every ticket names them too."""
    groups: tuple[str, ...] = ()
    """User groups this user is in: a ticket that names one of them is taken (the KMS has the last word)."""
    shared_tickets: bool = False
    """Take tickets of several responders without key forking, each of whom could pose as the caller."""
    mode_3: bool = False
    """Make tickets here instead of asking the KMS for them; the KMS still resolves them (RFC 6043 4.1.1)."""
    allow_diverted: bool = False
    """Go on with a call that somebody else answered whom the ticket names (TS 33.328 6.2.3.6); off: it is ended."""
    fallback: bool = False
    """When the KMS gives no ticket for a call whose mode this UE chose itself: go on with the best other mode that
    security_level allows, and say so. Off, and always when e2e-kms was asked for: the call is refused."""
    beside_sdes: bool = False
    """Offer SDES lines of this UE beside MIKEY; the answer takes one of the two (RFC 4568 7.5)."""
    use_offered: bool = True
    """Take MIKEY before SDES in an offer that has both."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for one answer of the KMS, s."""
    tickets_kept: int = Field(default=256, ge=1)
    """Tickets kept at most; the one that was used longest ago goes first."""
    resolving_at_once: int = Field(default=32, ge=1)
    """Calls for which this UE asks the KMS at the same time because somebody calls it, a quarter for one caller; one
    more is refused."""


class UeSettings(NodeSettings):
    """What a UE is told when it starts."""

    impi: str
    """Private identity, e.g. ``001010000000001@ims.test``."""
    impu: str
    """Public identity to register, a SIP URI."""
    domain: str
    """Home domain: Request-URI and realm of REGISTER."""
    profile: Literal["aka-tls", "aka-udp", "digest"] = "aka-tls"
    """Authentication: AKAv2-SHA-256 over TLS, AKAv1-MD5 with ipsec-3gpp (no ESP: NON-SECURE), or SIP digest."""
    ip: str
    """Own address for signalling and media."""
    pcscf: PcscfAddress | None = None
    """A P-CSCF that the operator pins; None: one of `access_network` that the NRF names."""
    gm_transport: Literal["", "UDP", "TCP", "TLS"] = ""
    """Transport of Gm where the P-CSCF is found; empty: TLS for aka-tls, UDP for others."""
    next_pcscf_s: float = Field(default=6.0, gt=0)
    """How long a REGISTER waits for an answer before the next P-CSCF is tried, s; with one alone timer F counts."""
    anchor_s: float = Field(default=5.0, ge=0)
    """How long a UE with calls in progress waits for the P-CSCF that holds them, before it registers at another, s."""
    key_file: str
    """Path of the card, sealed for this NF instance: JSON with ``k`` and ``opc`` or with ``password``, each in hex."""
    media_security: tuple[str, ...] = ("sdes-srtp",)
    """Media plane mechanisms announced with ``mediasec``; empty: none."""
    security_level: Level = "preferred"
    """off: plain media only. preferred: protected where agreed. required: a call without protection is refused."""
    suites: tuple[str, ...] = ("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM", "AEAD_AES_256_GCM")
    """Crypto suites offered, best first (TS 33.328 Annex E: one to three lines, assumed)."""
    security_modes: tuple[str, ...] = ()
    """Modes of packages that this user has, of those that the lab enables."""
    allow_keys_on_clear_gm: bool = False
    """Send SDES keys over an unencrypted Gm (against RFC 4568 8.3; tests only)."""
    expires_s: int = Field(default=600_000, ge=60)
    """Registration lifetime asked for, s (TS 24.229: 600000)."""
    register_at_start: bool = False
    """Register without being told; a UE that was registered when it died does so in any case."""
    t1_s: float = Field(default=2.0, gt=0)
    """T1 on Gm, s (TS 24.229 table 7.7.1: 2 s, assumed); the other timers follow in proportion."""
    retry_first_s: float = Field(default=0.5, gt=0)
    """First pause before the UE registers again after it lost its flow, s; doubles with every failure."""
    retry_most_s: float = Field(default=30.0, gt=0)
    """Longest such pause, s."""
    flow_wait_s: float = Field(default=15.0, ge=0)
    """How long a request of a call waits for the registration that follows a lost flow, s."""
    max_calls: int = Field(default=2000, ge=1)
    """Calls at the same time; one more is answered 486."""
    user_agent: str = "imslab-ue"
    """Value of User-Agent."""
    bsf: HomeServer | None = None
    """The BSF of the home domain, for keys out of the USIM; None: none."""
    kms: KmsAddress | None = None
    """The KMS of the home domain; None: this UE neither offers nor takes MIKEY."""
    kms_policy: KmsPolicy = KmsPolicy()
    """What this UE wants of its KMS."""
    mikey_profile: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of :class:`keying.mikey.profile.Profile` that differ from the default, by name; lists for sets."""

    @property
    def transport(self) -> str:
        """Transport of Gm: that of a pinned P-CSCF, else what was asked for."""
        if self.pcscf is not None:
            return self.pcscf.transport
        return self.gm_transport or ("TLS" if self.profile == "aka-tls" else "UDP")

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, suites: tuple[str, ...]) -> tuple[str, ...]:
        if not suites or any(name not in SUITES for name in suites):
            raise ValueError(f"suites are one or more of {', '.join(SUITES)}")
        return suites


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, options: Mapping[str, str]) -> Self:
        """Read an ``options`` map. Raises ProblemError 400 naming the option that does not fit."""
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            faults = [
                (
                    ".".join(map(str, fault["loc"])),
                    f"unknown option; there are {', '.join(cls.model_fields)}"
                    if fault["type"] == "extra_forbidden"
                    else fault["msg"],
                )
                for fault in error.errors()
            ]
            raise ProblemError(
                400, "INVALID_PARAM", "an option is unknown or does not fit", invalid_params=faults
            ) from None


class RegisterOptions(_Options):
    """Switches of Register; all for negative tests."""

    tamper_verify: Literal["", "drop", "reorder", "alter", "omit"] = ""
    """Security-Verify from now on: first entry dropped, order reversed, first entry renamed, or no header at all."""
    strip_mediasec: bool = False
    """Announce no media mechanism, as if somebody on the way had removed them."""
    bad_response: bool = False
    """Answer the challenge with a wrong RES (E-1)."""
    fail_mac: bool = False
    """Treat every challenge as one with a wrong MAC (E-3)."""
    fail_sync: bool = False
    """Treat the first challenge as one with an SQN out of range and send AUTS (E-5)."""


class CallOptions(_Options):
    """Switches of Call."""

    media: Literal["on", "off"] = "on"
    """off: no media sockets, for load tests; the SDP names the discard port."""
    level: Literal["", "off", "preferred", "required"] = ""
    """Security level of this call; empty: as configured."""
    offerless: bool = False
    """INVITE without SDP: the far end offers."""
    reliable: Literal["off", "supported", "require"] = "supported"
    """100rel: not mentioned, in Supported, or in Require."""
    shape: Literal["savp", "avp"] = "savp"
    """Profile of an e2ae offer: RTP/SAVP, or RTP/AVP with crypto lines (UO-1)."""
    force_offer: bool = False
    """Negative test: offer e2ae although the P-CSCF did not announce it."""
    privacy: Literal["", "id", "none"] = ""
    """Value of Privacy."""
    cancel_after_s: float = Field(default=0.0, ge=0)
    """CANCEL after this many seconds of ringing; 0: never."""
    ring_timeout_s: float = Field(default=180.0, gt=0)
    """Longest time to wait for an answer, s."""
    codec: Literal["PCMA", "PCMU"] = "PCMA"
    """Codec offered first."""
    dtmf: str = ""
    """Digits to send one second after the answer."""
    preferred_identity: str = ""
    """P-Preferred-Identity; empty: the default public identity."""
    asserted_identity: str = ""
    """Negative test: a P-Asserted-Identity the UE may not send."""
    tamper_offer: Literal[
        "", "short-key", "unknown-suite", "unencrypted", "unauthenticated", "long-lifetime", "bad-mki", "same-key",
        "same-tag", "strip-crypto",
    ] = ""  # fmt: skip
    """Negative test: what to spoil in the crypto lines of the offer (T2)."""
    ignore_security_failure: bool = False
    """Negative test: accept an answer that breaks the rules and go on plain."""
    responders: str = ""
    """Who the ticket of an e2e-kms call names, separated by spaces; empty: who is called, and kms_policy.also."""
    ticket: str = ""
    """Use this ticket (its id of RequestTicket or ListTickets); empty: one that fits, or a new one."""
    fresh_ticket: bool = False
    """Ask the KMS for a ticket although one that could be used again is at hand."""
    allow_diverted: bool = False
    """Go on with a call that somebody else answered whom the ticket names (TS 33.328 6.2.3.6)."""
    tamper_mikey: Literal[
        "", "flip-mac", "truncate", "replay", "wrong-ticket", "wrong-responder", "strip-sdp-ids", "expired",
        "old-timestamp", "strip", "garbage",
    ] = ""  # fmt: skip
    """Negative test: what to spoil in the TRANSFER_INIT of an e2e-kms offer (T5).

    flip-mac: the last octet of its MAC. truncate: the last ten octets are cut. replay: that of the last call answered.
    wrong-ticket: one bit of Ticket Data, under a good MAC. wrong-responder: the policy names nobody that is called.
    strip-sdp-ids: the extension says that a second protocol was offered, which SDP does not have. expired: the ticket
    ended an hour ago. old-timestamp: the message is an hour old. strip: the line is not there. garbage: no base64."""


class Behaviour(_Options):
    """How incoming calls are treated; set by SetBehaviour, which keeps what it does not name."""

    answer_after_s: float = Field(default=0.1, ge=0)
    """Seconds of ringing before the answer."""
    reject_status: int = Field(default=0, ge=0, le=699)
    """Refuse with this status (e.g. 486, 603); 0: answer."""
    media_security: Literal["", "off", "preferred", "required"] = ""
    """Security level for incoming calls; empty: as configured."""
    early_media: bool = False
    """Answer SDP in 183 and speak before the call is answered."""
    reliable: bool = True
    """Send provisional responses reliably when the caller supports it."""
    ring: bool = True
    """Send 180; off: straight to the final response."""
    media: Literal["on", "off"] = "on"
    """off: no media sockets for incoming calls."""
    record: bool = True
    """Keep what is heard in incoming calls."""
    suites: str = ""
    """Suites accepted and offered, separated by spaces; empty: as configured."""
    tamper_answer: Literal[
        "", "strip-crypto", "wrong-tag", "wrong-suite", "reflect-key", "two-lines", "short-key", "plain-profile"
    ] = ""
    """Negative test: what to spoil in the crypto line of an answer."""
    keep_ringing: bool = False
    """Never answer; the caller has to give up."""
    kms: Literal["", "off", "allowed", "preferred", "required"] = ""
    """Level of keys from the KMS for incoming calls; empty: as configured."""
    tamper_mikey: Literal["", "flip-mac", "truncate", "strip", "reflect", "garbage", "with-crypto"] = ""
    """Negative test: what to spoil in the TRANSFER_RESP of an answer (T5).

    flip-mac: the last octet of its MAC. truncate: the last ten octets are cut. strip: the line is not there. reflect:
    the offer's own message comes back. garbage: no base64. with-crypto: a crypto line stands beside it."""

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, text: str) -> str:
        if any(name not in SUITES for name in text.split()):
            raise ValueError(f"suites are of {', '.join(SUITES)}")
        return text

    def changed(self, options: Mapping[str, str]) -> "Behaviour":
        """Return this behaviour with some switches set anew. Raises ProblemError 400."""
        return Behaviour.read({**self.as_options(), **options})

    def as_options(self) -> dict[str, str]:
        """Return all switches as text."""
        return {name: _text(value) for name, value in self.model_dump().items()}


class TicketOptions(_Options):
    """Switches of RequestTicket; all for negative tests (T5)."""

    initiator: str = ""
    """IDRi of somebody else."""
    tamper: Literal["", "flip-mac", "truncate", "replay", "old-timestamp", "wrong-psk"] = ""
    """flip-mac, truncate: as of Call. replay: the request before. old-timestamp: an hour old. wrong-psk: made with a
    key that the KMS does not know."""


class ResolveOptions(_Options):
    """Switches of ResolveTicket; all for negative tests (T5)."""

    responder: str = ""
    """IDRr of somebody else."""
    tamper: Literal["", "flip-mac", "truncate", "replay", "old-timestamp", "wrong-psk", "wrong-ticket"] = ""
    """As of RequestTicket; wrong-ticket: one bit of Ticket Data, under a good MAC."""


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
