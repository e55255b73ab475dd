"""Whose certificate answers at an address on Mw: the one the NRF says has it, and no other of the same lab."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from nodes import mwnames, siptls
from nodes.mwnames import MwNames, no_names
from protos.nrf_nfm_pb2 import Endpoint, NfProfile
from sba.discovery import Discovery, Query
from sba.errors import RemoteProblem
from sba.pki import LabCa
from sba.testing import async_test
from tests.cscf.home import until


class Registry:
    """A Discovery that answers from a table."""

    def __init__(self) -> None:
        self.known: dict[str, list[NfProfile]] = {}
        self.away = False
        self.told: list[tuple[str, dict[str, object]]] = []

    async def find(self, query: Query, *, fresh: bool = False) -> list[NfProfile]:
        assert fresh
        if self.away:
            import grpc

            raise RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="away")
        return self.known.get(query.nf_type, [])


def _profile(*points: tuple[str, str, str], types: tuple[str, ...] = ("SCSCF", "ICSCF")) -> NfProfile:
    endpoints = [Endpoint(role=role, host=host, tls_name=name) for role, host, name in points]
    return NfProfile(endpoints=endpoints, nf_types=types)


def _certificate(folder: Path, name: str) -> x509.Certificate:
    authority = LabCa.open(folder) if (folder / "ca.key").exists() else LabCa.create(folder)
    return authority.issue(name, ("PCSCF",), "00000000-0000-4000-8000-000000000001", dns=[f"{name}.ims.test"])


def _names(registry: Registry, *nf_types: str) -> MwNames:
    discovery: Discovery = registry  # type: ignore[assignment]
    return MwNames(discovery, nf_types, lambda event, **facts: registry.told.append((event, facts)))


@async_test
async def test_the_name_at_an_address_is_the_one_in_the_nrf(tmp_path):
    registry = Registry()
    registry.known["SCSCF"] = [_profile(("mw", "10.0.0.5", "cscf.ims.test"), ("gm", "10.0.0.5", "as.ims.test"))]
    registry.known["KMS"] = [_profile(("mw", "10.0.0.5", "kms.ims.test"))]
    names = _names(registry, "SCSCF", "PCSCF")
    assert names.of("10.0.0.5") == frozenset()
    await names.refresh()
    assert names.of("10.0.0.5") == {"cscf.ims.test"}
    registry.known["SCSCF"] = [_profile(("mw", "10.0.0.6", "cscf.ims.test"))]
    await names.refresh()
    assert names.of("10.0.0.5") == frozenset()
    registry.known["IMS_AS"] = [_profile(("isc", "10.0.0.9", "as.ims.test"), types=("IMS_AS",))]
    towards_servers = _names(registry, "SCSCF", "IMS_AS")
    await towards_servers.refresh()
    assert towards_servers.of("10.0.0.9") == {"as.ims.test"}
    registry.away = True
    await names.refresh()
    assert names.of("10.0.0.6") == {"cscf.ims.test"}


@pytest.mark.attack("T6")
@async_test
async def test_an_address_that_another_kind_of_nf_claims_too_is_nobodys(tmp_path):
    registry = Registry()
    registry.known["SCSCF"] = [_profile(("mw", "10.0.0.5", "cscf.ims.test"))]
    registry.known["PCSCF"] = [
        _profile(("mw", "10.0.0.5", "pcscf-b.ims.test"), types=("PCSCF",)),
        _profile(("mw", "10.0.0.7", "pcscf-a.ims.test"), types=("PCSCF",)),
        _profile(("mw", "10.0.0.7", "pcscf-a-2.ims.test"), types=("PCSCF",)),
    ]
    names = _names(registry, "SCSCF", "PCSCF")
    await names.refresh()
    await names.refresh()
    assert names.of("10.0.0.5") == frozenset()
    assert names.of("10.0.0.7") == {"pcscf-a.ims.test", "pcscf-a-2.ims.test"}, "one of them was started again just now"
    assert registry.told == [
        (
            "mw-address-disputed",
            {"level": "warning", "address": "10.0.0.5", "claimants": ["cscf.ims.test", "pcscf-b.ims.test"]},
        )
    ]


@pytest.mark.attack("T7")
def test_only_its_own_certificate_answers_for_an_address(tmp_path: Path) -> None:
    mine, other = _certificate(tmp_path, "cscf"), _certificate(tmp_path, "pcscf-b")

    def shows(certificate: x509.Certificate, dialled: str, names: frozenset[str]) -> bool:
        return siptls._Client(tmp_path / "ca.crt", None, dialled, lambda _address: names)._shows(certificate)

    known = frozenset({"cscf.ims.test"})
    assert shows(mine, "10.0.0.5", known)
    assert not shows(other, "10.0.0.5", known)
    assert not shows(mine, "10.0.0.5", frozenset())
    assert not shows(mine, "else.ims.test", known), "a name that was dialled is the only one that counts"
    assert shows(other, "pcscf-b.ims.test", frozenset())


def test_without_the_nrf_an_address_has_to_stand_in_the_certificate(tmp_path: Path) -> None:
    authority = LabCa.create(tmp_path)
    shown = authority.issue(
        "a", ("PCSCF",), "00000000-0000-4000-8000-000000000001", dns=["a.ims.test"], ips=["10.0.0.5"]
    )
    client = siptls._Client(tmp_path / "ca.crt", None, "10.0.0.5", no_names)
    assert client._shows(shown)
    assert not client._shows(_certificate(tmp_path, "b"))


@async_test
async def test_an_address_nobody_is_known_to_have_is_looked_up_before_it_is_dialled(monkeypatch):
    monkeypatch.setattr(mwnames, "PAUSE_S", 0.01)
    registry = Registry()
    registry.known["PCSCF"] = [_profile(("mw", "10.0.0.5", "pcscf-a.ims.test"), types=("PCSCF",))]
    names = _names(registry, "PCSCF")
    await names.start()
    try:
        registry.known["PCSCF"] += [_profile(("mw", "10.0.0.6", "pcscf-b.ims.test"), types=("PCSCF",))]
        dialled: list[tuple[str, frozenset[str]]] = []
        for name in ("10.0.0.5", "pcscf-a.ims.test", "10.0.0.6", "10.0.0.9"):
            names.before_dialling(name, lambda name=name: dialled.append((name, names.of(name))))
        known = [("10.0.0.5", frozenset({"pcscf-a.ims.test"})), ("pcscf-a.ims.test", frozenset())]
        assert dialled == known, "these wait for nobody"
        await until(lambda: len(dialled) == 4)
        assert dialled[2:] == [("10.0.0.6", frozenset({"pcscf-b.ims.test"})), ("10.0.0.9", frozenset())]
        registry.known["PCSCF"] = [_profile(("mw", "10.0.0.5", "pcscf-b.ims.test"), types=("PCSCF",))]
        names.before_dialling("10.0.0.5", lambda: None)
        await until(lambda: names.of("10.0.0.5") == {"pcscf-b.ims.test"})
        registry.away = True
        names.before_dialling("10.0.0.7", lambda: dialled.append(("10.0.0.7", names.of("10.0.0.7"))))
        await until(lambda: len(dialled) == 5)
    finally:
        names.stop()
