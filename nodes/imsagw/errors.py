"""Errors of Iq: H.248-style codes as causes, each with its gRPC status (the mapping is ours)."""

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from media.relay import BadStreamConfigError, KeyReusedError, PortsExhaustedError, RelayError, RelayUnavailableError
from sba.errors import ProblemError

_CODES: Mapping[str, tuple[int, grpc.StatusCode]] = MappingProxyType(
    {
        "411": (404, grpc.StatusCode.NOT_FOUND),
        "430": (404, grpc.StatusCode.NOT_FOUND),
        "434": (503, grpc.StatusCode.RESOURCE_EXHAUSTED),
        "442": (400, grpc.StatusCode.INVALID_ARGUMENT),
        "445": (501, grpc.StatusCode.UNIMPLEMENTED),
        "449": (400, grpc.StatusCode.INVALID_ARGUMENT),
        "500": (500, grpc.StatusCode.INTERNAL),
        "502": (503, grpc.StatusCode.UNAVAILABLE),
        "510": (503, grpc.StatusCode.RESOURCE_EXHAUSTED),
        "X01": (400, grpc.StatusCode.INVALID_ARGUMENT),
    }
)


UNAVAILABLE = "IQ_502"
"""Cause when the gateway goes down or its packet loop is away."""
SUITE = "crypto_suite"
KEY = "crypto_key"
"""Names of invalid parameters by which the IMS-ALG tells its user why a stream cannot be protected."""


def iq_error(code: str, text: str, *, stream: int = 0, param: str = "") -> ProblemError:
    """Make the error of an H.248-style `code`; `text` names what is wrong, never a key; `param` where it is."""
    status, grpc_status = _CODES[code]
    params = [("stream_id", str(stream))] if stream else []
    if param:
        params.append((param, text))
    return ProblemError(status, f"IQ_{code}", text, invalid_params=params, code=grpc_status)


def of_relay(error: RelayError) -> ProblemError:
    """Translate what the packet loop says."""
    if isinstance(error, PortsExhaustedError):
        return iq_error("510", str(error))
    if isinstance(error, RelayUnavailableError):
        return iq_error("502", str(error))
    if isinstance(error, (BadStreamConfigError, KeyReusedError)):
        return iq_error("449", str(error))
    return iq_error("500", str(error))
