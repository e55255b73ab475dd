"""The UE's end of Gm: the SIP stack, its ports, TLS towards the P-CSCF, and the way requests take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.context import Context

from nodes import siptls
from nodes.handshakes import Handshakes
from nodes.siptap import observing
from nodes.siptrace import SipTracer
from nodes.ue.config import UeSettings
from nodes.ue.network import Pcscf
from sba.tap import Tap
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import ClientTxn, Flow, Hop, SipStack, TransactionFailure
from signalling.sip.timers import TimerConfig
from signalling.sip.transport import Reactor

LEAST_KEEP_ALIVE_S = 1.0
"""Interval of keep-alives that the UE does not go below, whatever it is advised."""
ROLE = "gm"
SERVER_ROLE = "gm-s"
HOSTS_KNOWN = 8
"""P-CSCFs of the past whose requests are still taken: calls stay with the one they began at."""
MAX_ASSOCIATIONS = 64
"""Protected client ports in the life of a process."""

OnResponse = Callable[[SipResponse], None]
OnFailure = Callable[[TransactionFailure], None]


@dataclass(frozen=True)
class Answered:
    """A final response and the flow it came over."""

    response: SipResponse
    flow: Flow | None


def _offer_keep_alive(request: SipRequest, _hop: Hop, _role: str) -> None:
    """Say in the Via of a REGISTER that this UE is willing to send keep-alives (RFC 6223 4.2, TR-5)."""
    if request.method == "REGISTER":
        via = request.top_via
        request.headers.remove_first_value("Via")
        request.headers.prepend("Via", f"{via};keep")


def advised_interval(response: SipResponse) -> float | None:
    """Seconds between keep-alives from the `keep` value of the own Via; 0: none advised, None: not wanted (TR-5)."""
    value = response.top_via.params.get("keep")
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 6:
        return None
    return max(LEAST_KEEP_ALIVE_S, float(value)) if int(value) else 0.0


class Gm:
    """Ports and paths. Without a protected association requests go to the address of the P-CSCF in use."""

    def __init__(
        self, reactor: Reactor, settings: UeSettings, tracer: SipTracer, ca_path: Path, *, tap: Tap | None = None
    ) -> None:
        timers = TimerConfig.access()
        if settings.t1_s != timers.t1:
            timers = timers.scaled(settings.t1_s)
        self.settings = settings
        self.tracer = tracer
        watchers = observing(tracer, tap or Tap(), self.interfaces())
        self.stack = SipStack(reactor, timers=timers, observer=watchers, server_name=settings.user_agent)
        self.stack.set_client_tls(ROLE, siptls.client(ca_path, watch=Handshakes(tracer.telemetry).watch("Gm")))
        self.stack.request_hooks.append(_offer_keep_alive)
        self.stack.failure_hooks.append(tracer.failure_hook)
        self.contact_port = 0
        self.pcscf = Pcscf.pinned(settings.pcscf) if settings.pcscf is not None else None
        """The P-CSCF in use; None before one was found."""
        self._hosts = [] if self.pcscf is None else [self.pcscf.host]
        self._role = ROLE
        self._protected: Hop | None = None
        self._associations = 0

    @staticmethod
    def interfaces() -> dict[str, str]:
        """Roles of the stack that are Gm, for the tracer."""
        return {ROLE: "Gm", SERVER_ROLE: "Gm", **{f"gm-c{number}": "Gm" for number in range(MAX_ASSOCIATIONS)}}

    async def open(self) -> None:
        """Open the unprotected port; over TLS and TCP it only gives connections their source address."""
        listener = await self.stack.listen("UDP", self.settings.ip, 0, role=ROLE)
        self.contact_port = listener.address[1]

    async def close(self) -> None:
        """Close everything."""
        await self.stack.stop()

    # the protected association of aka-udp (SA backend none: ports and checks, no ESP)

    async def protected_ports(self) -> tuple[int, int]:
        """Open a fresh protected client port and the lasting server port; return both (33.203 7.1).

        Raises RuntimeError when this process used up its associations.
        """
        if self._associations >= MAX_ASSOCIATIONS:
            raise RuntimeError("too many associations")
        known = self.stack.local_address(SERVER_ROLE, "UDP")
        if known is None:
            listener = await self.stack.listen("UDP", self.settings.ip, 0, role=SERVER_ROLE)
            known = listener.address
        client = await self.stack.listen("UDP", self.settings.ip, 0, role=f"gm-c{self._associations}")
        self._associations += 1
        return client.address[1], known[1]

    def protect(self, port_c: int, pcscf_port_s: int) -> None:
        """Send from the protected client port to the P-CSCF's protected server port from now on."""
        assert self.pcscf is not None, "a P-CSCF answered before"
        host = self.pcscf.host
        role = f"gm-c{self._associations - 1}"
        flow = Flow("UDP", (self.settings.ip, port_c), (host, pcscf_port_s), f"{role}-{pcscf_port_s}", role)
        self._protected = Hop("UDP", host, pcscf_port_s, flow)
        self._role = role

    def unprotect(self) -> None:
        """Go back to the unprotected port: an initial registration begins."""
        self._protected = None
        self._role = ROLE

    # paths

    @property
    def confidential(self) -> bool:
        """True when Gm is encrypted: TLS; the IPsec backend of this testbed does not encrypt (GE-5)."""
        return self.settings.transport == "TLS"

    def use(self, pcscf: Pcscf) -> None:
        """Turn to a P-CSCF; what is sent from now on goes there."""
        self.pcscf = pcscf
        if pcscf.host in self._hosts:
            self._hosts.remove(pcscf.host)
        self._hosts = [*self._hosts, pcscf.host][-HOSTS_KNOWN:]

    def first_hop(self) -> Hop:
        """Return the way to the P-CSCF for a REGISTER: a connection that stands, or a new one.

        Raises TransactionFailure where no P-CSCF is known.
        """
        if self._protected is not None:
            return self._protected
        pcscf = self.pcscf
        if pcscf is None:
            raise TransactionFailure("transport", "no P-CSCF is known yet")
        return Hop(pcscf.transport, pcscf.host, pcscf.port, tls_name=pcscf.tls_name or None)

    def hop(self, flow: Flow | None) -> Hop:
        """Return the way for any other request: over the registered flow while it stands."""
        if self._protected is None and flow is not None and flow.reliable and self.stack.is_open(flow):
            return Hop.over(flow)
        return self.first_hop()

    def is_from_pcscf(self, flow: Flow) -> bool:
        """Tell whether a request came from the P-CSCF and over the kind of transport that was registered."""
        transport = self.settings.transport
        return flow.remote[0] in self._hosts and (flow.transport == transport or transport == "UDP")

    def send(
        self,
        request: SipRequest,
        hop: Hop,
        on_response: OnResponse,
        on_failure: OnFailure,
        parent: Context | None = None,
    ) -> ClientTxn:
        """Send a request in its span."""
        self.tracer.outgoing(request, parent=parent)
        return self.stack.send(request, hop, role=self._role, on_response=on_response, on_failure=on_failure)

    def send_ack(self, ack: SipRequest, hop: Hop) -> None:
        """Send the ACK of a 2xx."""
        if ack.headers.get("traceparent") is None:
            self.tracer.outgoing(ack)
        self.stack.send_ack(ack, hop, self._role)

    async def exchange(
        self, request: SipRequest, hop: Hop, *, parent: Context | None = None, on_repeat: OnResponse | None = None
    ) -> Answered:
        """Send a request and wait for its final response; `on_repeat` gets 2xx that come again.

        Raises TransactionFailure.
        """
        answer: asyncio.Future[SipResponse] = asyncio.get_running_loop().create_future()

        def responded(response: SipResponse) -> None:
            if response.status < 200:
                return
            if not answer.done():
                answer.set_result(response)
            elif on_repeat is not None and response.status < 300:
                on_repeat(response)

        def failed(failure: TransactionFailure) -> None:
            if not answer.done():
                answer.set_exception(failure)

        txn = self.send(request, hop, responded, failed, parent)
        response = await answer
        return Answered(response, txn.flow)
