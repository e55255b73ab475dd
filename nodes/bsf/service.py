"""The service of the BSF for NAFs: Nbsf_GBA (Zn of TS 33.220, TS 29.309)."""

from __future__ import annotations

from collections.abc import Callable

from nodes.bsf.bootstraps import Bootstraps
from protos import bsf_gba_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from signalling.aka.gba import GbaFormatError, naf_key, split_naf_id

Given = Callable[[str, str, str, str], None]
"""Told of every decision: outcome, reason, NAF, private identity."""


class GbaService:
    """Nbsf_GBA. `nafs` are the FQDNs that get keys, empty for all within `home_domains`; `protocols` those of Ua."""

    service = bsf_gba_pb2.DESCRIPTOR.services_by_name["NbsfGba"]

    def __init__(
        self,
        bootstraps: Bootstraps,
        *,
        home_domains: tuple[str, ...],
        nafs: tuple[str, ...],
        protocols: tuple[str, ...],
        record: Given,
    ) -> None:
        self._bootstraps = bootstraps
        self._home_domains = home_domains
        self._nafs = frozenset(naf.lower() for naf in nafs)
        self._protocols = frozenset(bytes.fromhex(protocol) for protocol in protocols)
        self._record = record

    async def GetBootstrappingInfo(  # noqa: N802 - named by the contract
        self, request: bsf_gba_pb2.BootstrappingInfoRequest, context: CallContext
    ) -> bsf_gba_pb2.BootstrappingInfoResponse:
        """The key a UE shares with the calling NAF (TS 33.220 4.5.3).

        Raises ``ProblemError``: 400 for a malformed NAF_Id, 403 when it names somebody else than the caller, a NAF that
        gets no keys or a protocol without keys, 404 for a B-TID that is unknown or has expired.
        """
        try:
            naf, protocol = split_naf_id(request.naf_id)
        except GbaFormatError:
            self._record("refused", "naf-id", "", "")
            raise ProblemError(400, "MANDATORY_IE_INCORRECT", "naf_id is malformed") from None
        if naf not in {name.lower() for name in context.peer.dns_names}:
            self._record("refused", "naf-of-another", naf, "")
            raise ProblemError(403, "NAF_NOT_AUTHORIZED", "the certificate does not show the name of this NAF")
        if not self._is_served(naf):
            self._record("refused", "naf-not-served", naf, "")
            raise ProblemError(403, "NAF_NOT_AUTHORIZED", "this NAF gets no keys here")
        if protocol not in self._protocols:
            self._record("refused", "ua-protocol", naf, "")
            raise ProblemError(403, "NAF_NOT_AUTHORIZED", "no keys are given out for this Ua security protocol")
        found = self._bootstraps.find(request.btid)
        if found is None:
            self._record("refused", "btid", naf, "")
            raise ProblemError(404, "CONTEXT_NOT_FOUND", "the B-TID is unknown or has expired")
        self._record("given", "", naf, found.impi)
        return bsf_gba_pb2.BootstrappingInfoResponse(
            ks_naf=naf_key(found.ks, found.btid.rand, found.impi, request.naf_id).reveal(),
            impi=found.impi,
            public_identities=found.public_identities,
            bootstrapped_at=found.at,
            expires_at=found.expires_at,
        )

    def _is_served(self, naf: str) -> bool:
        if self._nafs:
            return naf in self._nafs
        return any(naf.endswith(f".{domain}") for domain in self._home_domains)
