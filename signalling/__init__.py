"""Signalling: SIP, SDP, IMS AKA and security agreement, free of I/O where they can be.

The names in ``__all__`` are the stable interface for network functions of other distributions (docs/api.md); everything
else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signalling.isc import Refusal, ServedUser, SessionCase, asserted_identities, dialled, identity_of, served_user
    from signalling.sdp import MediaDescription, SdpError, SessionDescription, parse_sdp
    from signalling.sip.flow import Flow, Hop, MessageObserver, RequestHandler, TransactionFailure
    from signalling.sip.grammar import GrammarError
    from signalling.sip.headers import NameAddr, parse_name_addr
    from signalling.sip.message import Headers, SipParseError, SipRequest, SipResponse, parse_message
    from signalling.sip.proxy import ProxyCore
    from signalling.sip.stack import SipStack, make_response
    from signalling.sip.timers import TimerConfig
    from signalling.sip.txn import ClientTxn, ServerTxn
    from signalling.sip.uri import SipUri, TelUri, UriError, parse_uri

__all__ = [
    "ClientTxn",
    "Flow",
    "GrammarError",
    "Headers",
    "Hop",
    "MediaDescription",
    "MessageObserver",
    "NameAddr",
    "ProxyCore",
    "Refusal",
    "RequestHandler",
    "SdpError",
    "ServedUser",
    "ServerTxn",
    "SessionCase",
    "SessionDescription",
    "SipParseError",
    "SipRequest",
    "SipResponse",
    "SipStack",
    "SipUri",
    "TelUri",
    "TimerConfig",
    "TransactionFailure",
    "UriError",
    "asserted_identities",
    "dialled",
    "identity_of",
    "make_response",
    "parse_message",
    "parse_name_addr",
    "parse_sdp",
    "parse_uri",
    "served_user",
]

_HOMES = {
    "ClientTxn": "signalling.sip.txn",
    "Flow": "signalling.sip.flow",
    "GrammarError": "signalling.sip.grammar",
    "Headers": "signalling.sip.message",
    "Hop": "signalling.sip.flow",
    "MediaDescription": "signalling.sdp",
    "MessageObserver": "signalling.sip.flow",
    "NameAddr": "signalling.sip.headers",
    "ProxyCore": "signalling.sip.proxy",
    "Refusal": "signalling.isc",
    "RequestHandler": "signalling.sip.flow",
    "SdpError": "signalling.sdp",
    "ServedUser": "signalling.isc",
    "ServerTxn": "signalling.sip.txn",
    "SessionCase": "signalling.isc",
    "SessionDescription": "signalling.sdp",
    "SipParseError": "signalling.sip.message",
    "SipRequest": "signalling.sip.message",
    "SipResponse": "signalling.sip.message",
    "SipStack": "signalling.sip.stack",
    "SipUri": "signalling.sip.uri",
    "TelUri": "signalling.sip.uri",
    "TimerConfig": "signalling.sip.timers",
    "TransactionFailure": "signalling.sip.flow",
    "UriError": "signalling.sip.uri",
    "asserted_identities": "signalling.isc",
    "dialled": "signalling.isc",
    "identity_of": "signalling.isc",
    "make_response": "signalling.sip.stack",
    "parse_message": "signalling.sip.message",
    "parse_name_addr": "signalling.sip.headers",
    "parse_sdp": "signalling.sdp",
    "parse_uri": "signalling.sip.uri",
    "served_user": "signalling.isc",
}
"""Where each public name is defined; it is loaded when it is asked for, so that a node loads what it uses."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        value = globals()[name] = getattr(import_module(home), name)
        return value
