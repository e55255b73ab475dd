"""Application servers by name: the NRF knows where they are (it stands in for the DNS of TS 24.229 5.4.3.2)."""

from __future__ import annotations

from ipaddress import ip_address

from nodes.cscf.neighbours import Discoverer
from protos.nrf_nfm_pb2 import NfProfile
from sba.errors import RemoteProblem
from signalling.sip.grammar import format_host
from signalling.sip.uri import SipUri, UriError, parse_uri

AS = "IMS_AS"
ISC = "isc"
"""Role of ISC sockets in NRF profiles."""


class ApplicationServers:
    """Finds the ISC socket of the application server that a filter criterion names."""

    def __init__(self, sbi: Discoverer) -> None:
        self._sbi = sbi

    async def route_to(self, server_uri: str) -> str | None:
        """Return the URI to write as Route: as it is with an IP address in it, else that of the server of that name.

        None when no such server is registered, or the NRF cannot be asked.
        """
        try:
            uri = parse_uri(server_uri)
        except UriError:
            return None
        if not isinstance(uri, SipUri):
            return None
        if _is_address(uri.host):
            return server_uri if "lr" in uri.params else f"{server_uri};lr"
        try:
            found = await self._sbi.discover(AS)
        except RemoteProblem:
            return None
        return next((route for profile in found if (route := _route(profile, uri.host))), None)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _route(profile: NfProfile, name: str) -> str:
    """The URI of the ISC socket of a profile, empty unless the profile has that name."""
    if profile.fqdn.lower() != name.lower():
        return ""
    for endpoint in profile.endpoints:
        if endpoint.role == ISC:
            host = format_host(endpoint.host)
            return f"sip:{host}:{endpoint.port};transport={endpoint.transport.lower()};lr"
    return ""
