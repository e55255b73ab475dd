"""A call in progress that a test changes through ``imslab ue``, and a UE that treats calls in another way for a while."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tests.e2e.lab import COMMAND, ROOT, Lab


class LiveCall:
    """A call placed by a process of its own; hung up by the caller at the end of the block unless it is over."""

    def __init__(self, lab: Lab, caller: str, callee: str, *arguments: str, state: str = "established") -> None:
        self._lab, self._state = lab, state
        self.caller, self.callee = caller, callee
        self.call_id = ""
        self._before = {entry["call_id"] for entry in self.calls(caller)}
        command = ["call", caller, callee, "--seconds", "60", *arguments, "--json", "--state", str(lab.state)]
        self._process = subprocess.Popen(
            [*COMMAND, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._result: dict[str, Any] | None = None

    def calls(self, user: str) -> list[dict[str, Any]]:
        status: dict[str, Any] = json.loads(self._lab.run("ue", "status", user).stdout)
        calls: list[dict[str, Any]] = status["calls"]
        return calls

    def __enter__(self) -> Self:
        self.wait_for(self._state)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._result is None:
            if self._process.poll() is None and self.call_id:
                self._lab.run("ue", "hang-up", self.caller, self.call_id, check=False)
            elif self._process.poll() is None:
                self._process.terminate()
            self.result()

    def wait_for(self, state: str) -> None:
        """Until the caller's UE says the call is in `state` (or past it)."""
        order = ["calling", "ringing", "early", "established"]

        def reached() -> bool:
            if self._process.poll() is not None:  # a short call may be over before a slow machine has looked
                assert (state, self.result()["result"]) == ("established", "established"), self.result()
                self.call_id = self.result()["call_id"]
                return True
            for entry in self.calls(self.caller):
                if entry["call_id"] not in self._before and entry["state"] in order:
                    self.call_id = entry["call_id"]
                    return order.index(entry["state"]) >= order.index(state)
            return False

        self._lab.wait(reached, 20, f"the call did not become {state}")

    def modify(self, user: str, action: str, *options: str) -> int:
        """Change the call from one side; returns the SIP status."""
        arguments = [word for option in options for word in ("--option", option)]
        answer = json.loads(self._lab.run("ue", "modify", user, self.call_id, action, *arguments).stdout)
        return int(answer["sip_status"])

    def hang_up(self, user: str) -> int:
        return int(json.loads(self._lab.run("ue", "hang-up", user, self.call_id).stdout)["sip_status"])

    def result(self) -> dict[str, Any]:
        """The verdict of ``imslab call``, once the call is over."""
        if self._result is None:
            output, errors = self._process.communicate(timeout=70)
            self._result = json.loads(output) if output.strip() else {"result": "", "reason": errors}
        return self._result

    def talk(self, seconds: float) -> None:
        """Let media run for a while: until the process of the call has had that long, or ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return


@contextmanager
def behaving(lab: Lab, user: str, **options: object) -> Iterator[None]:
    """`user` treats incoming calls so for the length of the block."""
    before: dict[str, str] = json.loads(lab.run("ue", "behave", user).stdout)
    lab.run("ue", "behave", user, *(f"{name}={value}" for name, value in options.items()))
    try:
        yield
    finally:
        lab.run("ue", "behave", user, *(f"{name}={before[name]}" for name in options))
