"""The health check of a container: HTTP/2 by hand against a node's real gRPC server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Self

import pytest

from sba import probe
from sba.container import write_whereabouts
from sba.pki import LabCa
from sba.testing import LabFixture, async_test
from tests.sba.gateway import Gateway


def _place(run: Path) -> dict[str, str | int]:
    content = json.loads((run / "node.json").read_text())
    assert isinstance(content, dict)
    return content


async def _says(place: dict[str, str | int]) -> str:
    """What the check makes of a node; empty: it serves."""
    try:
        await asyncio.to_thread(probe.check, place)
    except (probe.NotServingError, OSError) as error:
        return str(error) or type(error).__name__
    return ""


@async_test
async def test_a_node_that_serves_passes_and_one_that_drains_does_not(tmp_path):
    async with LabFixture(tmp_path) as lab:
        gateway = await lab.start("imsagw", "agw", {}, cls=Gateway)
        write_whereabouts(gateway.environment, tmp_path / "run")
        place = _place(tmp_path / "run") | {"port": gateway.server.port}
        assert await _says(place) == ""
        gateway.health.set_serving(serving=False)
        assert await _says(place) == "the node says that it does not serve"


@async_test
async def test_only_the_node_that_was_meant_passes_and_only_with_a_certificate_of_the_lab(tmp_path):
    async with LabFixture(tmp_path) as lab:
        gateway = await lab.start("imsagw", "agw", {}, cls=Gateway)
        write_whereabouts(gateway.environment, tmp_path / "run")
        place = _place(tmp_path / "run") | {"port": gateway.server.port}
        assert "mismatch" in (await _says(place | {"fqdn": "other.ims.test"})).lower()
        LabCa.create(tmp_path / "elsewhere").issue(
            "agw", ("IMS_AGW",), gateway.identity.instance_id, dns=["agw.ims.test"]
        )
        foreign = {
            "certificate": str(tmp_path / "elsewhere" / "agw.crt"),
            "key": str(tmp_path / "elsewhere" / "agw.key"),
        }
        assert await _says(place | foreign) != ""
        assert "certificate verify failed" in await _says(place | {"ca": str(tmp_path / "elsewhere" / "ca.crt")})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        probe.frame(4, 0, 0) * 200,
        probe.frame(0, 0, 3, b"\x00\x00\x00\x00\x02\x08\x01") + probe.frame(7, 0, 0, bytes(8)),
        probe.frame(0, 0, 1, b"\x00\x00\x00\x00\x02\x08\x02"),
        probe.frame(1, 5, 1, b""),
        probe.frame(3, 0, 1, bytes(4)),
    ],
)
def test_whatever_else_comes_is_no_health(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wire:
        def __init__(self) -> None:
            self.rest = answer

        def recv(self, count: int) -> bytes:
            taken, self.rest = self.rest[:count], self.rest[count:]
            return taken

        def sendall(self, _octets: bytes) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    class Context:
        def load_cert_chain(self, *_: object) -> None: ...
        def set_alpn_protocols(self, _names: object) -> None: ...
        def wrap_socket(self, *_: object, **__: object) -> Wire:
            return Wire()

    monkeypatch.setattr(probe.ssl, "create_default_context", lambda **_: Context())
    monkeypatch.setattr(probe.socket, "create_connection", lambda *_, **__: Wire())
    place: dict[str, str | int] = {"ca": "", "certificate": "", "key": "", "fqdn": "a.test", "host": "::1", "port": 1}
    with pytest.raises(probe.NotServingError):
        probe.check(place)


def test_without_a_node_the_check_fails_and_says_why(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("IMSLAB_RUN", str(tmp_path))
    assert probe.main() == 1
    assert "node.json" in capsys.readouterr().err
