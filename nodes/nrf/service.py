"""The three services of the NRF."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator

from google.protobuf import empty_pb2

from nodes.nrf.authority import OPERATOR, SigningKeys, check_consumer, grant_scope, sign_token, token_error
from nodes.nrf.config import NrfSettings
from nodes.nrf.registry import Registry
from protos import nrf_disc_pb2, nrf_nfm_pb2, nrf_oauth2_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from sba.identity import PeerIdentity, access_name, cscf_name, hss_name
from sba.networks import is_ip_literal
from sba.telemetry import Telemetry

BEARER = "Bearer"
MOST_OCTETS = 32 * 1024
"""Largest profile, octets: an answer to discovery holds many, and has to be received."""
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
"""A host name or IPv4 address (RFC 1123 2.1)."""
_WORD = re.compile(r"[A-Za-z0-9-]{1,20}")
"""Role or transport of an endpoint."""

ACCESS_TYPES = frozenset({"PCSCF", "IMS_AGW"})
"""NF types that are looked for by access network."""
HOME_NAMES = {"SCSCF": cscf_name, "ICSCF": cscf_name, "HSS": hss_name}
"""NF types that are believed for the home domain they are looked for by, and the name that shows it."""


def check_profile(profile: nrf_nfm_pb2.NfProfile, peer: PeerIdentity, domain: str) -> None:
    """Check that a profile says nothing its certificate does not (P.1.3-3, P.1.3-18).

    By what consumers and the operator know it by: instance id and name (the first label of the FQDN), NF types and
    names, for a P-CSCF or IMS-AGW its access network, for a CSCF or HSS its home domains; and the NF set it belongs to.
    `domain` is that of the lab. Raises :class:`ProblemError` 400 for a missing or malformed part and 403 for what the
    certificate does not show.
    """
    missing = [name for name in ("nf_instance_id", "nf_types", "fqdn", "host", "port") if not getattr(profile, name)]
    if missing:
        raise ProblemError(400, "MANDATORY_IE_MISSING", invalid_params=[(name, "mandatory") for name in missing])
    if malformed := list(_malformed(profile)):
        raise ProblemError(400, "MANDATORY_IE_INCORRECT", invalid_params=[(name, "malformed") for name in malformed])
    if profile.nf_instance_id != peer.instance_id:
        raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "the profile belongs to another NF instance")
    if not set(profile.nf_types) <= set(peer.nf_types):
        raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "the certificate does not name these NF types")
    if profile.fqdn not in peer.dns_names:
        raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "the certificate does not name this FQDN")
    if profile.instance_name != profile.fqdn.partition(".")[0]:
        raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "the certificate does not name this instance")
    for needed, what in _needed_names(profile, domain):
        if needed not in peer.dns_names:
            raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", f"the certificate does not show {what}")


def _malformed(profile: nrf_nfm_pb2.NfProfile) -> Iterator[str]:
    """Parts that are not what consumers put into URIs and routes: addresses, transports, roles; or all of it."""
    if profile.ByteSize() > MOST_OCTETS:
        yield "profile"
    if not _is_host(profile.host):
        yield "host"
    for point in profile.endpoints:
        if point.host and not _is_host(point.host):
            yield "endpoints.host"
        if not all(_WORD.fullmatch(word) for word in (point.role, point.transport) if word):
            yield "endpoints"


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None or ("%" not in text and is_ip_literal(text))  # a zone may be any text


def _needed_names(profile: nrf_nfm_pb2.NfProfile, domain: str) -> Iterator[tuple[str, str]]:
    """Names the certificate has to show for what a profile claims, each with what it stands for."""
    types = set(profile.nf_types)
    for point in profile.endpoints:
        if point.tls_name:
            yield point.tls_name, f"the name of its endpoint {point.role[:20]}"
    if profile.nf_set_id:
        yield profile.nf_set_id, "this NF set"
    if types & ACCESS_TYPES:
        networks = {profile.access_network, *(point.access_network for point in profile.endpoints)} - {""}
        for network in sorted(networks):
            yield access_name(network, domain), "this access network"
    for nf_type in sorted(types & HOME_NAMES.keys()):
        for home in profile.home_domains:
            yield HOME_NAMES[nf_type](home), "this home domain"


class NfManagement:
    """Nnrf_NFManagement (TS 29.510 5.2)."""

    service = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"]

    def __init__(self, registry: Registry, settings: NrfSettings, telemetry: Telemetry, domain: str) -> None:
        self._registry = registry
        self._settings = settings
        self._telemetry = telemetry
        self._domain = domain

    async def NfRegister(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfRegisterRequest, context: CallContext
    ) -> nrf_nfm_pb2.NfRegisterResponse:
        """Register or replace a profile that agrees with its certificate."""
        profile = request.profile
        check_profile(profile, context.peer, self._domain)
        if not profile.heartbeat_s:
            profile.heartbeat_s = self._settings.heartbeat_s
        if not profile.status:
            profile.status = nrf_nfm_pb2.REGISTERED
        await self._registry.put(profile, context.peer.serial_number)
        self._telemetry.log("nf-registered", instance=profile.instance_name, nf_types=tuple(profile.nf_types))
        return nrf_nfm_pb2.NfRegisterResponse(profile=profile)

    async def NfUpdate(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfUpdateRequest, context: CallContext
    ) -> nrf_nfm_pb2.NfUpdateResponse:
        """Take a heartbeat with status and load."""
        _own(request.nf_instance_id, context)
        own = context.peer.instance_id == request.nf_instance_id
        serial_number = context.peer.serial_number if own else None
        profile = await self._registry.beat(request.nf_instance_id, request.status, request.load, serial_number)
        if profile is None:
            raise ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND")
        return nrf_nfm_pb2.NfUpdateResponse(heartbeat_s=profile.heartbeat_s)

    async def NfDeregister(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfDeregisterRequest, context: CallContext
    ) -> empty_pb2.Empty:
        """Remove the caller's own profile; no error when there is none."""
        _own(request.nf_instance_id, context)
        if await self._registry.remove(request.nf_instance_id):
            self._telemetry.log("nf-deregistered", instance_id=request.nf_instance_id)
        return empty_pb2.Empty()

    async def NfProfileRetrieval(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfProfileRequest, _context: CallContext
    ) -> nrf_nfm_pb2.NfProfile:
        """Return one profile."""
        profile = self._registry.get(request.nf_instance_id)
        if profile is None:
            raise ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND")
        return profile

    async def NfListRetrieval(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfListRequest, _context: CallContext
    ) -> nrf_nfm_pb2.NfListResponse:
        """Return every profile of an NF type, or all."""
        return nrf_nfm_pb2.NfListResponse(profiles=self._registry.all(request.nf_type))

    async def NfStatusSubscribe(  # noqa: N802 - the name in the contract
        self, request: nrf_nfm_pb2.NfStatusSubscribeRequest, _context: CallContext
    ) -> AsyncIterator[nrf_nfm_pb2.NfStatusEvent]:
        """Stream status events for as long as the consumer listens."""
        async for event in self._registry.watch(request.nf_type, request.nf_instance_id):
            yield event


class NfDiscovery:
    """Nnrf_NFDiscovery (TS 29.510 5.3)."""

    service = nrf_disc_pb2.DESCRIPTOR.services_by_name["NnrfNfDiscovery"]

    def __init__(self, registry: Registry, settings: NrfSettings) -> None:
        self._registry = registry
        self._validity = settings.discovery_validity_s

    async def Discover(  # noqa: N802 - the name in the contract
        self, request: nrf_disc_pb2.DiscoveryRequest, context: CallContext
    ) -> nrf_disc_pb2.DiscoveryResponse:
        """Return the producers that fit, best first; the requester's NF type must be its certificate's."""
        if not request.target_nf_type:
            raise ProblemError(400, "MANDATORY_QUERY_PARAM_MISSING", invalid_params=[("target_nf_type", "mandatory")])
        if request.requester_nf_type not in context.peer.nf_types:
            raise ProblemError(
                400,
                "MANDATORY_QUERY_PARAM_INCORRECT",
                invalid_params=[("requester_nf_type", "not in the certificate")],
            )
        profiles = self._registry.discover(request)
        return nrf_disc_pb2.DiscoveryResponse(profiles=profiles, validity_s=self._validity)


class AccessToken:
    """Nnrf_AccessToken (TS 29.510 5.4, TS 33.501 13.4.1)."""

    service = nrf_oauth2_pb2.DESCRIPTOR.services_by_name["NnrfAccessToken"]

    def __init__(
        self,
        registry: Registry,
        keys: SigningKeys,
        *,
        issuer: str,
        lifetime_s: int,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._keys = keys
        self._issuer = issuer
        self._lifetime = lifetime_s
        self._telemetry = telemetry
        self._clock = clock

    async def Get(  # noqa: N802 - the name in the contract
        self, request: nrf_oauth2_pb2.AccessTokenRequest, context: CallContext
    ) -> nrf_oauth2_pb2.AccessTokenResponse:
        """Give the consumer a token for what its NF type may do, or an RFC 6749 error."""
        try:
            check_consumer(request, context.peer, self._registry.get(context.peer.instance_id))
            scope = grant_scope(request, self._producers(request))
        except ProblemError as problem:
            self._telemetry.log(
                "token-refused",
                level="warning",
                consumer=context.peer.instance_id,
                nf_type=request.nf_type,
                target=request.target_nf_type,
                scope=request.scope[:200],
                cause=problem.access_token_error,
            )
            raise
        signed = sign_token(
            self._keys.current,
            issuer=self._issuer,
            request=request,
            scope=scope,
            lifetime_s=self._lifetime,
            now=self._clock(),
        )
        return nrf_oauth2_pb2.AccessTokenResponse(
            access_token=signed, token_type=BEARER, expires_in=self._lifetime, scope=scope
        )

    async def GetKeySet(  # noqa: N802 - the name in the contract
        self, _request: nrf_oauth2_pb2.KeySetRequest, _context: CallContext
    ) -> nrf_oauth2_pb2.KeySetResponse:
        """Return the public keys (TS 33.501 14.3.3)."""
        return nrf_oauth2_pb2.KeySetResponse(jwks_json=self._keys.jwks())

    def _producers(self, request: nrf_oauth2_pb2.AccessTokenRequest) -> list[nrf_nfm_pb2.NfProfile]:
        if not request.target_nf_instance_id:
            return []
        profile = self._registry.get(request.target_nf_instance_id)
        if profile is None or (request.target_nf_type and request.target_nf_type not in profile.nf_types):
            raise token_error("invalid_request", "no such producer")
        if not request.target_nf_type:
            request.target_nf_type = profile.nf_types[0]
        return [profile]


def _own(instance_id: str, context: CallContext) -> None:
    if instance_id != context.peer.instance_id and OPERATOR not in context.peer.nf_types:
        raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "another NF's profile")
