"""The benches of the relay measure what they say: packets are those of the streams, rings run, stacks fall to parts."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import plot, relay_plots, relay_results, relay_tables
from bench.relay_engines import (
    COMPILED,
    INTERPRETED,
    RTPENGINE,
    TO_SRTP,
    OwnRelay,
    Wanted,
    bdecode,
    bencode,
    processes_for,
)
from bench.relay_profile import CRYPTO, DELIVERY, KERNEL, LOOP, RECEIVE, SEND, part_of, stacks, system_calls
from bench.relay_traffic import CORE_SSRC, Generator, Offered, Packets, new_key
from sba.testing import async_test

SUITE = "AES_CM_128_HMAC_SHA1_80"


def test_ng_dictionaries_come_back_as_they_were():
    asked = {"command": "offer", "flags": ["a", "b"], "delay": 0, "sdp": "v=0\r\n"}
    assert bdecode(bencode(asked))[0] == asked


@async_test
async def test_a_stream_of_the_bench_carries_both_ways_under_its_keys():
    engine, generator = await OwnRelay.start(INTERPRETED, None), Generator()
    try:
        keys = [new_key(SUITE) for _ in range(3)]
        peers = generator.source.getsockname(), generator.target.getsockname()
        calls = await engine.open(Wanted(TO_SRTP, SUITE, keys, peers))
        both = Packets(3, 30, None), Packets(3, 30, (SUITE, keys), CORE_SSRC)
        both[0].aim([call.access for call in calls])
        both[1].aim([call.core for call in calls])
        offered = generator.offer(both, 3, range(10))
        assert (offered.sent, offered.received) == (60, 60)
        assert (generator.sink.size(), generator.return_sink.size()) == (182, 172)
        await engine.close()
    finally:
        generator.close()
        await engine.stop()


@pytest.mark.parametrize(
    ("offered", "carried"),
    [(Offered(100, 100, 0.0, 0.0), True), (Offered(100, 99, 0.0, 0.0), False), (Offered(100, 100, 0.2, 0.0), False)],
)
def test_carried_is_what_lost_nothing_and_left_no_queue(offered: Offered, carried: bool):
    assert offered.carried is carried


@pytest.mark.parametrize("reads", [False, True])
def test_a_far_end_counts_every_packet_whether_it_reads_them_or_not(reads: bool):
    generator, packets = Generator(), Packets(4, 400, None)
    try:
        packets.aim([generator.target.getsockname()] * 4)
        generator.source.sendto(b"from before", generator.target.getsockname())
        _, lost, end = generator.run(packets, 10.0, stop=200, reads=reads)
        assert (lost, end) == (0, 200)
        _, lost, end = generator.run(packets, 10.0, start=200, reads=True)
        assert (lost, end) == (0, 400)
        assert generator.sink.size() == 172
    finally:
        generator.close()


def test_more_streams_than_descriptors_take_more_processes():
    assert [processes_for(streams, 20_000) for streams in (1, 4950, 4951, 9900)] == [1, 1, 2, 2]


STACKS = """\
 ffff0001 udp_recvmsg ([kernel.kallsyms])
 ffff0002 __x64_sys_recvmmsg ([kernel.kallsyms])
 7f000001 __recvmmsg (/usr/lib/libc.so.6)

 ffff0001 __udp_enqueue_schedule_skb ([kernel.kallsyms])
 ffff0002 do_softirq.part.0 ([kernel.kallsyms])
 ffff0003 __x64_sys_sendto ([kernel.kallsyms])

 ffff0001 ip_make_skb ([kernel.kallsyms])
 ffff0003 __x64_sys_sendto ([kernel.kallsyms])

 ffff0001 schedule ([kernel.kallsyms])

 7f000001 sha1_block_data_order (/site-packages/pylibsrtp/_binding.abi3.so)

 7f000001 carry (/media/relay/_packet_loop.so)
"""


def test_a_sample_counts_for_the_call_it_is_below():
    found = [part_of(stack) for stack in stacks(STACKS.splitlines())]
    assert found == [RECEIVE, DELIVERY, SEND, KERNEL, CRYPTO, LOOP]


def test_system_calls_are_told_a_packet():
    told = "500,,syscalls:sys_enter_sendto,1,100.00,,\n0,,syscalls:sys_enter_recvfrom,1,100.00,,\n"
    assert system_calls(told, 1000) == {"sendto": 0.5}


def test_rows_of_a_case_replace_older_ones(tmp_path: Path):
    path = tmp_path / "rows.json"
    relay_results.keep(path, [{"engine": "a", "value": 1}, {"engine": "b", "value": 1}], ["engine"])
    relay_results.keep(path, [{"engine": "a", "value": 2}], ["engine"])
    assert sorted((row["engine"], row["value"]) for row in relay_results.read(path)) == [("a", 2), ("b", 1)]
    assert set(json.loads(path.read_text())["machine"]) == {"cores", "processor", "kernel", "memory_gib", "load"}


def test_plots_and_tables_are_made_of_the_rows(tmp_path: Path):
    def row(engine: str, rate: float) -> relay_results.Row:
        ratio = [rate / 2, rate / 2, rate / 2]
        names = [f"{kind}ratio_to_{other}" for kind in ("", "cost_") for other in ("rtpengine", "bare")]
        return {
            "engine": engine, "streams": 100, "direction": TO_SRTP, "suite": SUITE, "window": 4, "reads": False,
            "processes": 1, "rounds": 3, "packets_per_s": [rate, rate, rate], "us_per_packet": [1.0, 2.0, 3.0],
            "core_busy": [1.0, 1.0, 1.0], "loss": 0.0, **dict.fromkeys(names, ratio),
        }  # fmt: skip

    relay_results.keep(tmp_path / "relay.json", [row(COMPILED, 4.0), row(RTPENGINE, 2.0)], ["engine"])
    drawn = relay_plots.draw(tmp_path, tmp_path / "plots")
    assert {path.name for path in drawn} >= {"relay-throughput-AES-CM.svg", "relay-ratio-AES-CM.svg", "relay-cost.svg"}
    for path in drawn:
        ET.fromstring(path.read_text())
    assert any(line.startswith("| 100 | RTP->SRTP | imslab, compiled |") for line in relay_tables.write(tmp_path))


def test_a_plot_escapes_what_it_is_given():
    svg = plot.bars('a < b & "c"', "us", ["x<y"], {"one & two": [[1.0, 2.0, 3.0]], "none": [None]}, aim=2.5)
    assert 'a < b & "c"' in "".join(ET.fromstring(svg).itertext())
