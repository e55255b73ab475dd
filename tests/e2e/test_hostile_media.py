"""Hostile media at the gateway of a running lab (T3): an attacker on the wire copies, forges and floods; nobody hears it.

The attacker reads the access network and may write any source address, alice's own too; it has no key.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest, SipResponse, parse_message
from tests.e2e.lab import Lab
from tests.e2e.live import LiveCall
from tests.e2e.rawsip import DigestPhone
from tests.e2e.test_calls import assert_heard_both_ways, legs
from tests.e2e.wire import Packet, WireTap

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.attack("T3"), pytest.mark.timeout(180)]

Address = tuple[str, int]
SEED = 3711
BYE = b"\x81\xcb\x00\x01"
RECEIVER_REPORT = b"\x80\xc9\x00\x01"
FLOOD = 3000
GROWTH_KIB = 8 * 1024
"""What the packet loop may need more after a flood."""


@dataclass
class Attacker:
    """Somebody on the wire between alice and her gateway."""

    phone: Address
    gateway: Address
    seen: list[bytes]
    """Packets of alice's that reached the gateway."""
    random: random.Random = field(default_factory=lambda: random.Random(SEED))

    def spoof(self, payload: bytes, source: Address | None = None, to: Address | None = None) -> None:
        """Send with any source address; alice's own unless told otherwise."""
        source, to = source or self.phone, to or self.gateway
        udp = struct.pack("!HHHH", source[1], to[1], 8 + len(payload), 0) + payload
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0,
            socket.inet_aton(source[0]), socket.inet_aton(to[0]),
        )  # fmt: skip
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(head + udp, (to[0], 0))

    def copy(self) -> bytes:
        return self.random.choice(self.seen)

    def header(self, *, ahead: int = 1, ssrc: int | None = None) -> bytes:
        """The RTP header of a packet that could come next, or `ahead` later, or of another source."""
        last = self.seen[-1]
        sequence = (int.from_bytes(last[2:4], "big") + ahead) & 0xFFFF
        return last[:2] + sequence.to_bytes(2, "big") + last[4:8] + (last[8:12] if ssrc is None else ssrc.to_bytes(4))

    def flipped(self) -> bytes:
        packet = bytearray(self.copy())
        packet[2:4] = self.header()[2:4]
        packet[self.random.randrange(len(packet))] ^= 1 << self.random.randrange(8)
        return bytes(packet)

    def noise(self, octets: int = 170) -> bytes:
        return self.random.randbytes(octets)


def replays(by: Attacker) -> Iterator[bytes]:
    yield from (by.copy() for _ in range(100))


def bit_flips(by: Attacker) -> Iterator[bytes]:
    yield from (by.flipped() for _ in range(300))


def truncated(by: Attacker) -> Iterator[bytes]:
    whole = by.copy()
    yield from (whole[:length] for length in range(len(whole)))


def empty(by: Attacker) -> Iterator[bytes]:
    del by
    yield from [b""] * 50


def plain_speech(by: Attacker) -> Iterator[bytes]:
    yield from (by.header(ahead=ahead) + by.noise(160) for ahead in range(1, 100))


def roc_jumps(by: Attacker) -> Iterator[bytes]:
    yield from (by.header(ahead=ahead) + by.noise() for ahead in range(0x1000, 0x10000, 0x400))


def ssrc_flood(by: Attacker) -> Iterator[bytes]:
    yield from (by.header(ssrc=by.random.randrange(1 << 32)) + by.noise() for _ in range(FLOOD))


def rtcp_on_the_media_port(by: Attacker) -> Iterator[bytes]:
    for kind in (BYE, RECEIVER_REPORT):
        yield from (kind + by.seen[0][8:12] + by.noise(length) for length in range(0, 60, 4))


def other_protocols(by: Attacker) -> Iterator[bytes]:
    stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + by.noise(12)
    hello = b"\x16\xfe\xfd" + bytes(8) + b"\x00\x50" + by.noise(80)
    yield from [stun, hello, b"\xff" * 60, by.noise(1), by.noise(1400)] * 10


ATTACKS: dict[str, Callable[[Attacker], Iterator[bytes]]] = {
    attack.__name__: attack
    for attack in (
        replays, bit_flips, truncated, empty, plain_speech, roc_jumps, ssrc_flood, rtcp_on_the_media_port,
        other_protocols,
    )
}  # fmt: skip


def memory_kib(lab: Lab, instance: str) -> int:
    """Resident memory of a node and of the processes it started."""
    pids = [int(lab.nodes()[instance]["pid"])]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def media(tap: WireTap, source: str, destination: str) -> list[Packet]:
    return [packet for packet in tap.rtp(source, destination) if packet.source[0] == source]


def settings(lab: Lab, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.node(instance)["settings"]
    return found


@pytest.mark.clause("RFC 3711", "3.3.2", "9.5.1")
@pytest.mark.parametrize("name", ATTACKS)
def test_a_forger_on_the_access_is_not_heard_and_harms_nobody(lab: Lab, name: str) -> None:
    alice, gateway = settings(lab, "alice")["ip"], settings(lab, "imsagw-a")["access_ip"]
    with WireTap(lab.resolved["network"]) as tap:
        with LiveCall(lab, "alice", "bob", "--security", "e2ae-sdes") as call:
            call.talk(0.5)
            sent = media(tap, alice, gateway)
            by = Attacker(sent[0].source, sent[0].destination, [packet.payload for packet in sent])
            before = memory_kib(lab, "imsagw-a")
            count = 0
            elsewhere = [(alice, by.phone[1] + 2), (lab.resolved["network"].rpartition(".")[0] + ".201", 40000)]
            for payload in ATTACKS[name](by):
                count += 1
                by.spoof(payload)
                by.spoof(payload, source=elsewhere[count % 2])
                if count % 50 == 0:
                    call.talk(0.02)  # leave the relay room, so that every packet is judged
            control = (gateway, by.gateway[1] + 1)
            for kind in (BYE, RECEIVER_REPORT):
                by.spoof(kind + by.seen[0][8:12] + by.noise(40), (by.phone[0], by.phone[1] + 1), control)
            call.talk(0.5)
            assert memory_kib(lab, "imsagw-a") - before < GROWTH_KIB
        result = call.result()
        core = media(tap, settings(lab, "imsagw-a")["core_ip"], settings(lab, "imsagw-b")["core_ip"])
    assert result["result"] == "established"
    assert_heard_both_ways(result, "alice", "bob")
    leg = legs(result, "access")["imsagw-a"]
    heard = {packet.payload[8:12] for packet in core}
    assert len(heard) == 1, "only alice speaks in the core"
    sequences = [packet.payload[2:4] for packet in core]
    assert len(sequences) == len(set(sequences)), "nothing is heard twice"
    assert sum(leg["drops"].values()) >= count, "the packets must have come to the relay"
    if name == "replays":
        assert leg["replays"] >= count
    if name in ("bit_flips", "plain_speech", "roc_jumps"):
        assert leg["auth_failures"] + leg["replays"] >= count


@pytest.mark.clause("RFC 7362", "5")
def test_plain_media_in_the_core_is_taken_from_the_other_gateway_alone(lab: Lab) -> None:
    one, other = settings(lab, "imsagw-a")["core_ip"], settings(lab, "imsagw-b")["core_ip"]
    with WireTap(lab.resolved["network"]) as tap:
        with LiveCall(lab, "alice", "bob", "--security", "e2ae-sdes") as call:
            call.talk(0.5)
            sent = media(tap, one, other)
            by = Attacker(sent[0].source, sent[0].destination, [packet.payload for packet in sent])
            mark = len(tap.packets)
            stranger = lab.resolved["network"].rpartition(".")[0] + ".202"
            for number in range(200):
                payload = by.header(ahead=number) + by.noise(160)
                by.spoof(payload, source=(one, by.phone[1] + 2))
                by.spoof(payload, source=(stranger, by.phone[1]))
                if number % 25 == 24:
                    call.talk(0.02)  # leave the relay room, so that every packet is judged
            call.talk(0.5)
            diverted = [packet for packet in tap.packets[mark:] if packet.destination[0] == stranger]
        result = call.result()
    assert_heard_both_ways(result, "alice", "bob")
    assert diverted == [], "media is not led to whoever sends"
    assert legs(result, "core")["imsagw-b"]["drops"]["wrong_source"] > 300


@contextmanager
def dave(lab: Lab) -> Iterator[DigestPhone]:
    """A plain phone, driven message by message."""
    user = lab.resolved["users"]["dave"]
    password = lab.json("user", "dave", "--show-password")["password"]
    pcscf = (user["pcscf"]["host"], user["pcscf"]["port"])
    with DigestPhone(pcscf, user["address"], user["impu"], user["impi"], password) as phone:
        assert phone.register(600).status == 200
        yield phone
        phone.register(0)


def offer(ip: str, ports: list[int]) -> str:
    lines = "".join(f"m=audio {port} RTP/AVP 0\r\n" for port in ports)
    return f"v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n{lines}"


def in_dialog(phone: DigestPhone, request: SipRequest) -> None:
    via = f"SIP/2.0/UDP {phone.ip}:{phone.number};rport;branch=z9hG4bK{uuid.uuid4().hex}"
    request.headers.prepend("Via", via)
    phone.send(request.to_bytes())


@pytest.mark.clause("RFC 5245", "18.5.1")
def test_a_call_cannot_aim_the_callees_voice_at_somebody_else(lab: Lab) -> None:
    victim = lab.resolved["network"].rpartition(".")[0] + ".203"
    with WireTap(lab.resolved["network"]) as tap, dave(lab) as phone:
        for address in (victim, phone.ip):
            invite = phone.message("INVITE", "sip:bob@ims.test", body=offer(address, [40000]))
            answer = phone.exchange(invite, 10)
            assert answer.status == 200, answer.to_bytes()
            sent = parse_message(invite)
            assert isinstance(sent, SipRequest)
            dialog = Dialog.from_uac(sent, answer)
            in_dialog(phone, dialog.ack_for(answer))
            threading.Event().wait(1)
            in_dialog(phone, dialog.request("BYE"))
            phone.receive(5)
        own = phone.ip
    assert not [packet for packet in tap.packets if packet.destination[0] == victim]
    assert len([packet for packet in tap.packets if packet.destination == (own, 40000)]) > 20


@pytest.mark.attack("T7")
def test_one_phone_cannot_take_the_gateways(lab: Lab) -> None:
    def streams() -> int:
        return int(lab.json("status")["media_streams"])

    before = streams()
    with dave(lab) as phone:
        for count in (120, 9, 8, 1):
            for _ in range(12):
                phone.send(phone.message("INVITE", "sip:nobody-here@ims.test", body=offer(phone.ip, [40000] * count)))
        for _ in range(20):
            phone.send(phone.message("INVITE", "urn:service:sos", body=offer(phone.ip, [40000])))
        result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.5")
        assert result["result"] == "established"
        finals: dict[str | None, int] = {}
        with suppress(TimeoutError):
            while True:
                response = parse_message(phone.receive(1.0))
                assert isinstance(response, SipResponse)
                assert "Iq" not in response.reason
                if response.status >= 200:
                    finals[response.call_id] = response.status
    answers = Counter(finals.values())
    assert answers[488] >= 24, "the offers of 120 and of 9 lines"
    assert answers[503] >= 8, "four emergency calls at once are enough for one address"
    lab.wait(lambda: streams() <= before, 40, "the streams of refused calls were not given back")
