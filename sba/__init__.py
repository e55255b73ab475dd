"""The network function framework: identity, mutual TLS, OAuth 2.0, NRF client, gRPC, tracing, store.

The names in ``__all__``, and those of :mod:`sba.testing` and :mod:`sba.runtime`, are the stable interface for network
functions of other distributions (docs/api.md); everything else may change.

Restricting the TLS 1.2 cipher suites to ECDHE with an AEAD (TS 33.210 6.2, assumed values) has to
happen before gRPC is loaded, so it happens here.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

os.environ.setdefault(
    "GRPC_SSL_CIPHER_SUITES",
    ":".join(
        (
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        )
    ),
)

if TYPE_CHECKING:
    from protos.nrf_nfm_pb2 import Endpoint, NfProfile
    from sba.access import CallContext
    from sba.client import SbiClient
    from sba.config import NodeEnvironment
    from sba.errors import ConfigurationError, ContractError, ProblemError, RemoteProblem, SbaError
    from sba.identity import NodeIdentity, PeerIdentity
    from sba.keyvalue import KeyValueTable
    from sba.nf import NetworkFunction, NodeSettings
    from sba.store import Store
    from sba.telemetry import Telemetry

__all__ = [
    "CallContext",
    "ConfigurationError",
    "ContractError",
    "Endpoint",
    "KeyValueTable",
    "NetworkFunction",
    "NfProfile",
    "NodeEnvironment",
    "NodeIdentity",
    "NodeSettings",
    "PeerIdentity",
    "ProblemError",
    "RemoteProblem",
    "SbaError",
    "SbiClient",
    "Store",
    "Telemetry",
]

_HOMES = {
    "CallContext": "sba.access",
    "ConfigurationError": "sba.errors",
    "ContractError": "sba.errors",
    "Endpoint": "protos.nrf_nfm_pb2",
    "KeyValueTable": "sba.keyvalue",
    "NetworkFunction": "sba.nf",
    "NfProfile": "protos.nrf_nfm_pb2",
    "NodeEnvironment": "sba.config",
    "NodeIdentity": "sba.identity",
    "NodeSettings": "sba.nf",
    "PeerIdentity": "sba.identity",
    "ProblemError": "sba.errors",
    "RemoteProblem": "sba.errors",
    "SbaError": "sba.errors",
    "SbiClient": "sba.client",
    "Store": "sba.store",
    "Telemetry": "sba.telemetry",
}
"""Where each public name is defined; it is loaded when it is asked for, so that a node loads what it uses."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        value = globals()[name] = getattr(import_module(home), name)
        return value
