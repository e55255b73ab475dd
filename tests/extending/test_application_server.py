"""The base of application servers: what it lets through, what it refuses, and whom it believes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodes.application_server import ApplicationServer
from nodes.hss.provision import FilterCriterion, Trigger
from sba.testing import async_test
from signalling.isc import Refusal, ServedUser, SessionCase, served_user
from signalling.sip.flow import Hop
from signalling.sip.message import SipRequest, SipResponse
from tests.cscf.home import ALICE, BOB, Home, MwPeer, Phone, home_network, until
from tests.cscf.test_calls import registered


class Screen(ApplicationServer):
    """Does what the Subject of a request says."""

    async def open_node(self) -> None:
        self.asked: list[ServedUser] = []
        self.answers: list[int] = []
        self.go_on = asyncio.Event()
        self.waiting = False

    async def on_request(self, request: SipRequest, served: ServedUser) -> Refusal | None:
        self.asked.append(served)
        match request.headers.get("Subject"):
            case "refuse":
                return Refusal(603, "Not Today", (("Warning", '399 screen "screened"'),))
            case "fault":
                raise RuntimeError("a fault of the decision")
            case "wait":
                self.waiting = True
                await self.go_on.wait()
        request.headers.set("X-Screened", "yes")
        return None

    async def on_answer(self, request: SipRequest, response: SipResponse) -> None:
        self.answers.append(response.status)


class Watching(Screen):
    record_route = True

    async def on_dialog_request(self, request: SipRequest) -> Refusal | None:
        self.dialog = [*getattr(self, "dialog", []), request.method]
        return None


class Scene:
    """A home network, the server, and alice and bob, whose calls alice's profile leads through the server."""

    def __init__(self, home: Home, screen: Screen, alice: Phone, bob: Phone) -> None:
        self.home, self.screen, self.alice, self.bob = home, screen, alice, bob

    async def call(self, subject: str = "") -> SipResponse:
        return await self.alice.peer.stack.request(self.invite(subject), self.home.hop, role="mw")

    def invite(self, subject: str = "") -> SipRequest:
        headers = self.alice.originating(("Subject", subject))
        return self.alice.peer.request("INVITE", "sip:bob@ims.test", headers=headers)


@contextlib.asynccontextmanager
async def scene(
    folder: Path, *, cls: type[Screen] = Screen, transport: str = "tls", refuse: bool = False
) -> AsyncIterator[Scene]:
    trigger = Trigger(method="INVITE", session_case="orig")
    criterion = FilterCriterion(1, "sip:screen.ims.test", (trigger,), refuse)
    users = [replace(ALICE, filter_criteria=(criterion,)), BOB]
    options = {} if transport == "tls" else {"trusted_peers": ["127.0.0.1"]}
    async with home_network(folder, subscribers=users, transport=transport, **options) as home:
        screen = await home.lab.start("screen", "screen", {"isc_transport": transport}, cls=cls)
        alice, bob = await registered(home, *users)
        yield Scene(home, screen, alice, bob)


@pytest.mark.clause("TS 24.229", "5.7.3")
@pytest.mark.parametrize("transport", ["tls", "tcp"])
def test_a_request_is_refused_or_handed_back_altered(tmp_path: Path, transport: str) -> None:
    @async_test
    async def run() -> None:
        async with scene(tmp_path, transport=transport) as here:
            refused = await here.call("refuse")
            assert (refused.status, refused.reason) == (603, "Not Today")
            assert refused.headers.get("Warning") == '399 screen "screened"'
            assert here.bob.peer.received == []
            assert (await here.call()).status == 200
            [delivered] = here.bob.peer.received
            assert delivered.headers.get("X-Screened") == "yes"
            assert here.screen.asked == [ServedUser("sip:alice@ims.test", SessionCase.ORIGINATING)] * 2
            assert here.screen.answers == [200]

    return run()


@pytest.mark.parametrize(("refuse", "outcome"), [(False, 200), (True, 500)])
def test_a_fault_of_the_decision_is_a_failure_of_the_server(tmp_path: Path, outcome: int, *, refuse: bool) -> None:
    @async_test
    async def run() -> None:
        async with scene(tmp_path, refuse=refuse) as here:
            assert (await here.call("fault")).status == outcome
            assert (await here.call()).status == 200

    return run()


def test_a_cancel_ends_the_request_while_it_is_decided_and_after(tmp_path: Path) -> None:
    @async_test
    async def run() -> None:
        async with scene(tmp_path) as here:
            here.bob.peer.answers["INVITE"] = None
            for subject in ("wait", ""):
                ended = asyncio.get_running_loop().create_future()
                txn = here.alice.peer.stack.send(
                    here.invite(subject),
                    here.home.hop,
                    role="mw",
                    on_response=lambda response, ended=ended: response.status < 200 or ended.set_result(response),
                    on_failure=ended.set_exception,
                )
                await until(lambda: here.bob.peer.received or here.screen.waiting)
                txn.cancel()
                assert (await asyncio.wait_for(ended, 8)).status == 487
                here.screen.waiting = False
                here.screen.go_on.set()
            assert len(here.bob.peer.received) == 1
            assert len(here.bob.peer.cancelled) == 1

    return run()


def test_a_server_that_stays_on_the_way_sees_the_dialog(tmp_path: Path) -> None:
    @async_test
    async def run() -> None:
        async with scene(tmp_path, cls=Watching) as here:
            answer = await here.call()
            routes = list(reversed(answer.headers.values("Record-Route")))
            bye = here.alice.peer.request("BYE", here.bob.peer.uri, call_id=answer.call_id, cseq=2)
            bye.headers.set_values("Route", routes)
            bye.headers.set("From", answer.headers.get("From") or "")
            bye.headers.set("To", answer.headers.get("To") or "")
            ack = bye.copy()
            ack.method = "ACK"
            ack.headers.set("CSeq", "1 ACK")
            here.alice.peer.stack.send_ack(ack, here.home.hop, "mw")
            await here.bob.peer.until(lambda: here.bob.peer.acks)
            assert (await here.alice.peer.stack.request(bye, here.home.hop, role="mw")).status == 200
            assert here.screen.dialog == ["BYE"]
            assert [request.method for request in here.bob.peer.received] == ["INVITE", "BYE"]

    return run()


@pytest.mark.attack("T7")
def test_nobody_but_an_s_cscf_gets_through_and_only_back_to_one(tmp_path: Path) -> None:
    @async_test
    async def run() -> None:
        async with scene(tmp_path) as here:
            [endpoint] = here.screen.endpoints()
            hop = Hop("TLS", endpoint.host, endpoint.port)
            own = f"<sip:{endpoint.host}:{endpoint.port};transport=tls;lr>"
            back = f"<sip:127.0.0.1:{here.home.hop.port};transport=tls;lr>"
            served = "<sip:alice@ims.test>;sescase=orig;regstate=reg"
            elsewhere = "<sip:127.0.0.1:9;transport=tls;lr>"

            async def try_it(
                peer: MwPeer, routes: list[str], served: str = served, to: str | None = None
            ) -> tuple[int, str]:
                request = peer.request("INVITE", "sip:bob@ims.test", headers=[("P-Served-User", served)], to=to)
                request.headers.set_values("Route", routes)
                answer = await peer.stack.request(request, hop, role="mw")
                return answer.status, answer.reason

            edge = await here.home.peer("pcscf-y", nf_type="PCSCF")
            assert await try_it(edge, [own, back]) == (403, "Not Through An S-CSCF")
            other_server = await here.home.peer("as-y", nf_type="IMS_AS")
            assert await try_it(other_server, [own, back]) == (403, "Not Through An S-CSCF")
            core = await here.home.peer("cscf-y", nf_type="SCSCF")
            assert await try_it(core, [own]) == (403, "No Way Back")
            assert await try_it(core, [back, own]) == (403, "Route Does Not Name This Server")
            assert await try_it(core, [own, elsewhere]) == (403, "Route Does Not Lead Back")
            assert await try_it(core, [own, back], served="<sip:alice@ims.test>") == (400, "No Served User")
            assert await try_it(core, [own, back], to="<sip:bob@ims.test>;tag=1") == (481, "No Such Dialog Here")
            assert here.screen.asked == []
            here.home.lab.ca.revoke("cscf-y")
            assert await try_it(core, [own, back]) == (403, "Not Through An S-CSCF")

    return run()


@pytest.mark.clause("RFC 5502", "6")
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("<sip:a@x.test>;sescase=orig;regstate=reg", ServedUser("sip:a@x.test", SessionCase.ORIGINATING)),
        (
            "<sip:a@x.test>;sescase=TERM;regstate=unreg",
            ServedUser("sip:a@x.test", SessionCase.TERMINATING, registered=False),
        ),
        ("<sip:a@x.test>;sescase=both;regstate=reg", None),
        ("<sip:a@x.test>;sescase=orig", None),
        ("<sip:a@x.test>", None),
        ("<sip:a", None),
        (None, None),
    ],
)
def test_the_served_user_is_read_or_not_known(value: str | None, found: ServedUser | None) -> None:
    request = SipRequest("INVITE", "sip:b@x.test", [] if value is None else [("P-Served-User", value)])
    assert served_user(request) == found


@pytest.mark.parametrize("wrong", [{"status": 200}, {"status": 700}, {"status": 603, "reason": "x\r\nEvil: 1"}])
def test_a_refusal_is_a_final_answer_of_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no final answer|control character"):
        Refusal(**wrong)
