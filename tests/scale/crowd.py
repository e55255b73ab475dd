"""A lab with several instances and many callers, and calls that go on while a test breaks things."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from lab.control import ControlError, Params, ask
from tests.e2e.lab import Lab

CALLERS = tuple(f"u{number}" for number in range(1, 7))
"""Users of access-a, each with a UE."""
SCALED = {"pcscf-a": 3, "imsagw-a": 3, "kms": 3}


def crowded(description: dict[str, Any]) -> None:
    """Put the callers into a lab description, and several instances on their side."""
    description["instances"] = dict(SCALED)
    description["users"] = [user for user in description["users"] if user["name"] in ("bob", "carol")]
    for number, name in enumerate(CALLERS, 11):
        description["users"].append(
            {
                "name": name,
                "domain": "ims.test",
                "impi": f"0010100000000{number}@ims.test",
                "tel": f"+15550{number}0",
                "access": "access-a",
                "announces": ["sdes-srtp"],
            }
        )


class Crowd:
    """The lab, driven through its control socket: many calls at once without as many command lines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def ask(self, op: str, **params: Any) -> Any:
        return ask(self.lab.state / "control.sock", op, params)

    def register(self) -> None:
        """Register everybody, one after the other."""
        for name in (*CALLERS, "bob", "carol"):
            assert self.ask("register", user=name, media_security="", expires=0)["registered"], name

    def again(self, name: str) -> None:
        """Have a UE go and register anew: at the P-CSCF whose turn it is."""
        self.ask("deregister", user=name)
        assert self.ask("register", user=name, media_security="", expires=0)["registered"], name

    def serving(self, name: str) -> str:
        """The P-CSCF at which a UE is registered; empty while it is at none."""
        status = self.ask("ue", user=name)
        return str(status["pcscf"]) if status["registered"] else ""

    def settled(self, name: str, pcscf: str) -> None:
        """Until a UE has registered at a P-CSCF; one that is just about to counts as registered as well."""
        self.lab.wait(lambda: self.serving(name) == pcscf, 30, f"{name} does not come to {pcscf}")
        assert self.ask("register", user=name, media_security="", expires=0)[
            "registered"
        ]  # waits for the one under way

    def call(self, caller: str, callee: str = "bob", **more: Any) -> OngoingCall:
        """Begin a call; ``media="off"`` for signalling alone."""
        return OngoingCall(self, caller, callee, more)

    def decisions(self, kms: str) -> int:
        """Requests that an instance of the KMS granted."""
        log = self.lab.state / "logs" / f"{kms}.log"
        return sum('"event":"kms-granted"' in line for line in log.read_text().splitlines())


class OngoingCall:
    """One call from another thread; ``result`` is its verdict, or what kept it from being tried."""

    def __init__(self, crowd: Crowd, caller: str, callee: str, more: dict[str, Any]) -> None:
        self.caller = caller
        self.began = time.monotonic()
        self.result: dict[str, Any] = {}
        self.states: list[str] = []
        self.call_id = ""
        self._crowd = crowd
        self._order = {"from": caller, "to": callee, "security": "", "seconds": 2.0, **more}
        media = self._order.pop("media", "on")
        self._order["options"] = {"media": media, **self._order.get("options", {})}
        self._thread = threading.Thread(target=self._place)
        self._thread.start()

    def _place(self) -> None:
        path = self._crowd.lab.state / "control.sock"
        try:
            self.result = ask(path, "call", self._order, self._note)  # type: ignore[assignment]
        except ControlError as error:
            self.result = {"result": "failed", "sip_status": 0, "reason": str(error), "legs": []}

    def _note(self, item: Params) -> None:
        self.states.append(str(item["state"]))
        self.call_id = self.call_id or str(item.get("call_id") or "")

    @property
    def established(self) -> bool:
        """Whether it was answered."""
        return "established" in self.states

    @property
    def over(self) -> bool:
        """Whether its end is known."""
        return not self._thread.is_alive()

    def join(self) -> dict[str, Any]:
        self._thread.join(90)
        assert self.over, f"the call of {self.caller} does not end: {self.states}"
        return self.result

    @property
    def gateway(self) -> str:
        """The gateway of access-a that carried its media."""
        return next((leg["node"] for leg in self.result["legs"] if leg["node"].startswith("imsagw-a")), "")

    def __repr__(self) -> str:
        return f"{self.caller}: {self.states} {json.dumps({k: v for k, v in self.result.items() if k != 'legs'})}"
