"""Errors of a service operation, on both sides of the wire.

A handler raises :class:`ProblemError`; the server turns it into a gRPC status that carries a
``ProblemDetails`` (TS 29.500 5.2.7 causes; the mapping to gRPC is a testbed choice); the client
raises it again as :class:`RemoteProblem`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from protos import common_pb2

DETAILS_KEY = "grpc-status-details-bin"
CHALLENGE_KEY = "www-authenticate"

_BY_STATUS: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    411: grpc.StatusCode.INVALID_ARGUMENT,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_BY_CAUSE: Mapping[str, grpc.StatusCode] = {
    "NF_DISCOVERY_FAILURE": grpc.StatusCode.FAILED_PRECONDITION,
    "RESOURCE_CONTEXT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESOURCE_URI_STRUCTURE_NOT_FOUND": grpc.StatusCode.UNIMPLEMENTED,
    "INSUFFICIENT_RESOURCES": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_TITLES: Mapping[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class SbaError(Exception):
    """Root of every error this package raises."""


class ConfigurationError(SbaError):
    """The lab description or the files it names cannot be used."""


class PortError(SbaError, OSError):
    """A node cannot listen on the address that it is to be reached at."""


class IdentityError(SbaError):
    """A certificate does not state an NF identity (TS 33.310 6.1.3c, assumed profile)."""


class StoreError(SbaError):
    """The store refused an operation, or a sealed value does not open."""


class StoreUnavailableError(StoreError):
    """The database of the store does not answer; what was asked for may be asked again."""


class MigrationError(StoreError):
    """The tables of the store are not, and cannot be made, those this release works with."""


class ContractError(SbaError):
    """A service descriptor lacks its authorization options or an implementation."""


class ProblemError(SbaError):
    """What a handler raises to refuse a request.

    ``status`` is the HTTP status the same error would have, ``cause`` an application error of
    TS 29.500 table 5.2.7.2-1, ``invalid_params`` pairs of parameter and reason. ``code`` overrides
    the gRPC status derived from both. ``access_token_error`` is an RFC 6749 or RFC 6750 error code.
    """

    def __init__(
        self,
        status: int = 500,
        cause: str = "",
        detail: str = "",
        *,
        title: str = "",
        invalid_params: Iterable[tuple[str, str]] = (),
        access_token_error: str = "",
        code: grpc.StatusCode | None = None,
        challenge: str = "",
    ) -> None:
        super().__init__(f"{status} {cause}: {detail}" if detail else f"{status} {cause}")
        self.status = status
        self.cause = cause
        self.detail = detail
        self.title = title or _TITLES.get(status, "")
        self.invalid_params = tuple(invalid_params)
        self.access_token_error = access_token_error
        self.challenge = challenge
        self.code: grpc.StatusCode = code or _BY_CAUSE.get(cause) or _BY_STATUS.get(status, grpc.StatusCode.UNKNOWN)

    def details(self) -> common_pb2.ProblemDetails:
        """Return the error as the message that travels with the status."""
        return common_pb2.ProblemDetails(
            title=self.title,
            status=self.status,
            detail=self.detail,
            cause=self.cause,
            access_token_error=self.access_token_error,
            invalid_params=[common_pb2.InvalidParam(param=name, reason=why) for name, why in self.invalid_params],
        )

    def status_message(self) -> str:
        """Return the short text of the gRPC status."""
        return self.cause or self.access_token_error or self.title

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the trailers that carry the ProblemDetails and, for 401, the challenge (RFC 6750 3)."""
        packed = any_pb2.Any()
        packed.Pack(self.details())
        rich = status_pb2.Status(code=self.code.value[0], message=self.status_message(), details=[packed])
        trailers: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, rich.SerializeToString()),)
        if self.challenge:
            trailers += ((CHALLENGE_KEY, self.challenge),)
        return trailers


class RemoteProblem(SbaError):  # noqa: N818 - what the producer sent is a problem (RFC 9457)
    """A call to another NF failed: refused by it, or never answered.

    ``code`` is the gRPC status, ``problem`` the ProblemDetails when the producer sent one,
    ``instance`` the NF instance id that answered or was tried last (empty when none was found),
    ``challenge`` the ``www-authenticate`` trailer.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        problem: common_pb2.ProblemDetails | None = None,
        *,
        message: str = "",
        instance: str = "",
        method: str = "",
        challenge: str = "",
    ) -> None:
        text = problem.cause or problem.access_token_error if problem is not None else message
        super().__init__(f"{method or 'call'}: {code.name} {text}".rstrip())
        self.code = code
        self.problem = problem
        self.message = message
        self.instance = instance
        self.method = method
        self.challenge = challenge

    @property
    def cause(self) -> str:
        """Return the application error of the producer, empty when it gave none."""
        return self.problem.cause if self.problem is not None else ""

    @classmethod
    def from_rpc_error(cls, error: grpc.aio.AioRpcError, *, instance: str = "", method: str = "") -> RemoteProblem:
        """Read status, ProblemDetails and challenge out of a gRPC error."""
        problem: common_pb2.ProblemDetails | None = None
        challenge = ""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY and isinstance(value, bytes):
                problem = _unpack(value)
            elif key == CHALLENGE_KEY:
                challenge = value if isinstance(value, str) else value.decode("ascii", "replace")
        return cls(
            error.code(),
            problem,
            message=error.details() or "",
            instance=instance,
            method=method,
            challenge=challenge,
        )


def _unpack(value: bytes) -> common_pb2.ProblemDetails | None:
    try:
        rich = status_pb2.Status.FromString(value)
        for detail in rich.details:
            problem = common_pb2.ProblemDetails()
            if detail.Is(common_pb2.ProblemDetails.DESCRIPTOR) and detail.Unpack(problem):
                return problem
    except DecodeError:
        return None
    return None
