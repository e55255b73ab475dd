"""Settings of a P-CSCF. Every value has a default that gives a safe testbed edge."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from keying.suites import DEFAULT_SUITES
from nodes.hepexport import HepSettings
from sba.nf import NodeSettings


class MediaPolicy(StrEnum):
    """How far e2ae protection of a leg is taken (TS 33.328 ID-6, assumed)."""

    OFF = "off"
    PREFERRED = "preferred"
    REQUIRED = "required"


class UnannouncedPolicy(StrEnum):
    """What happens to an e2ae request without agreement (GE-3, FLOW-4 row 2, assumed)."""

    REJECT = "reject"
    AS_E2E = "as-e2e"


class RoutePolicy(StrEnum):
    """What a Route that is not the stored Service-Route leads to (HOP-2)."""

    REPLACE = "replace"
    REJECT = "reject"


class InactivityPolicy(StrEnum):
    """What media inactivity reported by the IMS-AGW leads to (IQ-19)."""

    RELEASE = "release"
    LOG = "log"


class SipListener(BaseModel):
    """One SIP listening point."""

    model_config = ConfigDict(extra="forbid")
    transport: str = "UDP"
    """UDP, TCP or TLS."""
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0: the kernel chooses."""


class PcscfSettings(NodeSettings):
    """Settings of a P-CSCF."""

    # -- addresses
    gm: tuple[SipListener, ...] = (SipListener(),)
    """Listening points towards UEs."""
    mw: tuple[SipListener, ...] = (SipListener(transport="TLS"),)
    """Listening points towards the core; the first is the one in Path and Record-Route."""
    core_routes: dict[str, str] = Field(default_factory=dict)
    """Home domain -> SIP URI of its I-CSCF; a domain not named is looked up in the NRF."""
    visited_network: str = ""
    """Value of P-Visited-Network-ID and of the type 1 orig-ioi; empty: the lab's domain."""
    trusted_core_addresses: tuple[str, ...] = ()
    """Addresses believed on Mw over TCP or UDP; empty: loopback and any address, flagged NON-SECURE at start."""

    # -- SIP
    t1_access_s: float = Field(default=2.0, gt=0)
    """T1 on Gm in seconds (24.229 table 7.7.1: 2 s)."""
    t1_core_s: float = Field(default=0.5, gt=0)
    """T1 on Mw in seconds (RFC 3261: 0.5 s)."""
    keep_alive_s: int = Field(default=0, ge=0)
    """Seconds put into the UE's `keep` parameter; 0: willing, no interval advised (RFC 6223 4.4)."""
    route_policy: RoutePolicy = RoutePolicy.REPLACE
    """What a wrong Route leads to."""
    reject_unknown_identity: bool = False
    """A P-Preferred-Identity that is not registered: 403 (True) or the default identity is asserted (False) (HOP-3)."""
    require_path_support: bool = False
    """Answer 421 to a REGISTER without `Supported: path` (RFC 3327 5.2); off: foreign clients may omit it."""
    check_via_address: bool = True
    """Via host of requests from registered UEs must be an address the flow comes from or was registered (HOP-4)."""
    registrations_per_second: float = Field(default=50.0, gt=0)
    """REGISTER requests accepted per source address and second, sustained."""
    registration_burst: int = Field(default=200, gt=0)
    """REGISTER requests accepted from one source at once."""
    connections: int = Field(default=10_000, gt=0)
    """Connections accepted on Gm, of all UEs together, and on Mw; one more is closed at once."""
    silent_connections: int = Field(default=512, gt=0)
    """Of these, connections that have not sent a complete message yet."""
    remove_session_after_s: float = Field(default=32.0, gt=0)
    """Seconds a terminated session is remembered for late messages (64*T1)."""
    pending_registration_s: float = Field(default=240.0, gt=0)
    """Lifetime of a challenged registration and of its temporary SA, seconds (reg-await-auth)."""

    # -- IPsec-3GPP
    ipsec_backend: str = "none"
    """SA backend: `none` keeps ports, SPIs and every check but no ESP, and is flagged NON-SECURE."""
    ipsec_enabled: bool = True
    """Answer ipsec-3gpp proposals at all."""
    ipsec_port_s: int = Field(default=0, ge=0, le=65535)
    """Protected server port (port_ps); 0: the kernel chooses."""
    ipsec_port_c: int = Field(default=0, ge=0, le=65535)
    """Protected client port (port_pc); 0: the kernel chooses."""
    ipsec_algorithms: tuple[str, ...] = ("hmac-sha-1-96/aes-cbc", "hmac-sha-1-96/null")
    """Own `alg/ealg` pairs, best first."""
    ipsec_allow_null_encryption: bool = True
    """Accept a UE that offers no confidentiality (PC-9)."""
    require_security_client: bool = False
    """Refuse a REGISTER without Security-Client: 421/494 (E-10)."""

    # -- media security agreement
    mediasec_mechanisms: tuple[str, ...] = ("sdes-srtp",)
    """Media mechanisms announced, in this order."""
    announce_on_clear_gm: bool = False
    """Announce sdes-srtp although Gm is not encrypted (against GE-5; tests only)."""
    announce_unsolicited: bool = False
    """List own media mechanisms to UEs that announced none (PC-11)."""
    answer_altered_verify_with_494: bool = True
    """An altered Security-Verify is answered 494 even when it holds media entries alone; off: no agreement, logged."""

    # -- media security use
    e2ae: MediaPolicy = MediaPolicy.PREFERRED
    """Policy of this access."""
    e2ae_by_subscriber: dict[str, MediaPolicy] = Field(default_factory=dict)
    """IMPU or domain -> policy; the IMPU wins over the domain, both over what the S-CSCF sent and over the access."""
    accept_core_policy: bool = True
    """Believe `P-Imslab-Media-Security` in a 200 to REGISTER from the core."""
    e2ae_unannounced: UnannouncedPolicy = UnannouncedPolicy.REJECT
    """An e2ae request without agreement: 488, or treated as e2e."""
    accept_osrtp_shape: bool = True
    """RTP/AVP with crypto and `requested` is e2ae (FLOW-4 row 4); off: both are stripped, plain call."""
    e2e_sdes: bool = True
    """Pass e2e SDES through."""
    e2e_sdes_on_clear_hop: bool = False
    """Pass e2e keys although Gm or Mw is not encrypted (against SDES-22)."""
    suites: tuple[str, ...] = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80")
    """Crypto suites offered to UEs, best first."""
    accepted_suites: tuple[str, ...] = tuple(DEFAULT_SUITES)
    """Crypto suites accepted from UEs."""
    rekey_on_reoffer: bool = False
    """New IMS-AGW key with every offer rebuilt for the UE (PS-9)."""
    trust_media_address: bool = False
    """Send media wherever a UE's SDP says (c=, a=rtcp). Off: at once only to the host its signalling comes from. For
    any other address the UE has to speak first, from that host or, with SRTP, proving itself from elsewhere; media
    goes back to where it spoke. So no UE can aim media at somebody who never asked (voice hammer, RFC 5245 18.5.1).
    On is for clients without SRTP whose media has another host than their signalling."""
    early_media: bool = True
    """Open the gates at an answer in a provisional response; off: at 200."""

    # -- how much one user may hold
    max_sessions: int = Field(default=10, ge=0)
    """Sessions of one private identity at once, over all its registrations, those it began and those others began with
    it apart; 0: no limit. The S-CSCF may tell less."""
    max_unanswered_per_caller: int = Field(default=4, ge=1)
    """Calls of one caller that wait for the same user's answer at once; not counted without `max_sessions`."""
    max_streams: int = Field(default=32, ge=0)
    """Streams of all sessions a user began, and of all that others began with him; 0: no limit."""
    max_media_lines: int = Field(default=8, ge=0)
    """m-lines of one session; 0: what the SDP parser takes."""
    max_emergency_calls: int = Field(default=4, ge=1)
    """Emergency calls at once of one user, or from one address without registration."""

    nominal_sessions: int = Field(default=1000, ge=1)
    """Sessions at which this node tells the NRF that it is fully loaded; it goes on taking more."""

    # -- Iq
    iq_setup_deadline_s: float = Field(default=2.0, gt=0)
    """Deadline of Reserve and Configure during set-up, seconds (IQ-2)."""
    iq_deadline_s: float = Field(default=1.0, gt=0)
    """Deadline of other Iq requests, seconds (IQ-2)."""
    iq_heartbeat_s: float = Field(default=5.0, gt=0)
    """Seconds between heartbeats."""
    iq_heartbeats_lost: int = Field(default=3, gt=0)
    """Heartbeats without answer after which an IMS-AGW gets no new calls."""
    media_inactivity_s: int = Field(default=30, ge=0)
    """Seconds without media before the IMS-AGW reports it; 0: never asked for."""
    media_inactivity_policy: InactivityPolicy = InactivityPolicy.RELEASE
    """What that report leads to."""
    srtp_failures_release: int = Field(default=0, ge=0)
    """SRTP authentication failures on a stream after which the call is released (SEC-2); 0: log only."""

    # -- tracing
    hep: HepSettings | None = None
    """Homer server that is told every SIP message, keys masked; None: none."""
