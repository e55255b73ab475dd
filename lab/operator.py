"""The lab operator's hands inside the IMS: an NF identity of type LAB that commands UEs and reads gateways.

It lives in the supervisor, so that the command line stays light and holds no key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from keying.secret import Secret
from lab.healthcheck import HealthChecks
from lab.labfile import NodeRow
from lab.resolve import OPERATOR, nf_types
from protos import capture_pb2, iq_pb2, kms_control_pb2, lifecycle_pb2, nrf_nfm_pb2, ue_control_pb2
from sba.client import SbiClient
from sba.config import NodeEnvironment
from sba.discovery import NfProfile, Query
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry

REGISTER_TIMEOUT_S = 20.0
"""Patience with one registration, seconds (timer F on the access is 128 s; an operator is less patient)."""
REPORT_WAIT_S = 3.0
"""How long the called UE is given to see the end of a call, seconds."""
TICKET_TIMEOUT_S = 20.0
"""Patience with a UE that asks its KMS, seconds: bootstrapping and one answer each of KMS, BSF and HSS."""
KMS_TIMEOUT_S = 5.0
"""Patience with a KMS's own answers, seconds."""
LIST_OF_NODES = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name["NfListRetrieval"]
"""The method that tells which nodes there are."""


def _ue(method: str) -> MethodDescriptor:
    return ue_control_pb2.DESCRIPTOR.services_by_name["UeControl"].methods_by_name[method]


def _kms(method: str) -> MethodDescriptor:
    return kms_control_pb2.DESCRIPTOR.services_by_name["NkmsControl"].methods_by_name[method]


class Operator:
    """Calls the lab's nodes as NF type LAB. Raises ``sba.errors.RemoteProblem`` where a node refuses."""

    def __init__(self, lab_json: Path, producers: Mapping[str, NodeRow]) -> None:
        self._environment = NodeEnvironment.load(lab_json, OPERATOR)
        self.identity = NodeIdentity(self._environment)
        self.telemetry = Telemetry.for_node(self._environment, self.identity)
        self._sbi = SbiClient(self._environment, self.identity, self.telemetry)
        self._producers = producers
        self._health = HealthChecks(self.identity, retry_ms=50)

    async def close(self) -> None:
        """Close every channel and end the export of spans."""
        await self._health.close()
        await self._sbi.close()
        await asyncio.to_thread(self.telemetry.shutdown)

    async def registered(self, nf_type: str) -> list[NfProfile]:
        """Return the profiles of an NF type that the NRF has at this moment."""
        return await self._sbi.discovery.find(Query(nf_type), fresh=True)

    async def serves(self, instance: str) -> bool:
        """Ask a node's ``grpc.health.v1`` whether it serves."""
        producer = self._producers[instance]
        try:
            _, writer = await asyncio.open_connection(producer.host, producer.port)
        except OSError:
            return False
        writer.close()
        return await self._health.serves(producer)

    async def _ask(self, user: str, method: str, request: Message, timeout_s: float) -> Message:
        return await self._ask_node(user, _ue(method), request, timeout_s)

    async def _ask_node(self, instance: str, method: MethodDescriptor, request: Message, timeout_s: float) -> Message:
        answer: Message = await self._sbi.call(
            method, request, timeout=timeout_s, instance=self._producers[instance].instance_id
        )
        return answer

    async def retire(self, instance: str, *, withdraw: bool = False) -> lifecycle_pb2.RetireResponse:
        """Tell a node to take no new work, or to take it again; returns what it still has to do."""
        row = self._producers[instance]
        answer = await self._sbi.call(
            lifecycle_pb2.DESCRIPTOR.services_by_name["NodeLifecycle"].methods_by_name["Retire"],
            lifecycle_pb2.RetireRequest(withdraw=withdraw),
            timeout=2.0,
            instance=row.instance_id,
            nf_type=nf_types(row.kind)[0],
        )
        assert isinstance(answer, lifecycle_pb2.RetireResponse)
        return answer

    async def ue_status(self, user: str) -> ue_control_pb2.StatusResponse:
        """Return what the UE of ``user`` says of itself."""
        answer = await self._ask(user, "Status", ue_control_pb2.StatusRequest(), 2.0)
        assert isinstance(answer, ue_control_pb2.StatusResponse)
        return answer

    async def register(
        self, user: str, *, media_security: str = "", expires: int = 0, options: Mapping[str, str] | None = None
    ) -> ue_control_pb2.RegisterResponse:
        """Register a UE; ``expires`` in seconds, 0 for its own choice."""
        request = ue_control_pb2.RegisterRequest(media_security=media_security, expires=expires, options=options or {})
        answer = await self._ask(user, "Register", request, REGISTER_TIMEOUT_S)
        assert isinstance(answer, ue_control_pb2.RegisterResponse)
        return answer

    async def deregister(self, user: str) -> ue_control_pb2.RegisterResponse:
        """De-register a UE."""
        answer = await self._ask(user, "Deregister", ue_control_pb2.DeregisterRequest(), REGISTER_TIMEOUT_S)
        assert isinstance(answer, ue_control_pb2.RegisterResponse)
        return answer

    async def behave(self, user: str, options: Mapping[str, str]) -> Mapping[str, str]:
        """Set how a UE treats incoming calls; returns what stands now."""
        answer = await self._ask(user, "SetBehaviour", ue_control_pb2.BehaviourRequest(options=options), 2.0)
        assert isinstance(answer, ue_control_pb2.BehaviourResponse)
        return dict(answer.options)

    async def modify(
        self, user: str, call_id: str, action: str, options: Mapping[str, str]
    ) -> ue_control_pb2.ModifyResponse:
        """Change a call in progress: hold, resume, rekey, move-port ..."""
        request = ue_control_pb2.ModifyRequest(call_id=call_id, action=action, options=options)
        answer = await self._ask(user, "Modify", request, 10.0)
        assert isinstance(answer, ue_control_pb2.ModifyResponse)
        return answer

    async def hang_up(self, user: str, call_id: str) -> int:
        """End a call from ``user``'s side; returns the SIP status of the BYE."""
        answer = await self._ask(user, "HangUp", ue_control_pb2.CallHandle(call_id=call_id), 5.0)
        assert isinstance(answer, ue_control_pb2.HangUpResponse)
        return answer.sip_status

    async def call(self, user: str, request: ue_control_pb2.CallRequest) -> AsyncIterator[ue_control_pb2.CallEvent]:
        """Place a call from ``user`` and yield its events until it ended."""
        stream = self._sbi.stream(_ue("Call"), request, instance=self._producers[user].instance_id)
        async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                assert isinstance(event, ue_control_pb2.CallEvent)
                yield event

    async def report(
        self, user: str, call_id: str, *, with_wav: bool = False, with_keys: bool = False
    ) -> ue_control_pb2.CallEvent:
        """Return what ``user``'s end of a call saw; ``with_keys`` only where the lab exports keys."""
        request = ue_control_pb2.ReportRequest(
            call_id=call_id, with_wav=with_wav, wait_s=REPORT_WAIT_S, with_keys=with_keys
        )
        answer = await self._ask(user, "Report", request, REPORT_WAIT_S + 2.0)
        assert isinstance(answer, ue_control_pb2.CallEvent)
        return answer

    async def request_ticket(self, user: str, order: ue_control_pb2.TicketOrder) -> ue_control_pb2.TicketInfo:
        """Have the UE of ``user`` ask its KMS for a ticket, or make one."""
        answer = await self._ask(user, "RequestTicket", order, TICKET_TIMEOUT_S)
        assert isinstance(answer, ue_control_pb2.TicketInfo)
        return answer

    async def tickets(self, user: str) -> ue_control_pb2.TicketList:
        """Return the tickets the UE of ``user`` holds."""
        answer = await self._ask(user, "ListTickets", ue_control_pb2.TicketListRequest(), 2.0)
        assert isinstance(answer, ue_control_pb2.TicketList)
        return answer

    async def resolve_ticket(self, user: str, order: ue_control_pb2.ResolveOrder) -> ue_control_pb2.ResolveInfo:
        """Have the UE of ``user`` ask its KMS what a ticket holds for it."""
        answer = await self._ask(user, "ResolveTicket", order, TICKET_TIMEOUT_S)
        assert isinstance(answer, ue_control_pb2.ResolveInfo)
        return answer

    async def kms_audit(self, kms: str, user: str, limit: int) -> kms_control_pb2.AuditResponse:
        """Return what a KMS granted and refused, newest first; ``user`` a public identity, empty for everybody."""
        request = kms_control_pb2.AuditRequest(user=user, limit=limit)
        answer = await self._ask_node(kms, _kms("Audit"), request, KMS_TIMEOUT_S)
        assert isinstance(answer, kms_control_pb2.AuditResponse)
        return answer

    async def rotate_ticket_key(self, kms: str) -> str:
        """Give a KMS a new ticket protection key; returns its identifier, hexadecimal."""
        answer = await self._ask_node(kms, _kms("RotateTicketKey"), kms_control_pb2.RotateRequest(), KMS_TIMEOUT_S)
        assert isinstance(answer, kms_control_pb2.RotateResponse)
        return answer.tpk_id

    async def export_ticket_key(self, kms: str, ticket: bytes) -> Secret:
        """Return the key that protects a ticket; refused unless the lab exports keys."""
        request = kms_control_pb2.ExportTicketKeyRequest(ticket=ticket)
        answer = await self._ask_node(kms, _kms("ExportTicketKey"), request, KMS_TIMEOUT_S)
        assert isinstance(answer, kms_control_pb2.ExportTicketKeyResponse)
        return Secret(answer.tpk)

    async def audit(self, gateway: str) -> iq_pb2.AuditResponse:
        """Return every context of a gateway, with statistics."""
        answer = await self._sbi.call(
            iq_pb2.DESCRIPTOR.services_by_name["Iq"].methods_by_name["Audit"],
            iq_pb2.AuditRequest(root=True),
            timeout=1.0,
            instance=self._producers[gateway].instance_id,
        )
        assert isinstance(answer, iq_pb2.AuditResponse)
        return answer

    async def profiles(self) -> list[nrf_nfm_pb2.NfProfile]:
        """Return every profile the NRF holds."""
        answer = await self._sbi.call(LIST_OF_NODES, nrf_nfm_pb2.NfListRequest(), timeout=2.0)
        assert isinstance(answer, nrf_nfm_pb2.NfListResponse)
        return list(answer.profiles)

    async def node_messages(
        self, profile: nrf_nfm_pb2.NfProfile, kinds: Sequence[capture_pb2.CaptureKind], *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.NodeCaptureItem]:
        """Yield the messages of a node as they pass."""
        stream = self._sbi.stream(
            capture_pb2.DESCRIPTOR.services_by_name["NodeCapture"].methods_by_name["Capture"],
            capture_pb2.NodeCaptureRequest(kinds=kinds, with_keys=with_keys),
            instance=profile.nf_instance_id,
            nf_type=next(iter(profile.nf_types), ""),
        )
        async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
            async for item in items:
                assert isinstance(item, capture_pb2.NodeCaptureItem)
                yield item

    async def capture(
        self, gateway: str, correlation: str, *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.CaptureItem]:
        """Yield the packets of a gateway's sockets; ``correlation`` is a Call-ID or empty for all."""
        stream = self.capture_of(self._producers[gateway].instance_id, correlation, with_keys=with_keys)
        async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def capture_of(
        self, instance_id: str, correlation: str, *, with_keys: bool
    ) -> AsyncIterator[capture_pb2.CaptureItem]:
        """Yield the packets of a gateway by its NF instance id."""
        stream = self._sbi.stream(
            capture_pb2.DESCRIPTOR.services_by_name["MediaCapture"].methods_by_name["Capture"],
            capture_pb2.CaptureRequest(correlation=correlation, with_keys=with_keys),
            instance=instance_id,
        )
        async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
            async for item in items:
                assert isinstance(item, capture_pb2.CaptureItem)
                yield item
