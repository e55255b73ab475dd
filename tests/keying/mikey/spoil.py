"""Messages with right MACs and wrong contents, for the attacks of those who hold keys of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.forge import Part
from tests.keying.mikey.stage import ALICE, BOB, KMS, Played, Stage, credential

Edit = Callable[[list[Part]], list[Part]]
LATER = forge.t(bytes.fromhex("ee5bc00000000000"))


def twice(number: int, role: int | None = None) -> Edit:
    """The payload of that number (and role), and a copy of it right behind."""
    return lambda parts: [part for part in parts for _ in range(2 if _is(part, number, role) else 1)]


def without(number: int, role: int | None = None) -> Edit:
    return lambda parts: [part for part in parts if not _is(part, number, role)]


def instead(number: int, part: Part, role: int | None = None) -> Edit:
    return lambda parts: [part if _is(old, number, role) else old for old in parts]


def before_v(*extra: Part) -> Edit:
    return lambda parts: [*parts[:-1], *extra, parts[-1]]


def _is(part: Part, number: int, role: int | None) -> bool:
    return part[0] == number and (role is None or part[1][0] == role)


SHORT_POLICY = [forge.idr(3, KMS.data), forge.idr(1, ALICE.data), forge.idr(2, BOB.data)]


def played(**stage: Any) -> tuple[Stage, Played]:
    staged = Stage(**stage)
    done = Played(key=staged.key)
    done.request = staged.request()
    done.ticket = done.request.receive(staged.grant(done.request.message).response, staged.tick())
    done.initiator = staged.initiate(done.ticket)
    return staged, done


def respelt_transfer(done: Played, edit: Edit = list, who: bytes = ALICE.data + BOB.data, **changes: Any) -> bytes:
    mpkr = done.ticket.mpkr.key.reveal() if done.ticket.mpkr else None
    given: dict[str, Any] = {"behind": who, "mpkr": mpkr} | changes
    return forge.respell(done.initiator.message, done.ticket.mpki.key.reveal(), edit, **given)


def repolicied(flags: str | None = None, parts: list[Part] | None = None, **fields: Any) -> Edit:
    def edit(whole: list[Part]) -> list[Part]:
        place = next(place for place, part in enumerate(whole) if part[0] == 17)
        _, data, inserted = forge.parse_ticket(whole[place][1])
        whole[place] = forge.ticket(forge.policy(parts or SHORT_POLICY, flags or "DEFGHINO", **fields), data, inserted)
        return whole

    return edit


def respelt_resolve(stage: Stage, done: Played, edit: Edit = list, **header: Any) -> bytes:
    responder = Stage(wish=stage.wish).respond(done.initiator.message)
    asked = stage.ask(responder).message
    return forge.respell(asked, credential("bob").key.reveal(), edit, behind=BOB.data + KMS.data, **header)
