"""What every test shares: the results file behind docs/conformance.md, and reasons for what cannot run here."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry.exporter.otlp.proto.grpc import exporter as otlp_exporter

from tests import namespace
from tests.e2e.lab import Lab, running

# Machines are shared: a slow example is no finding.
settings.register_profile("imslab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("imslab")

# Exporters of a node that a test ran may still be waiting to try again while the next one draws its examples; Hypothesis
# takes their use of the module's generator for the example's. They have one of their own here.
otlp_exporter.random = random.Random()  # type: ignore[assignment]

# Foreign programs that tests talk to, and the Debian package that brings each.
PEERS = {
    "ffmpeg": "ffmpeg",
    "baresip": "baresip",
    "sipp": "sip-tester",
    "tshark": "tshark",
    "osmo-auc-gen": "libosmocore-utils",
    "openssl": "openssl",
    "promtool": "prometheus",
    "pg_ctlcluster": "postgresql",
    "chromium": "chromium",
    "sngrep": "sngrep",
    "linphonec": "linphone-cli",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", help="write every test's clauses and outcome as JSON")
    parser.addoption("--own-network", action="store_true", help="each worker of -n has a loopback of its own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = {"clauses": [], "attacks": []}
        for mark in item.iter_markers("clause"):
            spec, *ids = mark.args
            marks["clauses"].extend([spec, str(clause)] for clause in ids)
        for mark in item.iter_markers("attack"):
            marks["attacks"].extend(str(row) for row in mark.args)
        item.user_properties.append(("imslab", marks))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("peer"):
        for name in mark.args:
            if shutil.which(name) is None:
                reason = f"{name} is not installed (Debian package {PEERS.get(name, name)})"
                if os.environ.get("CI"):
                    pytest.fail(reason)
                pytest.skip(reason)
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root for a packet socket on the loopback interface")


class Results:
    """Collects one record per test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        marks = dict(report.user_properties).get("imslab")
        if marks is None:
            return
        record = self.records.setdefault(report.nodeid, {"outcome": "passed", **marks})
        if report.outcome != "passed" and record["outcome"] == "passed":
            record["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.records, indent=1, sort_keys=True) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if is_worker and config.getoption("--own-network"):
        namespace.enter()
    path = config.getoption("--results")
    if path and not is_worker:
        config.pluginmanager.register(Results(Path(path)))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab of config/lab.yaml, shared by every test that leaves it as it found it."""
    with running(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder for a test that starts a lab of its own."""
    return tmp_path
