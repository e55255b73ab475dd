"""``imslab new-nf``: the package it writes is complete, keeps the rules of the house and passes its own tests."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from lab.newnf import NewNfError, check_name, write
from tests.e2e.lab import ROOT
from tests.extending.package import BUILD, imslab, run, tool

pytest.importorskip("grpc_tools", reason="the contract compiler is the build extra")
ODD_NAME = "x9-9-0z"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "package"
    done = imslab("new-nf", ODD_NAME, str(folder))
    assert done.returncode == 0, done.stderr
    assert f"imslab up --with {folder}" in done.stdout
    return folder


def test_everything_a_network_function_has_is_written(written: Path) -> None:
    names = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert {
        "README.md",
        "pyproject.toml",
        "setup.py",
        ".gitignore",
        "include/protos/options.proto",
        "x9_9_0z/x9_9_0z.proto",
        "x9_9_0z/x9_9_0z_pb2.py",
        "x9_9_0z/config.py",
        "x9_9_0z/procedure.py",
        "x9_9_0z/node.py",
        "tests/test_procedure.py",
        "tests/test_node.py",
        "compose.yaml",
    } <= names
    assert (written / "include/protos/options.proto").read_bytes() == (ROOT / "protos/options.proto").read_bytes()
    left = [name for name in names if "pb2" not in name and "@module@" in (written / name).read_text()]
    assert left == []


def test_the_package_keeps_the_rules_of_the_house(written: Path) -> None:
    ruff = tool("ruff")
    for command in ((ruff, "check", "--no-cache", "."), (ruff, "format", "--no-cache", "--check", ".")):
        done = run(*command, cwd=written)
        assert done.returncode == 0, done.stdout
    typed = run(tool("mypy"), "--cache-dir", str(written / ".mypy_cache"), cwd=written, MYPYPATH=str(ROOT))
    assert typed.returncode == 0, typed.stdout


def test_the_package_passes_its_own_tests(written: Path) -> None:
    (written / "x9_9_0z" / "x9_9_0z_pb2.py").unlink()  # compiled again without being told
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_a_built_distribution_holds_the_compiled_contract(written: Path, tmp_path: Path) -> None:
    (written / "x9_9_0z" / "x9_9_0z_pb2.py").unlink(missing_ok=True)
    done = run(sys.executable, "-c", BUILD, str(tmp_path), cwd=written)
    assert done.returncode == 0, done.stderr
    wheel = zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1])
    assert {"x9_9_0z/x9_9_0z_pb2.py", "x9_9_0z/x9_9_0z.proto", "x9_9_0z/py.typed"} <= set(wheel.namelist())
    wheel.extractall(tmp_path / "site")  # what an installation leaves behind
    program = (
        "from sba.contracts import all_contracts\nfrom sba.run import node_class\n"
        f"print(node_class({ODD_NAME!r}).__name__, [c.service_name for c in all_contracts()][-1])"
    )
    found = run(sys.executable, "-c", program, path=(tmp_path / "site",))
    assert found.stdout.split() == ["X990zFunction", f"n{ODD_NAME}"], found.stderr
    elsewhere = imslab("up", "--with", str(written), "--state", str(tmp_path / "state"), path=(tmp_path / "site",))
    assert elsewhere.returncode == 2
    assert "the module x9_9_0z is there already" in elsewhere.stderr


def test_the_compose_fragment_fits_the_compose_file_of_a_lab(written: Path, tmp_path: Path) -> None:
    output = tmp_path / "compose.yaml"
    made = imslab("compose-file", "--with", str(written), "-o", str(output))
    assert made.returncode == 0, made.stderr
    fragment = yaml.safe_load((written / "compose.yaml").read_text())
    assert set(fragment["services"]) == {ODD_NAME}
    assert ODD_NAME in yaml.safe_load(output.read_text())["services"]
    if shutil.which("docker-compose"):
        both = ("-f", str(output), "-f", str(written / "compose.yaml"), "config")
        merged = run("docker-compose", *both)
        assert merged.returncode == 0, merged.stderr
        assert yaml.safe_load(merged.stdout)["services"][ODD_NAME]["pids_limit"] == 64


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Watcher", "lower-case letters"),
        ("9lives", "lower-case letters"),
        ("a--b", "lower-case letters"),
        ("watch_er", "lower-case letters"),
        ("-x", "lower-case letters"),
        ("../x", "lower-case letters"),
        ("", "lower-case letters"),
        ("x" * 32, "at most 31"),
        ("kms", "a kind of node that the lab has"),
        ("lab", "a kind of node that the lab has"),
        ("class", "means something else"),
        ("json", "means something else"),
        ("tests", "means something else"),
        ("media", "a module media is installed"),
        ("twisted", "twisted is installed"),
        ("pyyaml", "a distribution pyyaml is installed"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(NewNfError, match=said):
        check_name(name)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(NewNfError, match="nothing is overwritten"):
        write("call-watch", tmp_path)
    with pytest.raises(NewNfError, match="nothing is overwritten"):
        write("call-watch", tmp_path / "kept.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    refused = imslab("new-nf", "call-watch", str(tmp_path))
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_the_example_compiles_against_the_options_of_this_release() -> None:
    copy = ROOT / "examples" / "call-screening" / "include" / "protos" / "options.proto"
    assert copy.read_bytes() == (ROOT / "protos" / "options.proto").read_bytes()
