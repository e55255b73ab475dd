"""SIP by hand: octets to a port and what comes back, and a digest client that keeps none of the rules by itself."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
import uuid
from typing import Self

from keying.secret import Secret
from signalling.aka.digest import DigestChallenge, answer_challenge, choose_challenge
from signalling.sip.message import SipResponse, parse_message

Address = tuple[str, int]

_BRANCH = re.compile(rb"branch=z9hG4bK[^;\s,]+")


def fresh(message: bytes) -> bytes:
    """The message under a branch of its own, so that nobody takes it for a retransmission."""
    return _BRANCH.sub(b"branch=z9hG4bK" + uuid.uuid4().hex.encode(), message, count=1)


def connect(target: Address, context: ssl.SSLContext | None = None, source: str = "") -> socket.socket:
    """A TCP connection, with TLS when a context is given."""
    plain = socket.create_connection(target, timeout=5, source_address=(source, 0) if source else None)
    return plain if context is None else context.wrap_socket(plain)


def over_stream(target: Address, data: bytes, context: ssl.SSLContext | None = None, wait_s: float = 0.5) -> bytes:
    """What a server answers to `data` on a connection of its own within `wait_s` of silence."""
    answer = b""
    # A server may hang up on nonsense in the middle of it.
    with connect(target, context) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(wait_s)
        while chunk := connection.recv(65_536):
            answer += chunk
            if answer.endswith(b"\r\n\r\n") and not answer.startswith(b"SIP/2.0 100"):
                break
    return answer


def over_udp(target: Address, messages: list[bytes], wait_s: float = 1.0) -> list[bytes]:
    """Every datagram that comes back for some messages sent from one port, until `wait_s` of silence."""
    answers = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind((target[0], 0))
        for message in messages:
            port.sendto(message, target)
        port.settimeout(wait_s)
        with contextlib.suppress(TimeoutError):
            while True:
                answers.append(port.recv(65_536))
    return answers


def statuses(answers: bytes) -> list[int]:
    """The status codes in what came back."""
    return [int(code) for code in re.findall(rb"(?m)^SIP/2\.0 (\d{3})", answers)]


class DigestPhone:
    """A UDP phone for a digest user, driven message by message."""

    transport = "UDP"

    def __init__(self, pcscf: Address, ip: str, impu: str, impi: str, password: str) -> None:
        self.pcscf, self.impu, self.impi = pcscf, impu, impi
        self.domain = impu.partition("@")[2]
        self.port = self.open(ip)
        self.ip, self.number = self.port.getsockname()
        self._password = Secret(password.encode())
        self.cseq = 0
        self.call_id = uuid.uuid4().hex
        self.authorization = ""
        """The last credentials sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.port.close()

    def open(self, ip: str) -> socket.socket:
        """The socket it speaks through, bound to `ip`."""
        port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        port.bind((ip, 0))
        return port

    def send(self, message: bytes) -> None:
        """Send one message to the P-CSCF."""
        self.port.sendto(message, self.pcscf)

    def receive(self, wait_s: float) -> bytes:
        """The next message; raises TimeoutError."""
        self.port.settimeout(max(0.01, wait_s))
        return self.port.recv(65_536)

    @property
    def contact(self) -> str:
        return f"sip:phone@{self.ip}:{self.number}"

    def message(self, method: str, uri: str, *headers: str, impu: str = "", body: str = "") -> bytes:
        self.cseq += 1
        own = impu or self.impu
        to = own if method == "REGISTER" else uri
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/{self.transport} {self.ip}:{self.number};rport;branch=z9hG4bK{uuid.uuid4().hex}",
            "Max-Forwards: 70",
            f"From: <{own}>;tag={uuid.uuid4().hex[:8]}",
            f"To: <{to}>",
            f"Call-ID: {self.call_id if method == 'REGISTER' else uuid.uuid4().hex}",
            f"CSeq: {self.cseq} {method}",
            *(() if any(line.startswith("Contact:") for line in headers) else (f"Contact: <{self.contact}>",)),
            *headers,
            *(("Content-Type: application/sdp",) if body else ()),
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def exchange(self, message: bytes, wait_s: float = 5.0) -> SipResponse:
        """Send and return the final response; raises TimeoutError."""
        wanted = parse_message(message)
        self.send(message)
        deadline = time.monotonic() + wait_s
        while True:
            response = parse_message(self.receive(deadline - time.monotonic()))
            if isinstance(response, SipResponse) and response.status >= 200 and response.cseq == wanted.cseq:
                return response

    def register(self, expires: int, *, impu: str = "", answer_as: str = "") -> SipResponse:
        """Register with one challenge; `impu` and `answer_as` lie about who it is."""
        uri = f"sip:{self.domain}"
        header = f"Expires: {expires}"
        first = self.exchange(self.message("REGISTER", uri, header, impu=impu))
        if first.status != 401:
            return first
        challenge = self.challenge(first)
        self.authorization = f"Authorization: {self.credentials(challenge, answer_as or self.impi, uri)}"
        return self.exchange(self.message("REGISTER", uri, header, self.authorization, impu=impu))

    def invite(self, uri: str) -> bytes:
        """An INVITE that offers plain PCMU."""
        body = (
            f"v=0\r\no=- 1 1 IN IP4 {self.ip}\r\ns=-\r\nc=IN IP4 {self.ip}\r\nt=0 0\r\n"
            f"m=audio {self.number} RTP/AVP 0\r\n"
        )
        return self.message("INVITE", uri, body=body)

    @staticmethod
    def challenge(response: SipResponse) -> DigestChallenge:
        chosen = choose_challenge(response.headers.get_all("WWW-Authenticate"), ("SHA-256", "MD5"))
        assert chosen is not None
        return chosen

    def credentials(self, challenge: DigestChallenge, impi: str, uri: str) -> str:
        answer = answer_challenge(
            challenge,
            username=impi,
            password=self._password,
            method="REGISTER",
            uri=uri,
            cnonce=uuid.uuid4().hex,
            nc=1,
        )
        return answer.format()
