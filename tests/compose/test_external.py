"""Nodes that somebody else runs: found in the NRF, watched by their health, never started or ended from here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import external
from lab.control import ControlError
from lab.external import ExternalFleet
from lab.fleet import State
from lab.labfile import LEARNED, NodeRow
from lab.spawner import NodeOrder
from lab.state import StateFolder
from sba.client import SbiClient
from sba.discovery import NfProfile, Query
from sba.testing import LabFixture, async_test
from tests.sba.gateway import Gateway, until


@dataclass
class Hands:
    """The part of the operator that a fleet uses."""

    client: SbiClient
    identity: Any

    async def registered(self, nf_type: str) -> list[NfProfile]:
        return await self.client.discovery.find(Query(nf_type), fresh=True)

    async def serves(self, _instance: str) -> bool:
        raise AssertionError("nobody here asks at an address of lab.json")


def _row(lab: LabFixture, instance: str, kind: str, nf: str) -> NodeRow:
    return NodeRow(instance, kind, lab.instance_id(instance), f"{instance}.ims.test", "@sba", 7443, "", nf=nf)


async def _fleet(lab: LabFixture, folder: Path) -> tuple[ExternalFleet, dict[str, NodeRow], list[str]]:
    client = await lab.client("LAB")
    rows = {name: _row(lab, name, "imsagw", "agw") for name in ("agw", "agw-2", "agw-3")}
    rows["nrf"] = NodeRow(
        "nrf", "nrf", lab.instance_id("nrf"), "nrf.ims.test", "@sba", lab.document["nrf"]["port"], "", nf="nrf"
    )
    told: list[str] = []
    orders = [NodeOrder(name, row.kind, "", "") for name, row in rows.items()]
    hands: Any = Hands(client, client._identity)
    fleet = ExternalFleet(
        orders,
        rows,
        hands,
        StateFolder.at(folder),
        "localhost",
        lambda node: told.append(f"{node.instance} {node.state.value}"),
    )
    return fleet, rows, told


@async_test
async def test_instances_show_up_when_they_serve_and_leave_when_they_are_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "LOOK_S", 0.05)
    monkeypatch.setattr(external, "GONE_S", 0.3)
    async with LabFixture(tmp_path) as lab:
        fleet, rows, told = await _fleet(lab, tmp_path)
        names: dict[str, str] = {}
        fleet.follow(names)
        assert set(rows) == {"agw", "nrf"}
        starting = asyncio.ensure_future(fleet.start([]))
        try:
            await until(lambda: fleet.nodes["nrf"].state is State.SERVING)
            assert rows["nrf"].host == "127.0.0.1", "a name where others, captures say, need an address"
            assert not starting.done()
            assert names == {"127.0.0.1": "nrf"}
            first = await lab.start("imsagw", "agw", {}, cls=Gateway)
            assert await starting == []
            assert (rows["agw"].host, rows["agw"].port) == ("127.0.0.1", first.server.port)
            second = await lab.start("imsagw", "agw-2", {}, cls=Gateway)
            await until(lambda: "agw-2" in fleet.nodes and fleet.nodes["agw-2"].state is State.SERVING)
            assert rows["agw-2"].port == second.server.port
            assert names["127.0.0.1"] in {"agw", "agw-2"}
            learned = json.loads((tmp_path / LEARNED).read_text())
            assert learned["agw-2"] == ["127.0.0.1"]
            second.health.set_serving(serving=False)
            await until(lambda: "agw-2" not in fleet.nodes)
            assert "agw-2" not in rows
            first.health.set_serving(serving=False)
            await until(lambda: fleet.nodes["agw"].state is State.FALLEN)
            first.health.set_serving(serving=True)
            await until(lambda: fleet.nodes["agw"].state is State.SERVING)
            assert fleet.nodes["agw"].restarts == 1
            assert "agw" in rows
            assert {"agw starting", "agw serving", "agw fallen", "agw-2 serving", "agw-2 stopped"} <= set(told)
        finally:
            await fleet.stop([])


@async_test
async def test_a_node_that_says_it_is_another_is_not_taken_for_it(tmp_path, monkeypatch):
    """Health is asked over mutual TLS and the certificate has to show the name, whatever a profile says."""
    monkeypatch.setattr(external, "LOOK_S", 0.05)
    async with LabFixture(tmp_path) as lab:
        fleet, rows, _ = await _fleet(lab, tmp_path)
        other = await lab.start("imsagw", "other", {}, cls=Gateway)
        profile = other.profile()
        profile.nf_instance_id = lab.instance_id("agw")
        assert await fleet._serves(fleet._all["agw"], {profile.nf_instance_id: profile}) == (
            False,
            "127.0.0.1",
            other.server.port,
        )
        assert rows["agw"].host == "@sba"
        await fleet.stop([])


@async_test
async def test_starting_and_ending_are_left_to_the_engine(tmp_path):
    async with LabFixture(tmp_path) as lab:
        fleet, _, _ = await _fleet(lab, tmp_path)
        with pytest.raises(ControlError, match="docker compose restart agw") as refused:
            await fleet.restart("agw")
        assert refused.value.kind == "usage"
        with pytest.raises(KeyError):
            await fleet.restart("nobody")
        with pytest.raises(ControlError, match="--scale"):
            await fleet.add(NodeOrder("agw-2", "imsagw", "", ""))
        with pytest.raises(ControlError, match="--scale"):
            await fleet.remove("agw")
        await fleet.stop([])


def test_a_file_of_learned_addresses_that_is_none_is_passed_over(tmp_path: Path) -> None:
    from lab.labfile import _learned

    path = tmp_path / LEARNED
    assert _learned(path) == {}
    for text in ("[]", "{", '{"agw": 1}', '{"agw": null}', "\x00"):
        path.write_text(text)
        assert _learned(path) == {}
    path.write_text('{"agw": ["10.0.0.1", "10.1.0.1"]}')
    assert _learned(path) == {"10.0.0.1": "agw", "10.1.0.1": "agw"}
