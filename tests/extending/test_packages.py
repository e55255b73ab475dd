"""Which folders the lab runs code from, and what it says of the others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.config import parse
from lab.state import StateFolder
from lab.with_packages import prepare, remember, remembered, with_nodes
from sba.packages import PackageError, check_together, read_package
from tests.extending.package import ENTRY, imslab, small_package

DESCRIPTION = """
home_domains: [{name: ims.test}]
access_networks: [{name: access-a, pcscf: pcscf-a, gateway: imsagw-a}]
"""


def test_a_package_says_what_it_brings(tmp_path: Path) -> None:
    package = read_package(small_package(tmp_path / "odd"))
    assert (package.name, package.version, package.kinds, package.top_modules) == (
        "odd-nf",
        "1.0",
        ("odd",),
        ("odd_nf",),
    )
    assert package.modules == tmp_path / "odd"


def test_modules_may_lie_in_src(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd")
    (folder / "src").mkdir()
    (folder / "odd_nf").rename(folder / "src" / "odd_nf")
    assert read_package(folder).modules == folder / "src"


def _no_description(folder: Path) -> None:
    (folder / "pyproject.toml").unlink()


def _described(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "pyproject.toml").write_text(text)

    return change


PROJECT = '[project]\nname = "odd-nf"\n'
NOT_PACKAGES = {
    "no-pyproject": (_no_description, "holds no pyproject.toml"),
    "no-toml": (_described("name: odd"), "cannot be read"),
    "no-project": (_described("[tool.ruff]\n"), "has no [project] with a name"),
    "nothing-for-the-lab": (_described(PROJECT), "brings nothing to the lab"),
    "module-missing": (_described(PROJECT + ENTRY.replace("odd_nf", "other_nf")), "names the module other_nf"),
    "no-object": (_described(PROJECT + ENTRY.replace("odd_nf.node:Odd", "os; print(1)")), "is no table of name"),
    "line-break": (_described(PROJECT + ENTRY.replace("odd =", '"odd\\nnrf" =')), "is no table of name"),
    "path-as-version": (_described(PROJECT + 'version = "../../x"\n' + ENTRY), "the version is '../../x'"),
    "path-as-name": (_described('[project]\nname = "../x"\n' + ENTRY), "has no [project] with a name"),
    "module-of-the-lab": (_described(PROJECT + ENTRY.replace("odd_nf.node", "sba.nf")), "names the module sba"),
}


@pytest.mark.parametrize(("spoil", "said"), NOT_PACKAGES.values(), ids=NOT_PACKAGES)
def test_a_folder_that_is_no_package_is_refused(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = small_package(tmp_path / "odd")
    spoil(folder)
    with pytest.raises(PackageError) as refused:
        read_package(folder)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "entry", "said"),
    [
        ("class Odd(\n", ENTRY, r"SyntaxError: .* \(.*odd_nf/node\.py:1\)"),
        ("import nowhere_to_be_found\n", ENTRY, r"No module named 'nowhere_to_be_found' \(.*odd_nf/node\.py:1\)"),
        (
            "",
            ENTRY.replace("odd_nf.node", "odd_nf.nod"),
            r"No module named 'odd_nf.nod', named in .*odd/pyproject\.toml",
        ),
    ],
)
def test_a_package_that_cannot_be_loaded_is_told_as_such_and_not_remembered(
    tmp_path: Path, text: str, entry: str, said: str
) -> None:
    folder = small_package(tmp_path / "odd", entry)
    (folder / "odd_nf" / "node.py").write_text(text)
    state = tmp_path / "state"
    up = imslab("up", "--with", str(folder), "--state", str(state))
    assert up.returncode == 2
    assert re.fullmatch(rf"imslab: the package odd-nf cannot be loaded: .*{said}.*\n", up.stderr), up.stderr
    assert remembered(StateFolder.at(state)) == ()


def test_a_state_folder_below_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    assert remembered(StateFolder.at(tmp_path / "afile" / "x")) == ()
    up = imslab("up", "--state", str(tmp_path / "afile" / "x"))
    assert up.returncode == 2
    said = f"the state folder {tmp_path}/afile/x cannot be written: {tmp_path}/afile is a file (Not a directory)"
    assert up.stderr == f"imslab: {said}\n"


@pytest.mark.parametrize("module", ["sba", "json"])
def test_a_module_that_is_there_already_is_not_hidden(tmp_path: Path, module: str) -> None:
    folder = small_package(tmp_path / "odd", ENTRY.replace("odd_nf", module), module=module)
    with pytest.raises(PackageError, match=f"the module {module} is there already"):
        read_package(folder)


def test_a_kind_of_the_lab_is_taken(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd", ENTRY.replace("odd =", "hss ="))
    with pytest.raises(PackageError, match=r"hss of imslab\.nodes is taken by the distribution imslab"):
        read_package(folder)


def _chmod(name: str, mode: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(mode)


def _link(folder: Path) -> None:
    (folder / "odd_nf" / "more.py").symlink_to(folder / "odd_nf" / "node.py")


def _cached(folder: Path) -> None:
    (folder / "odd_nf" / "__pycache__").mkdir()
    (folder / "odd_nf" / "__pycache__" / "node.cpython-311.pyc").touch(mode=0o666)
    (folder / "odd_nf" / "__pycache__" / "node.cpython-311.pyc").chmod(0o666)


def _parent(folder: Path) -> None:
    folder.parent.chmod(0o777)


WRITABLE = {
    "folder": (_chmod(".", 0o777), "anybody may write it"),
    "module": (_chmod("odd_nf/node.py", 0o646), "anybody may write it"),
    "description": (_chmod("pyproject.toml", 0o666), "anybody may write it"),
    "compiled": (_cached, "anybody may write it"),
    "parent": (_parent, "anybody may write it"),
    "link": (_link, "is a link"),
}


@pytest.mark.parametrize(("spoil", "said"), WRITABLE.values(), ids=WRITABLE)
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = small_package(tmp_path / "above" / "odd")
    spoil(folder)
    with pytest.raises(PackageError) as refused:
        read_package(folder)
    assert said in str(refused.value)


@pytest.mark.root
@pytest.mark.parametrize("what", ["pyproject.toml", "odd_nf/node.py", "."])
def test_a_file_of_another_user_is_refused(tmp_path: Path, what: str) -> None:
    folder = small_package(tmp_path / "odd")
    os.chown(folder / what, 65534, -1)
    with pytest.raises(PackageError, match="belongs to the user nobody"):
        read_package(folder)


@pytest.mark.root
def test_a_group_with_other_members_is_refused(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd")
    os.chown(folder / "odd_nf" / "node.py", -1, 65534)
    (folder / "odd_nf" / "node.py").chmod(0o660)
    with pytest.raises(PackageError, match="the group nogroup may write it"):
        read_package(folder)


def test_hidden_files_hold_no_module_and_are_not_looked_at(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "python").symlink_to("/usr/bin/python3")
    read_package(folder)


def test_two_packages_bring_nothing_twice(tmp_path: Path) -> None:
    one = read_package(small_package(tmp_path / "one"))
    other = read_package(small_package(tmp_path / "other", name="other-nf"))
    with pytest.raises(PackageError, match="both bring the module odd_nf"):
        check_together([one, other])


def test_a_node_is_added_for_a_kind_that_the_description_does_not_mention(tmp_path: Path) -> None:
    package = read_package(small_package(tmp_path / "odd"))
    config = parse(DESCRIPTION)
    assert [(node.name, node.kind) for node in with_nodes(config, [package]).extra_nodes] == [("odd", "odd")]
    described = parse(DESCRIPTION + "extra_nodes: [{name: odd-1, kind: odd}]\n")
    assert with_nodes(described, [package]) == described
    taken = parse(DESCRIPTION.replace("pcscf-a", "odd"))
    with pytest.raises(PackageError, match=r"no node can be added for odd .*the name odd is already the pcscf"):
        with_nodes(taken, [package])


def test_the_state_folder_remembers_and_forgets(tmp_path: Path) -> None:
    folder = StateFolder.at(tmp_path / "state")
    folder.create()
    package = small_package(tmp_path / "odd", name="kept-nf", module="kept_nf", entries=ENTRY.replace("odd", "kept"))
    remember(folder, prepare(folder, [package]))
    assert remembered(folder) == (package,)
    assert folder.packages.stat().st_mode & 0o077 == 0
    assert [found.name for found in prepare(folder, None)] == ["kept-nf"]
    package.chmod(0o777)
    with pytest.raises(PackageError, match="--without-packages leaves it out"):
        prepare(folder, None)
    remember(folder, prepare(folder, ()))
    assert remembered(folder) == ()


@pytest.mark.parametrize("record", ["[]", "{", '{"folders": 5, "path": []}'])
def test_a_damaged_record_is_refused(tmp_path: Path, record: str) -> None:
    folder = StateFolder.at(tmp_path / "state")
    folder.create()
    folder.packages.write_text(record)
    with pytest.raises(PackageError, match="cannot be read"):
        prepare(folder, None)


def test_up_says_what_is_wrong_and_starts_nothing(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd")
    (folder / "odd_nf" / "node.py").chmod(0o666)
    up = imslab("up", "--with", str(folder), "--state", str(tmp_path / "state"))
    assert up.returncode == 2
    assert "node.py is not safe to run code from: anybody may write it" in up.stderr
    assert not (tmp_path / "state" / "supervisor.pid").exists()
    both = imslab("up", "--with", str(folder), "--without-packages", "--state", str(tmp_path / "state"))
    assert both.returncode == 2


def test_every_fault_of_extra_nodes_comes_at_once(tmp_path: Path) -> None:
    config = tmp_path / "lab.yaml"
    config.write_text(
        DESCRIPTION + "extra_nodes:\n"
        "  - {name: w, kind: odd, settings: {heartbeat_s: soon, domains: 5}}\n"
        "  - {name: v, kind: ood}\n"
    )
    folder = small_package(tmp_path / "odd")
    up = imslab("up", "--with", str(folder), "--config", str(config), "--state", str(tmp_path / "state"))
    assert up.returncode == 2
    first, *faults = up.stderr.splitlines()
    assert first == "imslab: the lab description has 3 faults"
    for where in ("extra_nodes[0].settings.heartbeat_s", "extra_nodes[0].settings.domains", "extra_nodes[1].kind"):
        assert any(where in fault for fault in faults), faults
    assert "no network function of kind 'ood' is installed; right would be: a kind that is installed: odd" in faults[-1]


def test_a_node_that_cannot_be_added_as_it_is_wants_to_be_described(tmp_path: Path) -> None:
    folder = small_package(tmp_path / "odd")
    (folder / "odd_nf" / "node.py").write_text(
        "from sba.nf import NetworkFunction, NodeSettings\n"
        "class Settings(NodeSettings):\n    most: int\n"
        "class Odd(NetworkFunction):\n    settings_class = Settings\n    nf_types = ('AF',)\n"
    )
    up = imslab("up", "--with", str(folder), "--state", str(tmp_path / "state"))
    assert up.returncode == 2
    assert "lab.yaml" not in up.stderr
    assert "no node can be added for odd-nf (extra_nodes[0].settings.most: is missing): describe it in" in up.stderr
