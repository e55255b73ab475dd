"""A UE whose P-CSCF is gone registers at another; one with calls waits a while for the one that holds them (T9)."""

import asyncio
import contextlib

import pytest

from nodes.ue.network import NotFound, Pcscf
from nodes.ue.registration import State
from sba.testing import async_test
from signalling.sip.stack import Flow, make_response
from tests.ue.fake_pcscf import IP, FakePcscf, Site, until

pytestmark = pytest.mark.attack("T9")


class Edges:
    """P-CSCFs by name, as the NRF would name them: the suspects last."""

    def __init__(self, **pcscfs):
        self.pcscfs = pcscfs
        self.hidden = set()
        self.suspects = []
        self.asked = 0

    def address(self, name):
        return Pcscf("TLS", IP, self.pcscfs[name].port, "pcscf.ims.test", name, name)

    def failed(self, instance_id):
        self.suspects.append(instance_id)

    def answered(self, instance_id):
        self.suspects = [name for name in self.suspects if name != instance_id]


class Network:
    def __init__(self, edges):
        self.edges = edges
        self.failed, self.answered = edges.failed, edges.answered

    async def pcscfs(self):
        self.edges.asked += 1
        names = [name for name in self.edges.pcscfs if name not in self.edges.hidden]
        if not names:
            raise NotFound("no P-CSCF of access-a speaks TLS")
        return [self.edges.address(name) for name in sorted(names, key=lambda name: name in self.edges.suspects)]


@contextlib.asynccontextmanager
async def two(folder, **settings):
    """A UE that finds two P-CSCFs."""
    async with Site(folder, **settings) as site:
        second = FakePcscf()
        await second.open(folder / "pki")
        second.vectors = site.pcscf.vectors  # one home network behind both
        edges = Edges(first=site.pcscf, second=second)
        site.ue.registrar._network = Network(edges)
        try:
            yield site, second, edges
        finally:
            await second.stack.stop()


def pcscf(site):
    return site.ue.gm.pcscf.name


@async_test
async def test_a_ue_registers_at_the_first_that_is_named(tmp_path):
    async with two(tmp_path) as (site, second, _):
        assert (await site.ue.register()).state is State.REG
        assert (pcscf(site), len(second.requests)) == ("first", 0)


@pytest.mark.clause("TS 24.229", "5.1.1")
@async_test
async def test_one_that_refuses_connections_is_passed_over_at_once(tmp_path):
    async with two(tmp_path) as (site, second, edges):
        await site.pcscf.stack.stop()
        assert (await site.ue.register()).state is State.REG
        assert pcscf(site) == "second"
        assert edges.suspects == ["first"]
        assert len(second.of("REGISTER")) == 2, "a whole registration of its own"


@pytest.mark.parametrize("status", [305, 503])
@async_test
async def test_one_that_says_not_here_is_passed_over(tmp_path, status):
    async with two(tmp_path) as (site, _, _edges):
        site.pcscf.script = [lambda _pcscf, request: make_response(request, status)]
        assert (await site.ue.register()).state is State.REG
        assert pcscf(site) == "second"


@pytest.mark.parametrize(("status", "headers"), [(504, []), (480, []), (503, [("Retry-After", "60")]), (403, [])])
@async_test
async def test_what_the_core_says_is_not_asked_again_elsewhere(tmp_path, status, headers):
    async with two(tmp_path) as (site, second, _):
        site.pcscf.script = [lambda _pcscf, request: make_response(request, status, headers=headers)]
        registration = await site.ue.register()
        assert registration.state is not State.REG
        assert registration.status == status
        assert second.requests == []


@async_test
async def test_one_that_does_not_answer_is_given_up_in_time(tmp_path):
    async with two(tmp_path, next_pcscf_s=0.3) as (site, _, _edges):
        site.pcscf.request_received = lambda txn: site.pcscf.requests.append(txn.request)
        async with asyncio.timeout(5):
            assert (await site.ue.register()).state is State.REG
        assert pcscf(site) == "second"
        assert len(site.pcscf.requests) >= 1


@async_test
async def test_when_none_answers_the_reason_of_the_last_is_told(tmp_path):
    async with two(tmp_path) as (site, second, edges):
        await site.pcscf.stack.stop()
        await second.stack.stop()
        registration = await site.ue.register()
        assert registration.state is State.IDLE
        assert registration.reason.startswith("transport: ")
        edges.hidden = {"first", "second"}
        registration = await site.ue.register()
        assert registration.reason == "no P-CSCF of access-a speaks TLS"


@pytest.mark.clause("TS 24.229", "DR-5")
@async_test
async def test_the_loss_of_the_connection_leads_to_another_p_cscf(tmp_path):
    async with two(tmp_path) as (site, second, _):
        await site.ue.register()
        await site.pcscf.stack.stop()
        await until(lambda: pcscf(site) == "second" and site.ue.registrar.registration.state is State.REG)
        assert second.of("REGISTER")[-1].headers.get("Security-Verify") is not None, "agreed anew, with the new one"


@async_test
async def test_a_refresh_that_fails_moves_the_registration(tmp_path):
    async with two(tmp_path) as (site, _, edges):
        await site.ue.register()
        edges.hidden = {"first"}
        site.pcscf.script = [lambda _pcscf, request: make_response(request, 503)]
        assert (await site.ue.register()).state is State.REG
        assert pcscf(site) == "second"


@async_test
async def test_with_a_call_in_progress_the_ue_waits_for_the_p_cscf_that_holds_it(tmp_path):
    async with two(tmp_path, anchor_s=30.0) as (site, second, edges):
        await site.ue.register()
        site.ue.registrar.busy = lambda: True
        edges.hidden = {"first"}  # it is being started again
        site.pcscf.cut()
        await until(lambda: len(site.pcscf.of("REGISTER")) == 4)
        await until(lambda: site.ue.registrar.registration.state is State.REG)
        assert pcscf(site) == "first"
        assert second.requests == []


@async_test
async def test_it_does_not_wait_longer_than_its_patience(tmp_path):
    async with two(tmp_path, anchor_s=0.2) as (site, _, _edges):
        await site.ue.register()
        site.ue.registrar.busy = lambda: True
        await site.pcscf.stack.stop()
        await until(lambda: pcscf(site) == "second" and site.ue.registrar.registration.state is State.REG)


@async_test
async def test_requests_of_the_p_cscf_before_are_still_taken_and_of_strangers_are_not(tmp_path):
    async with two(tmp_path) as (site, _, _edges):
        gm = site.ue.gm
        for number in range(2, 13):
            gm.use(Pcscf("TLS", f"127.0.0.{number}", 5061))

        def flow(host):
            return Flow("TLS", (IP, 5060), (host, 5061), "f", "gm")

        assert gm.is_from_pcscf(flow("127.0.0.12"))
        assert gm.is_from_pcscf(flow("127.0.0.5"))
        assert not gm.is_from_pcscf(flow("127.0.0.4")), "only so many are remembered"
        assert not gm.is_from_pcscf(flow("127.0.0.99"))
