"""Media through a gateway that a P-CSCF commands over real gRPC."""

from pathlib import Path

import pytest

from protos import iq_pb2
from sba.testing import async_test
from tests.imsagw.calls import Call, context_of, gateway, read, rtp


@pytest.mark.clause("TS 33.328", "7.2.1-2", "7.2.1-11")
@pytest.mark.parametrize("relay", ["process", "in-process"])
def test_srtp_of_the_phone_is_plain_rtp_in_the_core_and_back(tmp_path: Path, relay: str):
    @async_test
    async def run() -> None:
        async with gateway(tmp_path, relay=relay) as (_, pcscf, _lab):
            call = Call(pcscf)
            await call.reserve()
            await call.talk(0, 5, context_of(call.phone_key))
            hears = call.phone_hears()
            for sequence in range(5):
                call.far.sendto(rtp(sequence), call.port(iq_pb2.CORE))
                heard = await read(call.phone)
                assert heard[12:] != rtp(sequence)[12:]
                assert hears.unprotect_rtp(heard) == rtp(sequence)
            final = await call.release()
            rows = {row.side: row for row in final.statistics}
            assert (rows[iq_pb2.ACCESS].packets_in, rows[iq_pb2.CORE].packets_out) == (5, 5)
            assert (rows[iq_pb2.CORE].packets_in, rows[iq_pb2.ACCESS].packets_out) == (5, 5)
            assert rows[iq_pb2.ACCESS].suite == call.phone_key.suite.name
            assert rows[iq_pb2.CORE].protection == "RTP"
            call.close()

    return run()
