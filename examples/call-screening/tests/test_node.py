from pathlib import Path

import pytest
from sba import RemoteProblem
from sba.testing import LabFixture, async_test

from call_screening import call_screening_pb2

ROOT = Path(__file__).resolve().parents[1]
COUNTS = call_screening_pb2.DESCRIPTOR.services_by_name["CallScreening"].methods_by_name["Counts"]


@async_test
async def test_the_node_is_there_for_s_cscfs_and_tells_the_operator_what_it_saw(tmp_path: Path) -> None:
    async with LabFixture(tmp_path, packages=[ROOT]) as lab:
        await lab.spawn("call-screening", "screening", {"refused_callers": ["sip:eve@ims.test"]})
        operator = await lab.client("LAB")
        assert list((await operator.call(COUNTS, call_screening_pb2.CountsRequest())).counts) == []
        cscf = await lab.client("SCSCF")
        [profile] = await cscf.discover("IMS_AS")
        assert [(endpoint.role, endpoint.transport) for endpoint in profile.endpoints] == [("isc", "TLS")]
        with pytest.raises(RemoteProblem):
            await cscf.call(COUNTS, call_screening_pb2.CountsRequest())
