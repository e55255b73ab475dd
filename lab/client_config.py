"""Configurations of clients that nobody here wrote: baresip, linphone and sipp as a user of the lab.

Pure: facts in, files out. A password or key stands in files that are marked secret and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from keying.secret import Secret

BARESIP_MODULES = "/usr/lib/baresip/modules"
"""Where Debian's baresip has its modules."""
SIPP_PORT = 5070
"""Port of sipp's own: another port is another contact, and there are ten."""
SIPP_MARKS = frozenset(b"\x00 []\"'<>&,;=\r\n\t")
"""Octets that sipp 3.6 reads as something else where they stand in K, OP or AMF."""
_ASKED = ("Require: mediasec", "Proxy-Require: mediasec", "Security-Client: sdes-srtp;mediasec")
TONE_FILE = "tone.wav"
CA_FILE = "ca.crt"


class ClientConfigError(Exception):
    """There is no configuration of this client for this user; the text says what to do instead."""


@dataclass(frozen=True)
class Card:
    """The keys of a card that the lab description gives: K and OP of 16 octets each, AMF of 2."""

    k: Secret
    op: Secret
    amf: bytes


@dataclass(frozen=True)
class Account:
    """What a client has to know to be a user; ``address`` is the client's own, ``folder`` where its files will lie."""

    user: str
    impu: str
    impi: str
    domain: str
    profile: str
    pcscf: str
    pcscf_port: int
    pcscf_tls_port: int
    callee: str
    address: str
    folder: str
    password: Secret | None = None
    card: Card | None = None
    mediasec: bool = False
    """Whether sipp asks for an agreement on media security when it registers (TS 24.229 5.1.1.2)."""

    def at(self, port: int) -> str:
        """Return the P-CSCF with a port."""
        host = f"[{self.pcscf}]" if ":" in self.pcscf else self.pcscf
        return f"{host}:{port}"


@dataclass(frozen=True)
class ClientFiles:
    """Files by name, which of them hold a secret, the commands that run the client, and what to know."""

    files: dict[str, str]
    secret: frozenset[str]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def _password(account: Account, client: str) -> str:
    if account.password is None:
        raise ClientConfigError(
            f"{account.user} registers with IMS AKA, which {client} does not know; "
            "give the user `profile: digest` in the lab description, or use sipp (`profile: aka-udp`)"
        )
    return account.password.reveal().decode()


def baresip(account: Account) -> ClientFiles:
    """Return the folder of a baresip 1.0: digest over TLS, SDES or nothing. Raises :class:`ClientConfigError`."""
    password = _password(account, "baresip")
    config = [
        "poll_method epoll",
        f"sip_listen {account.address}:0",
        f"sip_cafile {account.folder}/{CA_FILE}",
        f"net_interface {account.address}",
        f"audio_source aufile,{account.folder}/{TONE_FILE}",
        "audio_player alsa,null",
        "audio_alert aufile,/dev/null",
        "audio_buffer 20-160",
        "rtp_timeout 0",
        f"module_path {BARESIP_MODULES}",
        *(f"module {name}.so" for name in ("stdio", "alsa", "sndfile", "g711", "aufile", "srtp", "uuid", "account")),
        f"snd_path {account.folder}",
        "module_app menu.so",
    ]
    address = (
        f"<{account.impu};transport=tls>;auth_user={account.impi};auth_pass={password}"
        f';outbound="sip:{account.at(account.pcscf_tls_port)};transport=tls";regint=300;answermode=auto'
        ";mediaenc=srtp-mand;audio_codecs=pcmu,pcma;ptime=20"
    )
    return ClientFiles(
        {"config": _lines(config), "accounts": _lines([address]), "contacts": ""},
        frozenset({"accounts"}),
        (f"baresip -f {account.folder}",),
        (
            'wait for "200 OK () [1 binding]", then type:',
            f"/dial {account.callee}",
            "/hangup",
            "its calls are protected end to end with SDES: it knows no mediasec; it answers calls by itself",
        ),
    )


def linphone(account: Account) -> ClientFiles:
    """Return the configuration of a linphone 5.1: digest over TLS, SDES. Raises :class:`ClientConfigError`."""
    password = _password(account, "linphone")
    proxy = f"<sip:{account.at(account.pcscf_tls_port)};transport=tls"
    sections = {
        "sip": (
            "default_proxy=0",
            "sip_port=0",
            "sip_tcp_port=0",
            "sip_tls_port=-1",
            f"root_ca={account.folder}/{CA_FILE}",
            "verify_server_certs=1",
            # It looks for host names in certificates only, and the lab's P-CSCF is known by its address.
            "verify_server_cn=0",
            "media_encryption=srtp",
            "media_encryption_mandatory=1",
            "use_ipv6=0",
            "guess_hostname=0",
            f"bind_address={account.address}",
            f"contact=<sip:{account.user}@{account.address}>",
        ),
        "misc": (f"user_certificates_path={account.folder}",),  # its listening port makes itself a certificate
        "storage": ("backend=sqlite3", f"uri={account.folder}/linphone.db"),
        "net": ("firewall_policy=0",),
        "rtp": ("audio_rtp_port=-1",),
        "proxy_0": (
            f"reg_proxy={proxy}>",
            f"reg_route={proxy};lr>",
            f"reg_identity=<{account.impu}>",
            "reg_expires=600",
            "reg_sendregister=1",
            "publish=0",
            f"realm={account.domain}",
        ),
        "auth_info_0": (
            f"username={account.user}",
            f"userid={account.impi}",
            f"passwd={password}",
            f"realm={account.domain}",
            f"domain={account.domain}",
        ),
    }
    text = "\n".join(f"[{name}]\n{_lines(entries)}" for name, entries in sections.items())
    return ClientFiles(
        {"linphonerc": text},
        frozenset({"linphonerc"}),
        (f"linphonec -c {account.folder}/linphonerc",),
        (
            "then type (the lines on sound on a machine without any):",
            "status register",
            "soundcard use files",
            f"play {account.folder}/{TONE_FILE}",
            f"call {account.callee}",
            "terminate",
            "its calls are protected end to end with SDES: it knows no mediasec; linphonec -a answers by itself",
            "linphone writes into its configuration: keep the folder to yourself",
        ),
    )


def sipp(account: Account) -> ClientFiles:
    """Return scenarios of a sipp 3.6 over UDP: a registration, digest or AKAv1-MD5, and a call in plain RTP.

    Raises :class:`ClientConfigError`.
    """
    if account.profile == "aka-tls":
        raise ClientConfigError(
            f"{account.user} registers over TLS, which Debian's sipp does not know; "
            "give the user `profile: aka-udp` or `digest` in the lab description"
        )
    credentials = _sipp_credentials(account)
    common = (
        f"sipp {account.at(account.pcscf_port)} -i {account.address} -p {SIPP_PORT} -m 1 -l 1 -nostdin "
        f"-auth_uri {account.domain} -recv_timeout 8000"
    )
    register = f"{common} -sf {account.folder}/register.xml"
    call = f"{common} -sf {account.folder}/call.xml -key callee {account.callee} -mi {account.address} -rtp_echo"
    notes = ["register first; both run from the same port"]
    if account.card is not None:
        notes.append("about 3 of 100 registrations fail with 403: sipp takes RES for text and stops at a zero octet")
    notes.append(f"the call goes to {account.callee} and sends back what it hears; sipp speaks no SRTP")
    return ClientFiles(
        {
            "register.xml": _register(account, credentials),
            "call.xml": _call(account),
            "register.sh": _lines([register]),
            "call.sh": _lines([call]),
        },
        frozenset({"register.xml"}),
        (f"sh {account.folder}/register.sh", f"sh {account.folder}/call.sh"),
        tuple(notes),
    )


def _sipp_credentials(account: Account) -> str:
    if account.password is not None:
        return f"username={account.impi} password={account.password.reveal().decode()}"
    card = account.card
    if card is None:
        raise ClientConfigError(
            f"sipp needs the card of {account.user}: write `usim: {{k: ..., op: ..., amf: ...}}` into the user's entry "
            "of the lab description (OP, not OPc), bring the lab up with it, and name the file with --config"
        )
    for name, octets in (("k", card.k.reveal()), ("op", card.op.reveal()), ("amf", card.amf)):
        if SIPP_MARKS & set(octets):
            raise ClientConfigError(
                f"sipp cannot use {name} of the card of {account.user}: no octet of it may be 00, 20, 5B ([) or "
                "another mark that sipp reads"
            )
    keys = (("aka_K", card.k.reveal()), ("aka_OP", card.op.reveal()), ("aka_AMF", card.amf))
    return f"username={account.impi} " + " ".join(f"{name}=0x{octets.hex()}" for name, octets in keys)


def _register(account: Account, credentials: str) -> str:
    first = f'Authorization: Digest username="{account.impi}",realm="{account.domain}",'
    first += f'uri="sip:{account.domain}",nonce="",response=""'
    challenged, verify = '<recv response="401" auth="true"/>', []
    if account.mediasec:
        challenged = (
            '<recv response="401" auth="true"><action><ereg regexp=".*" search_in="hdr" header="Security-Server:" '
            'check_it="true" assign_to="agreed"/></action></recv>'
        )
        verify = ["Security-Verify:[$agreed]"]
    return _scenario(
        f"{account.user} registers",
        _send(_register_head(account, 1), first),
        '<recv response="100" optional="true"/>',
        challenged,
        _send(_register_head(account, 2), *verify, f"[authentication {credentials}]"),
        '<recv response="100" optional="true"/>',
        '<recv response="200"/>',
    )


def _register_head(account: Account, number: int) -> list[str]:
    return [
        f"REGISTER sip:{account.domain} SIP/2.0",
        "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport",
        "Max-Forwards: 70",
        f"From: <{account.impu}>;tag=[call_number]",
        f"To: <{account.impu}>",
        "Call-ID: [call_id]",
        f"CSeq: {number} REGISTER",
        f"Contact: <sip:{account.user}@[local_ip]:[local_port]>;expires=600",
        "Supported: path",
        *(_ASKED if account.mediasec else ()),
    ]


def _call(account: Account) -> str:
    head = [
        "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport",
        "Max-Forwards: 70",
    ]
    parties = [f"From: <{account.impu}>;tag=[call_number]", "[last_To:]", "Call-ID: [call_id]"]
    invite = [
        "INVITE [callee] SIP/2.0",
        *head,
        f"From: <{account.impu}>;tag=[call_number]",
        "To: <[callee]>",
        "Call-ID: [call_id]",
        "CSeq: 1 INVITE",
        f"Contact: <sip:{account.user}@[local_ip]:[local_port]>",
        "Content-Type: application/sdp",
        "Content-Length: [len]",
        "",
        "v=0",
        "o=- 1 1 IN IP[local_ip_type] [local_ip]",
        "s=-",
        "c=IN IP[media_ip_type] [media_ip]",
        "t=0 0",
        "m=audio [media_port] RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
    ]
    return _scenario(
        f"{account.user} calls and sends back what it hears",
        _whole(invite),
        '<recv response="100" optional="true"/>',
        '<recv response="180" optional="true"/>',
        '<recv response="183" optional="true"/>',
        '<recv response="200" rrs="true"/>',
        _whole(
            ["ACK [next_url] SIP/2.0", *head, "[routes]", *parties, "CSeq: 1 ACK", "Content-Length: 0", "", ""],
            again=False,
        ),
        '<pause milliseconds="5000"/>',
        _whole(["BYE [next_url] SIP/2.0", *head, "[routes]", *parties, "CSeq: 2 BYE", "Content-Length: 0", "", ""]),
        '<recv response="200"/>',
    )


def _send(head: list[str], *more: str) -> str:
    return _whole([*head, *more, "Content-Length: 0", "", ""])


def _whole(lines: list[str], *, again: bool = True) -> str:
    send = '<send retrans="500">' if again else "<send>"
    return f"{send}<![CDATA[\n" + "\n".join(lines) + "\n]]></send>"


def _scenario(name: str, *steps: str) -> str:
    body = "\n".join(steps)
    return f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<scenario name="{escape(name)}">\n{body}\n</scenario>\n'


def _lines(lines: list[str] | tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


CLIENTS: dict[str, Callable[[Account], ClientFiles]] = {"baresip": baresip, "linphone": linphone, "sipp": sipp}
"""Clients by the name that ``imslab client-config`` knows them by."""
