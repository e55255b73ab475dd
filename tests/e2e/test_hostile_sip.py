"""Hostile SIP at running nodes (T7): each attack gets its answer or silence, and the calls of everybody else go on.

Every test ends with the same proof: no node restarted and none wrote of a fault to its log; and after every kind of
attack alice's call to bob is protected on both accesses.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import selectors
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.state import StateFolder
from lab.tracestore import TraceStore
from nodes.siptrace import trace_id_of_call
from tests.e2e.lab import Lab
from tests.e2e.live import behaving
from tests.e2e.rawsip import Address, DigestPhone, connect, statuses
from tests.sip.test_torture import IPV6, TORTURE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SEED = 4475
RESPONSES = {"bcast": None, "bigcode": None, "noreason": None, "scalarlg": None, "unreason": None}
"""Responses of RFC 4475 that belong to no transaction: silence."""
MALFORMED = {
    **dict.fromkeys(
        [
            "badaspec",
            "baddn",
            "badinv01",
            "escruri",
            "insuf",
            "ltgtruri",
            "lwsruri",
            "lwsstart",
            "mcl01",
            "mismatch01",
            "multi01",
            "ncl",
            "quotbal",
            "regbadct",
            "scalar02",
            "trws",
            "ipv6-bad",
        ],
        400,
    ),
    "badvers": 505,
    "mismatch02": 501,
    "zeromf": 483,
}
"""What every element answers by the form of the message alone."""
WITHIN = dict.fromkeys(["wsinv", "mult-ip-in-header", "via-received-param-with-delim"], 481)
"""Requests of dialogs nobody knows."""
REGISTERS = [
    "cparam01",
    "cparam02",
    "dblreq",
    "escnull",
    "regaut01",
    "regescrt",
    "ipv6-good",
    "port-ambiguous",
    "port-unambiguous",
]  # for example.com, a domain of nobody
STREAM = {"baddn": None, "clerr": None, "inv2543": 400}
"""A blank line and a body that never come; a request without Content-Length, whose end nobody can find (RFC 3261 18.3)."""
EDGE = RESPONSES | MALFORMED | WITHIN | dict.fromkeys([*REGISTERS, "unksm2"], 504)
"""The P-CSCF; anything else is well formed and 403: nobody registered on that flow."""
CORE = RESPONSES | MALFORMED | WITHIN | dict.fromkeys(REGISTERS, 404)
CORE |= {"unksm2": 400, "bext01": 420, "novelsc": 416, "unkscm": 416}
"""The S-CSCF towards a P-CSCF that serves none of its users; anything else 403."""
FAULTS = {"pcscf.fault", "request.failed", "ue.task-failed"}


class Door(NamedTuple):
    """A SIP port under attack; `context` for TLS."""

    transport: str
    address: Address
    context: ssl.SSLContext | None = None


@dataclass
class Siege:
    """The ports, and an address of its own for every attacker, so that no limit per source hides another's answer."""

    lab: Lab
    doors: dict[str, Door]
    prefix: str
    hosts: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(60, 250)))

    def source(self) -> str:
        return f"{self.prefix}.{next(self.hosts)}"

    def ask(self, door: str, data: bytes, *, wait_s: float = 1.5, source: str = "") -> list[int]:
        """The final status codes that come back; ends at the first, or with the connection."""
        target = self.doors[door]
        source = source or self.source()
        if target.transport == "UDP":
            return self.ask_udp(target.address, data, wait_s, source)
        answer = b""
        with connect(target.address, target.context, source) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.settimeout(wait_s)
            while chunk := connection.recv(65_536):
                answer += chunk
                if final(answer):
                    break
        return final(answer)

    @staticmethod
    def ask_udp(address: Address, data: bytes, wait_s: float, source: str) -> list[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port, contextlib.suppress(TimeoutError):
            port.bind((source, 0))
            port.sendto(data, address)
            port.settimeout(wait_s)
            while not (found := final(port.recv(65_536))):
                pass
            return found
        return []

    def ask_all(self, messages: dict[Any, tuple[str, bytes]], **how: Any) -> dict[Any, int | None]:
        """The answer to each message at its door, asked side by side; None for silence."""
        sources = [self.source() for _ in messages]
        with ThreadPoolExecutor(48) as pool:
            found = pool.map(lambda one, source: self.ask(*one, source=source, **how), messages.values(), sources)
            return {name: next(iter(codes), None) for name, codes in zip(messages, found, strict=True)}

    def assert_serves(self, door: str) -> None:
        """Everything sent before was taken in: an OPTIONS to the node itself is answered."""
        host, port = self.doors[door].address
        wait_s = 5.0
        asked = time.monotonic()
        assert self.ask(door, request("OPTIONS", f"sip:{host}:{port}"), wait_s=wait_s) == [200], door
        assert time.monotonic() - asked < wait_s


def final(answer: bytes) -> list[int]:
    return [status for status in statuses(answer) if status >= 200]


def request(
    method: str, uri: str, *headers: str, body: bytes = b"", length: object = None, user: str = "mallory"
) -> bytes:
    """A well-formed request of somebody who is not registered."""
    if method == "REGISTER" and not any(line.startswith("Contact:") for line in headers):
        headers = (f"Contact: <sip:{user}@192.0.2.66>", *headers)
    elif method == "INVITE":
        headers = (f"Contact: <sip:{user}@192.0.2.66>", "Content-Type: application/sdp", *headers)
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/TCP 192.0.2.66;rport;branch=z9hG4bK{uuid.uuid4().hex}",
        "Max-Forwards: 70",
        f"From: <sip:{user}@ims.test>;tag={uuid.uuid4().hex[:8]}",
        f"To: <{f'sip:{user}@ims.test' if method == 'REGISTER' else uri}>",
        f"Call-ID: {uuid.uuid4().hex}",
        f"CSeq: 1 {method}",
        *headers,
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def anew(message: bytes) -> bytes:
    """A message of the RFCs as a transaction of its own, answered over UDP to the port it came from."""
    own = uuid.uuid4().hex.encode()
    if message == TORTURE["dblreq"]:  # a datagram; on a stream its second half is a request of its own
        message = message[: message.index(b"\r\n\r\n") + 4]
    message = re.sub(rb"(?im)^((?:call-id|i)[ \t]*:[ \t]*)", rb"\g<1>" + own, message, count=1)
    if b"branch=z9hG4bK" in message:
        message = re.sub(rb"branch=z9hG4bK", b"branch=z9hG4bK" + own, message, count=1)
    return message if b"rport" in message else message.replace(b";branch=", b";rport;branch=", 1)


@pytest.fixture(scope="module")
def siege(lab: Lab) -> Siege:
    nodes = lab.resolved["nodes"]
    authority = cafile(lab)
    gm_tls = ssl.create_default_context(cafile=authority)
    compromised = ssl.create_default_context(cafile=authority)
    folder = Path(authority).parent
    compromised.load_cert_chain(folder / "pcscf-b.crt", folder / "pcscf-b.key")
    gm_tls.check_hostname = compromised.check_hostname = False
    doors = {}
    for spot in nodes["pcscf-a"]["settings"]["gm"]:
        context = gm_tls if spot["transport"] == "TLS" else None
        doors[spot["transport"].lower()] = Door(spot["transport"], (spot["host"], spot["port"]), context)
    mw = nodes["cscf"]["settings"]["mw"]
    doors["mw"] = Door("TLS", (mw["host"], mw["port"]), compromised)
    lab.run("register", "alice")
    lab.run("register", "bob")
    return Siege(lab, doors, lab.resolved["network"].rpartition(".")[0])


def cafile(lab: Lab) -> str:
    return str(Path(lab.resolved["pki_dir"]) / "ca.crt")


@pytest.fixture(scope="module", autouse=True)
def half_said(siege: Siege) -> Iterator[dict[str, tuple[float, list[socket.socket]]]]:
    """Connections that stop in the middle of a message while everything else in this file happens."""
    half = request("INVITE", "sip:bob@ims.test", length=500)[:-200]
    opened = {}
    for door in ("tcp", "tls", "mw"):
        target = siege.doors[door]
        connections = [connect(target.address, target.context, siege.source()) for _ in range(20)]
        for connection in connections:
            connection.sendall(half)
            connection.settimeout(0)
        opened[door] = (time.monotonic(), connections)
    yield opened
    for connection in itertools.chain.from_iterable(connections for _, connections in opened.values()):
        connection.close()


def processes(lab: Lab) -> dict[str, tuple[int, int]]:
    return {name: (node["pid"], node["restarts"]) for name, node in lab.nodes().items()}


def logs(lab: Lab) -> dict[Path, int]:
    return {path: path.stat().st_size for path in sorted((lab.state / "logs").glob("*.log"))}


def faults(path: Path, offset: int) -> list[str]:
    """Lines that tell of something the node did not expect."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line for line in lines if is_fault(line)]


def is_fault(line: str) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return True
    return record.get("level") in {"error", "critical"} or record.get("event") in FAULTS or "Traceback" in line


def assert_secured_call(lab: Lab) -> None:
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.5")
    assert (result["result"], result["security"]) == ("established", "e2ae-sdes")
    outside = {leg["node"]: leg["protection"] for leg in result["legs"] if leg["side"] in {"access", "end"}}
    assert set(outside.values()) == {"SRTP"}
    assert {"alice", "bob"} <= set(outside)


@pytest.fixture(scope="module")
def alive(siege: Siege) -> Iterator[dict[str, tuple[int, int]]]:
    """The processes under attack; they are the ones that run in the end, and a call through them is protected."""
    before = processes(siege.lab)
    yield before
    assert processes(siege.lab) == before, "a node was started again"
    assert_secured_call(siege.lab)


@pytest.fixture(autouse=True)
def unharmed(siege: Siege, alive: dict[str, tuple[int, int]]) -> Iterator[None]:
    """No process died, and none wrote of a fault."""
    written = logs(siege.lab)
    yield
    assert all(Path(f"/proc/{pid}").exists() for pid, _ in alive.values()), alive
    told = {path.name: lines for path, offset in written.items() if (lines := faults(path, offset))}
    assert told == {}


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 4475", "3.1.1", "3.1.2", "3.2", "3.3", "3.4")
@pytest.mark.clause("RFC 5118", "4")
def test_torture_messages_get_the_answer_their_rfc_asks_for_at_every_door(siege: Siege) -> None:
    expected: dict[tuple[str, str], int | None] = {}
    messages = {}
    for door in siege.doors:
        known = CORE if door == "mw" else EDGE
        for name, data in (TORTURE | IPV6).items():
            message = anew(data)
            messages[door, name] = (door, message)
            wanted = known.get(name, 403)
            if door == "udp":
                # Without rport the answer goes to the port the Via names, not to the one the request came from.
                wanted = (400 if name == "clerr" else wanted) if b";rport" in message else None
                wanted = None if name == "longreq" else wanted  # its top Via has no branch to put it at
            expected[door, name] = STREAM.get(name, wanted) if door != "udp" else wanted
    assert len(messages) == 4 * 61
    assert siege.ask_all(messages, wait_s=2.0) == expected


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 4475", "3.1.1.8")
def test_request_followed_by_nonsense_is_answered_before_the_stream_ends(siege: Siege) -> None:
    for door, status in (("tcp", 504), ("tls", 504), ("mw", 404)):
        asked = request("REGISTER", "sip:example.com") + b"#\r\n\r\n"
        assert siege.ask(door, asked, wait_s=5.0) == [status], door


def mutant(chance: random.Random, message: bytes) -> bytes:
    """A message after one to four accidents: flips, cuts, doubled or swapped pieces, foreign octets."""
    data = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : min(to, at + 40)]
            case 2:
                data[at:at] = data[at : min(to, at + 200)]
            case 3:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 4:
                data[at:at] = chance.choice(
                    [b"\r\n", b"\r\n\r\n", b"%00", b"\x00", b'"', b"<", b",", b";", b"\xc2\xb2"]
                )
            case _:
                lines = bytes(data).split(b"\r\n")
                chance.shuffle(lines)
                data[:] = b"\r\n".join(lines)
        if not data:
            break
    return bytes(data) or b"\r\n"


SOUND = [
    request("INVITE", "sip:bob@ims.test", "Supported: 100rel, timer", body=b"v=0\r\no=- 1 1 IN IP4 192.0.2.66\r\ns=-\r\n"),
    request("REGISTER", "sip:ims.test", 'Authorization: Digest username="x",realm="ims.test",nonce="",uri="sip:ims.test",response=""'),
    request("SUBSCRIBE", "sip:bob@ims.test", "Event: reg", "Expires: 60", "Route: <sip:127.0.0.1;lr>"),
    request("BYE", "sip:bob@ims.test", "Security-Verify: sdes-srtp;mediasec", "Privacy: id"),
    request("PRACK", "sip:bob@ims.test", "RAck: 1 1 INVITE"),
]  # fmt: skip


@pytest.mark.attack("T7")
def test_mutated_messages_are_refused_or_dropped_and_none_is_a_fault(siege: Siege) -> None:
    chance = random.Random(SEED)
    seeds = [*SOUND, *TORTURE.values(), *IPV6.values()]
    for door in siege.doors:
        mutants = [mutant(chance, anew(chance.choice(seeds))) for _ in range(500 if door == "udp" else 150)]
        codes = Counter(thrown(siege, door, mutants))
        assert codes, f"some are still requests: {door}"
        assert set(codes) <= set(range(300, 700)) - {500}, (door, codes)
    assert_secured_call(siege.lab)


def thrown(siege: Siege, door: str, messages: list[bytes]) -> list[int]:
    """Throw each message, by an attacker and over a connection of its own; every status code that came back."""
    target = siege.doors[door]
    with contextlib.ExitStack() as open_ends, selectors.DefaultSelector() as waiting:
        for number, message in enumerate(messages):
            source = siege.source()
            if target.transport == "UDP":
                end = open_ends.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                end.bind((source, 0))
                end.sendto(message, target.address)
                if number % 20 == 0:
                    siege.assert_serves(door)  # what the kernel's buffer held is read
            else:
                end = open_ends.enter_context(connect(target.address, target.context, source))
                with contextlib.suppress(OSError):
                    end.sendall(message)
            end.settimeout(0)
            waiting.register(end, selectors.EVENT_READ)
        siege.assert_serves(door if door != "mw" else "tcp")
        codes = []
        while ready := waiting.select(0.4):
            for key, _ in ready:
                end = key.fileobj  # type: ignore[assignment]
                try:
                    data = end.recv(65_536)
                except (BlockingIOError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    data = b""
                codes += final(data)
                if not data:
                    waiting.unregister(end)
        return codes


@pytest.mark.attack("T7")
def test_noise_is_met_with_silence_at_every_door(siege: Siege) -> None:
    chance = random.Random(SEED)
    noise = [chance.randbytes(size) for size in (1, 20, 100, 1400, 9000) for _ in range(8)]
    noise += [b"\x00\x01\x00\x00\x21\x12\xa4\x42" + chance.randbytes(8)]  # a STUN header cut short
    noise += [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + chance.randbytes(200)]  # half a ClientHello
    for door in siege.doors:
        assert thrown(siege, door, noise) == []
    plain = {
        f"{door} {index}": (f"{door}-plain", one) for door in ("tls", "mw") for index, one in enumerate(noise[::5])
    }
    for door in ("tls", "mw"):  # octets that are no TLS, to a port that speaks TLS
        siege.doors[f"{door}-plain"] = Door("TCP", siege.doors[door].address)
    try:
        assert set(siege.ask_all(plain, wait_s=0.3).values()) == {None}
    finally:
        for door in ("tls", "mw"):
            del siege.doors[f"{door}-plain"]


# -- size and length ------------------------------------------------------------------------------------------------


def resident(lab: Lab, *instances: str) -> dict[str, int]:
    """Memory of processes, octets."""
    nodes = lab.nodes()
    text = {name: Path(f"/proc/{nodes[name]['pid']}/status").read_text() for name in instances}
    return {name: int(one.partition("VmRSS:")[2].split()[0]) * 1024 for name, one in text.items()}


def bombs() -> dict[str, tuple[bytes, int]]:
    to = "sip:nobody@ims.test"
    many = [f"X-{number}: {number}" for number in range(1000)]
    vias = [f"Via: SIP/2.0/TCP 192.0.2.{number % 250};branch=z9hG4bK{number}" for number in range(100)]
    return {
        "a thousand header lines": (request("INVITE", to, *many), 400),
        "a hundred Vias": (request("INVITE", to, *vias), 400),
        "a hundred routes in one line": (request("INVITE", to, "Route: " + ",".join(["<sip:127.0.0.1;lr>"] * 100)), 400),
        "a line of 9000 octets": (request("INVITE", to, "Subject: " + "x" * 9000), 400),
        "a folded line of 9000 octets": (request("INVITE", to, "Subject: x" + "\r\n " + "\r\n ".join(["y" * 90] * 100)), 400),
        "64 KiB of headers": (request("INVITE", to, *(f"X-{number}: {'x' * 4000}" for number in range(20))), 513),
        "64 KiB without an end": (b"INVITE sip:bob@ims.test SIP/2.0\r\n" + b"X: y\r\n" * 20_000, 0),
        "a Request-URI of 3000 octets": (request("INVITE", f"sip:{'b' * 3000}@ims.test"), 414),
        "a tag of 1000 octets": (request("INVITE", to).replace(b";tag=", b";tag=" + b"t" * 1000), 400),
        "a Call-ID of 1000 octets": (request("INVITE", to).replace(b"Call-ID: ", b"Call-ID: " + b"c" * 1000), 400),
        "Max-Forwards of 5000 digits": (request("INVITE", to).replace(b"ards: 70", b"ards: " + b"9" * 5000), 403),
        "CSeq of 5000 digits": (request("INVITE", to).replace(b"CSeq: 1", b"CSeq: " + b"1" * 5000), 400),
        "a body of 300 KiB": (request("INVITE", to, body=bytes(300 * 1024)), 413),
        "a body said to be 300 KiB": (request("INVITE", to, length=300 * 1024), 413),
        "a body of minus one": (request("INVITE", to, length=-1), 400),
        "a body of x": (request("INVITE", to, length="x"), 400),
        "a body of 5000 digits": (request("INVITE", to, length="9" * 5000), 400),
        "two lengths": (request("INVITE", to, "Content-Length: 4", body=b"abcd", length=5), 400),
        "a length too small": (request("INVITE", to, body=b"abc#\r\n\r\n", length=3), 403),
    }  # fmt: skip


@pytest.mark.attack("T7")
def test_oversized_and_mismeasured_messages_are_refused_and_leave_no_memory_taken(siege: Siege) -> None:
    doors = ("tcp", "tls", "mw")

    def volley() -> dict[tuple[str, str], tuple[str, bytes]]:
        return {(door, name): (door, data) for door in doors for name, (data, _) in bombs().items()}

    expected = {(door, name): status for door in doors for name, (_, status) in bombs().items()}
    found = siege.ask_all(volley(), wait_s=3.0)
    # The core does not ask who calls: it looks for who is called.
    assert {key: 403 if (key[0], code) == ("mw", 404) else code or 0 for key, code in found.items()} == expected
    before = resident(siege.lab, "pcscf-a", "cscf")
    for _ in range(3):
        siege.ask_all(volley(), wait_s=0.3)
    after = resident(siege.lab, "pcscf-a", "cscf")
    assert all(after[node] - before[node] < 16 * 2**20 for node in before), (before, after)
    assert_secured_call(siege.lab)


@pytest.mark.attack("T7")
def test_datagram_that_is_shorter_than_it_says_is_400_and_a_huge_one_is_measured(siege: Siege) -> None:
    to = "sip:bob@ims.test"
    assert siege.ask("udp", request("INVITE", to, body=b"v=0\r\n", length=50)) == [400]
    assert siege.ask("udp", request("INVITE", to, body=b"v=0\r\n" * 2, length=5)) == [403], "the rest is no part of it"
    assert siege.ask("udp", request("INVITE", to, *(f"X-{number}: {'x' * 300}" for number in range(190)))) == [403]
    assert siege.ask("udp", request("INVITE", to, *(f"X-{number}: {'x' * 10}" for number in range(900)))) == [400]


# -- exhaustion -----------------------------------------------------------------------------------------------------


@pytest.mark.attack("T7")
def test_idle_connections_of_one_source_are_bounded_and_others_are_served(siege: Siege) -> None:
    source, limit = f"{siege.prefix}.251", 256  # nobody else's
    with contextlib.ExitStack() as idle:
        opened = {}
        for transport in ("tcp", "tls"):  # on the TLS port nobody ever begins the handshake
            address = siege.doors[transport].address
            opened[transport] = [idle.enter_context(connect(address, source=source)) for _ in range(limit // 2 + 10)]
        refused = [one for one in itertools.chain(*opened.values()) if hung_up(one)]
        assert len(refused) == 20
        assert set(refused) <= set(opened["tls"]), "those that came over the limit"
        siege.assert_serves("tcp")
        siege.assert_serves("tls")
        assert_secured_call(siege.lab)
    assert siege.ask("tcp", request("INVITE", "sip:bob@ims.test"), source=source) == [403], "its connections are gone"


def hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0.002)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.attack("T7")
def test_flood_of_requests_from_nobody_is_refused_and_a_call_is_set_up_meanwhile(siege: Siege) -> None:
    sources = [siege.source() for _ in range(2)]
    over = threading.Event()
    calls, registers = Counter[int](), Counter[int]()

    def flood(source: str, method: str, uri: str, counted: Counter[int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
            port.bind((source, 0))
            port.settimeout(0.004)  # at most 250 requests a second
            while not over.is_set():
                port.sendto(request(method, uri), siege.doors["udp"].address)
                with contextlib.suppress(TimeoutError):
                    counted.update(final(port.recv(65_536)))

    threads = [
        threading.Thread(target=flood, args=(sources[0], "INVITE", "sip:bob@ims.test", calls)),
        threading.Thread(target=flood, args=(sources[1], "REGISTER", "sip:ims.test", registers)),
    ]
    for thread in threads:
        thread.start()
    try:
        assert_secured_call(siege.lab)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(calls) == {403}
    assert calls[403] > 200
    assert set(registers) <= {401, 403, 404, 503}
    assert registers[503], "over its rate a source is told to wait"


# -- lies -----------------------------------------------------------------------------------------------------------

INTERNAL = (
    "P-Asserted-Identity: <sip:alice@ims.test>",
    "P-Served-User: <sip:alice@ims.test>;sescase=orig",
    "P-Imslab-Media-Security: off",
    "P-Charging-Vector: icid-value=stolen;orig-ioi=nobody",
    "P-Associated-URI: <sip:alice@ims.test>",
    "Service-Route: <sip:evil@192.0.2.66;lr>",
    "Path: <sip:evil@192.0.2.66;lr>",
    'P-Access-Network-Info: 3GPP-NR;cell="forged-cell";network-provided',
)


def received(lab: Lab, call_id: str, node: str, method: str) -> list[str]:
    """The texts of the requests that a node took in for a call."""
    lab.run("flow", check=False)  # asks the lab to settle: every span has arrived
    store = TraceStore(StateFolder.at(lab.state).traces, read_only=True)
    try:
        return [
            event.text("text")
            for span in store.spans_of_trace(trace_id_of_call(call_id))
            if span.node == node
            for event in span.events
            if event.name == "sip.message" and event.text("direction") == "received"
            if event.text("start_line").startswith(method)
        ]
    finally:
        store.close()


def call_id_of(message: bytes) -> str:
    return message.partition(b"Call-ID: ")[2].partition(b"\r\n")[0].decode()


def dave(lab: Lab) -> DigestPhone:
    user = lab.resolved["users"]["dave"]
    password = json.loads(lab.run("user", "dave", "--show-password", "--json").stdout)["password"]
    pcscf = (user["pcscf"]["host"], user["pcscf"]["port"])
    return DigestPhone(pcscf, user["address"], user["impu"], user["impi"], password)


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "HOP-2", "HOP-3", "HOP-5")
@pytest.mark.clause("RFC 3325", "5", "6")
def test_internal_headers_and_routes_of_a_registered_user_are_replaced(siege: Siege) -> None:
    lab = siege.lab
    with dave(lab) as phone, socket.create_server((siege.source(), 0)) as trap, behaving(lab, "bob", reject_status=486):
        assert phone.register(600).status == 200
        route = f"Route: <sip:{trap.getsockname()[0]}:{trap.getsockname()[1]};transport=tcp;lr>"
        preferred = "P-Preferred-Identity: <sip:alice@ims.test>"
        invite = phone.message("INVITE", "sip:bob@ims.test", *INTERNAL, route, preferred)
        assert phone.exchange(invite).status == 486
        trap.settimeout(0.05)
        with pytest.raises(TimeoutError):
            trap.accept()
        assert phone.register(0).status == 200
    for node, identity in (("cscf", "<sip:dave@ims.test>"), ("bob", "<sip:dave@ims.test>")):
        [text, *_] = received(lab, call_id_of(invite), node, "INVITE")
        asserted = [line for line in text.split("\r\n") if line.lower().startswith("p-asserted-identity")]
        assert asserted[:1] == [f"P-Asserted-Identity: {identity}"], node
        for forged in ("alice", "192.0.2.66", "stolen", "P-Imslab", "forged-cell"):
            assert forged not in text, (node, forged)


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-1")
def test_register_that_vouches_for_itself_is_challenged_and_takes_nothing_over(siege: Siege) -> None:
    lab = siege.lab
    before = lab.json("status")["registrations"]
    impi = next(one["impi"] for one in lab.resolved["users"].values() if one["impu"] == "sip:alice@ims.test")
    digest = f'Digest username="{impi}",realm="ims.test",nonce="{{}}",uri="sip:ims.test",response="{{}}"'
    other = 'Authorization: Digest username="x",realm="elsewhere",uri="sip:ims.test",nonce="",response=""'
    messages: dict[tuple[str, str, str], tuple[str, bytes]] = {}
    for door, flag in itertools.product(("udp", "tcp", "tls"), ("yes", "tls-yes", "ip-assoc-yes", "auth-done")):
        first = f'Authorization: {digest.format("", "")},integrity-protected="{flag}"'
        answer = f'Authorization: {digest.format("bm9uY2U=", "0" * 32)},integrity-protected="{flag}"'
        for kind, headers in (("first", (first,)), ("answer", (answer,)), ("hidden", (other, first))):
            message = request("REGISTER", "sip:ims.test", *headers, *INTERNAL, user="alice")
            messages[kind, door, flag] = (door, message)
    found = siege.ask_all(messages, wait_s=5.0)
    assert {key: code for key, code in found.items() if code not in ({400} if key[0] == "hidden" else {401, 403})} == {}
    assert lab.json("status")["registrations"] == before


@pytest.mark.attack("T7")
def test_whoever_shows_no_certificate_of_the_core_is_not_heard_on_mw(siege: Siege) -> None:
    address = siege.doors["mw"].address
    folder = Path(cafile(siege.lab)).parent
    nobody = ssl.create_default_context(cafile=cafile(siege.lab))
    nobody.check_hostname = False
    with contextlib.suppress(OSError), connect(address, nobody) as connection:  # an alert, or a reset
        connection.sendall(request("OPTIONS", "sip:ims.test"))
        assert connection.recv(1) == b""
    phone = ssl.create_default_context(cafile=cafile(siege.lab))
    phone.check_hostname = False
    phone.load_cert_chain(folder / "alice.crt", folder / "alice.key")
    siege.doors["phone"] = Door("TLS", address, phone)
    try:
        register = request("REGISTER", "sip:ims.test", f"Path: <sip:evil@{siege.prefix}.9;lr>", user="bob")
        asserted = request("INVITE", "sip:bob@ims.test", *INTERNAL)
        assert [siege.ask("phone", one) for one in (register, asserted)] == [[403], [403]]
    finally:
        del siege.doors["phone"]


# -- slow peers, last: they had the time the other attacks took -----------------------------------------------------


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3261", "18.3")
def test_half_messages_are_cut_off_at_their_deadline(
    siege: Siege, half_said: dict[str, tuple[float, list[socket.socket]]]
) -> None:
    for began, connections in half_said.values():
        deadline = began + 20 + 3
        for connection in connections:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                assert connection.recv(65_536) == b"", "cut off without a word"
            except ConnectionError:
                continue
    siege.assert_serves("tcp")
