"""NodeCapture: the messages of a node for the lab's operator, offered by every network function."""

from __future__ import annotations

from collections.abc import AsyncIterator

from protos import capture_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from sba.tap import Tap, TooManyReadersError


class NodeCapture:
    """Implements ``ims.capture.v1.NodeCapture``; keys only where the lab's switch allows them."""

    service = capture_pb2.DESCRIPTOR.services_by_name["NodeCapture"]

    def __init__(self, tap: Tap, *, key_export: bool) -> None:
        self._tap = tap
        self._key_export = key_export

    async def Capture(  # noqa: N802 - the contract's name
        self, request: capture_pb2.NodeCaptureRequest, _context: CallContext
    ) -> AsyncIterator[capture_pb2.NodeCaptureItem]:
        """Yield ``started``, then messages as they pass and how many the reader missed.

        Raises :class:`ProblemError` 403 when keys are asked for and the lab exports none, 429 for one capture too many.
        """
        if request.with_keys and not self._key_export:
            raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "key export is switched off in this lab")
        try:
            with self._tap.reading(request.kinds, with_keys=request.with_keys) as reader:
                yield capture_pb2.NodeCaptureItem(started=True)
                async for item in reader.items():
                    yield item
        except TooManyReadersError:
            raise ProblemError(429, "NF_CONGESTION_RISK", "the node is captured as often as it may be") from None
