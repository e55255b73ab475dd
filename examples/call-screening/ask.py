"""Ask the screening server of a running lab what it saw: python ask.py [PUBLIC_IDENTITY]"""

import asyncio
import os
import sys

from sba import NodeEnvironment, RemoteProblem, SbiClient

from call_screening import call_screening_pb2

COUNTS = call_screening_pb2.DESCRIPTOR.services_by_name["CallScreening"].methods_by_name["Counts"]


async def main(served_user: str = "") -> None:
    """Call as the operator: discovery and a token from the NRF, then the question, over mutual TLS."""
    client = SbiClient.open(NodeEnvironment.load(f"{os.environ['IMSLAB_STATE']}/lab.json", "lab"))
    try:
        answer = await client.call(COUNTS, call_screening_pb2.CountsRequest(served_user=served_user))
        for count in answer.counts:
            print(count.served_user, count.outcome, count.calls)
    except RemoteProblem as problem:
        sys.exit(str(problem))
    finally:
        await client.close()


asyncio.run(main(*sys.argv[1:]))
