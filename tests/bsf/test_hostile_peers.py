"""BSFs of other domains and strangers on Ub against the users of this one (T5, T6, T7, T9)."""

import asyncio

import pytest

from nodes.https import HttpResponse
from protos import hss_gba_pb2
from sba.errors import RemoteProblem, StoreError
from sba.testing import async_test
from signalling.aka.digest import DigestCredentials
from tests.bsf.home import BSF, home
from tests.bsf.web import serving
from tests.cscf.home import ALICE

VECTOR = hss_gba_pb2.DESCRIPTOR.services_by_name["NhssGbaUeAuthentication"].methods_by_name["GenerateVector"]


@pytest.mark.attack("T6")
@async_test
async def test_a_bsf_of_another_domain_gets_no_vector_of_this_one_s_users(tmp_path):
    """It holds a valid certificate as a BSF; with CK, IK and RES it would be any network towards any card."""
    async with home(tmp_path, bsf=False) as it:
        rogue = await it.lab.client("BSF", "bsf-p")
        with pytest.raises(RemoteProblem) as error:
            await rogue.call(VECTOR, hss_gba_pb2.GbaVectorRequest(impi=ALICE.impi))
        assert error.value.problem.status == 403
        for impi in ("nobody@ims.test", "dave@ims.test"):
            with pytest.raises(RemoteProblem) as other:
                await rogue.call(VECTOR, hss_gba_pb2.GbaVectorRequest(impi=impi))
            assert other.value.cause == error.value.cause, "nor does it learn who is a user"


@pytest.mark.attack("T7")
@async_test
async def test_a_stranger_s_spellings_of_the_domain_leave_nothing_in_the_bsf(tmp_path):
    async with home(tmp_path) as it:
        known = it.bsf.sbi.discovery._entries
        await it.challenge()
        before = len(known)
        for number in range(8):
            realm = "".join(
                letter.upper() if number >> place & 1 else letter for place, letter in enumerate("ims.test")
            )
            response = await it.get(DigestCredentials(f"stranger@{realm}", BSF, "/"))
            assert response.status == 403
        assert len(known) == before


@pytest.mark.attack("T9")
@async_test
async def test_a_store_that_fails_once_does_not_end_the_removal_of_what_has_expired(tmp_path, monkeypatch):
    monkeypatch.setattr("nodes.bsf.node._PURGE_S", 0.01)
    calls, again = [], asyncio.Event()
    async with home(tmp_path) as it:

        async def purge():
            calls.append(1)
            if len(calls) == 1:
                raise StoreError("the disk is full")
            again.set()

        monkeypatch.setattr(it.bsf._bootstraps, "purge", purge)
        async with asyncio.timeout(5):
            await again.wait()


@pytest.mark.attack("T8")
@async_test
async def test_a_client_has_no_say_in_whether_its_requests_are_recorded(tmp_path):
    async def fine(_request):
        return HttpResponse(200)

    async with serving(tmp_path, fine) as site:
        for number, flags in enumerate(("00", "01", "fe"), 1):
            before = len(site.spans.get_finished_spans())
            trace = f"{number:032x}"
            await site.raw(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                + f"Traceparent: 00-{trace}-00000000000000aa-{flags}\r\n\r\n".encode()
            )
            [span] = site.spans.get_finished_spans()[before:]
            assert f"{span.context.trace_id:032x}" == trace
