"""Captures for the command line: octets of a pcapng file over the control socket."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from lab.capture import KINDS, CaptureOrder, LiveCapture, lab_ports
from lab.capture_merge import MEDIA
from lab.control import ControlError, Json, Operation, Params, Progress
from lab.labfile import LabFile
from lab.operator import Operator

CHUNK = 1 << 20
"""Octets of a file in one line of the control socket."""
NO_KEYS = "this lab never exports keys (key_export: never in its description)"


class CaptureDesk:
    """Answers ``capture`` and ``capture-ports``."""

    def __init__(self, operator: Operator, lab: LabFile) -> None:
        self._operator = operator
        self._lab = lab

    def operations(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {"capture": self._capture, "capture-ports": self._ports}

    async def _ports(self, params: Params, progress: Progress) -> Json:
        del params, progress
        return (await lab_ports(self._operator, self._lab.names)).document()

    async def _capture(self, params: Params, progress: Progress) -> Json:
        order = order_of(params)
        if order.with_keys and not self._lab.key_export:
            raise ControlError(NO_KEYS, "usage")
        capture = LiveCapture(self._operator, order, self._lab.names, said=f"imslab capture of {self._lab.name}")

        async def emit(octets: bytes) -> None:
            for at in range(0, len(octets), CHUNK):
                await progress({"octets": base64.b64encode(octets[at : at + CHUNK]).decode("ascii")})

        async def tell(news: str, node: str) -> None:
            await progress({news: node})

        try:
            await capture.start()
            begun: Params = {"nodes": [*capture.nodes], "absent": {**capture.absent}}
            await progress({**begun, "ports": capture.ports.document()})
            return await capture.run(emit, tell)
        except ConnectionError:  # whoever asked has gone
            return None
        finally:
            await capture.stop()


def order_of(params: Params) -> CaptureOrder:
    """Read what is to be captured; raises ``ControlError`` of kind usage."""

    def texts(name: str) -> tuple[str, ...]:
        value = params.get(name)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    def number(name: str) -> float:
        value = params.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ControlError(f"{name} is no number from 0 up", "usage")
        return float(value)

    kinds = texts("kinds")
    unknown = [kind for kind in kinds if kind not in (*KINDS, MEDIA)]
    if unknown:
        raise ControlError(f"there is no {unknown[0]} to capture; there are {', '.join((*KINDS, MEDIA))}", "usage")
    return CaptureOrder(
        nodes=texts("nodes"),
        kinds=kinds,
        call=str(params.get("call", "")),
        seconds=number("seconds"),
        most_octets=int(number("most_octets")),
        with_keys=params.get("with_keys") is True,
    )
