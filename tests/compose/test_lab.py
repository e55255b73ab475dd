"""The lab in real containers: calls, what a container may and knows, crashes, replicas, an orderly end.

One lab for all; the tests go from what leaves it as it was to what ends it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lab.instances import instance_names
from tests.compose.engine import RETURNS_S, SERVES_S, Lab, everyone, nodes, running, until
from tests.docs.pages import fences

pytestmark = [pytest.mark.compose, pytest.mark.timeout(600)]
SECRETS = "/run/secrets/imslab"


def commands(page: str, test: str) -> list[str]:
    """The commands of the fence that `test` plays from a page."""
    (fence,) = [item for item in fences(page) if item.played_by.endswith(f"::{test}")]
    return [line.split("  #")[0].strip() for line in fence.text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is brought up as compose/README.md says for sites without a registry."""
    engine, build, enter, up, *_ = commands("compose/README.md", "test_a_call_as_the_page_has_it")
    with running(tmp_path_factory.mktemp("compose")) as containers:
        containers.shell(f"{engine}; {build}", timeout=400)
        containers.shell(f"{enter}; {up}", timeout=400)
        yield containers


# Calls.


def test_a_call_as_the_page_has_it(lab: Lab) -> None:
    _, _, enter, _, call, *_ = commands("compose/README.md", "test_a_call_as_the_page_has_it")
    assert "established SIP 200 security e2ae-sdes" in lab.shell(f"{enter}; {call}", timeout=SERVES_S)


def test_the_whole_story(lab: Lab) -> None:
    """README.md, in a lab that is up: the same commands again find everything in its place."""
    enter, up, call = commands("README.md", "test_the_whole_story")
    assert commands("compose/README.md", "test_the_whole_story")[:3] == [enter, up, call]
    assert "established SIP 200 security e2ae-sdes" in lab.shell(f"{enter}; {up}; {call}", timeout=SERVES_S)


def test_which_legs_are_protected(lab: Lab) -> None:
    verdict = lab.call("alice", "bob", "--security", "e2ae-sdes")
    legs = {(leg["node"], leg["side"]): leg["protection"] for leg in verdict["legs"]}
    assert legs["imsagw-a", "access"] == legs["imsagw-b", "access"] == "SRTP"
    assert legs["imsagw-a", "core"] == legs["imsagw-b", "core"] == "RTP"


@pytest.mark.parametrize(
    ("caller", "callee", "security"),
    [
        ("alice", "carol", "none"),
        ("alice", "bob", "e2e-sdes"),
        ("bob", "alice", "e2e-kms"),
        ("alice", "erin", "e2e-kms"),
    ],
)
def test_every_kind_of_call(lab: Lab, caller: str, callee: str, security: str) -> None:
    verdict = lab.call(caller, callee, "--security", security)
    assert (verdict["result"], verdict["security"]) == ("established", security), verdict
    assert all(heard["heard"] and heard["loss"] < 0.1 for heard in verdict["audio"].values())


def test_the_flow_of_a_call_names_every_node_although_nobody_knew_its_address(lab: Lab) -> None:
    drawn = json.loads(lab.imslab("flow", "--format", "json"))
    assert {"alice", "pcscf-a", "imsagw-a", "cscf", "cscf-p", "kms", "kms-p", "pcscf-b", "imsagw-b", "erin"} <= set(
        drawn["participants"]
    )
    assert not [name for name in drawn["participants"] if name[0].isdigit()]


def test_tickets_are_asked_for_and_resolved_and_the_kms_wrote_it_down(lab: Lab) -> None:
    made = json.loads(lab.imslab("ticket", "request", "alice", "bob", "--no-forking", "--json"))
    answer = json.loads(lab.imslab("ticket", "resolve", "bob", made["ticket"], "--json"))
    assert answer["responder"] == "sip:bob@ims.test"
    audit = json.loads(lab.imslab("kms", "audit", "--user", "bob", "--json"))
    assert any(entry["operation"] == "resolve" and entry["outcome"] == "granted" for entry in audit["entries"])
    assert audit["failed"] in ([], {})


def test_every_node_serves_where_the_engine_put_it(lab: Lab) -> None:
    rows = lab.status()
    assert set(rows) == set(nodes())
    assert {row["state"] for row in rows.values()} == {"serving"}
    assert not [row for row in rows.values() if row["sbi"].startswith("@")]


def test_a_capture_of_all_nodes_and_one_of_a_call_are_files_in_the_volume(lab: Lab) -> None:
    lab.inside("console", "imslab", "capture", "-o", "/out/all.pcapng", "--seconds", "2")
    lab.inside("console", "imslab", "call", "alice", "bob", "--seconds", "1", "--pcap", "/out/call.pcapng")
    code = "import json; print(json.dumps([open(f'/out/{n}.pcapng', 'rb').read().decode('latin-1') for n in ('all', 'call')]))"
    everything, call = lab.python("console", code)
    for text in (everything, call):
        assert text.encode("latin-1")[:4] == bytes.fromhex("0a0d0d0a")
    assert "nrf" in everything
    assert all(name in call for name in ("alice", "pcscf-a", "imsagw-a", "cscf", "bob"))


def test_users_are_told_hosts_and_no_placeholders(lab: Lab) -> None:
    said = lab.imslab("user", "alice")
    assert "@access" not in said
    assert "kms:7444" in said


def test_a_revoked_certificate_is_handed_out_as_such_and_its_node_is_refused(lab: Lab) -> None:
    before = (lab.secrets / "carol" / "carol.crt").read_bytes()
    tool = ("run", "--rm", "-T", "lab", "imslab", "pki")
    lab.compose(*tool, "revoke", "carol")
    lab.compose("run", "--rm", "-T", "init")
    until(
        lambda: lab.call("alice", "carol", "--security", "none")["result"] != "established", 60, "carol to be refused"
    )
    lab.compose(*tool, "reissue", "carol")
    lab.compose("run", "--rm", "-T", "init")
    assert (lab.secrets / "carol" / "carol.crt").read_bytes() != before
    until(lambda: lab.call("alice", "carol", "--security", "none")["result"] == "established", 90, "carol to be back")


@pytest.mark.parametrize("command", [("down",), ("scale", "kms=2"), ("logs", "kms")])
def test_what_the_engine_has_to_do_is_left_to_it(lab: Lab, command: tuple[str, ...]) -> None:
    container = lab.containers("console")[0]
    said = lab.docker("exec", container, "sh", "-c", f"imslab {' '.join(command)} 2>&1; echo status $?")
    assert "docker compose" in said
    assert "status 0" not in said


def test_the_console_is_published_on_loopback_alone_and_asks_for_its_token(lab: Lab) -> None:
    ports = lab.inspect(lab.containers("console")[0])[0]["NetworkSettings"]["Ports"]
    published = [binding for bindings in ports.values() for binding in bindings or ()]
    assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]
    link = json.loads(lab.imslab("console", "--json"))["link"]
    url, _, token = link.partition("#token=")
    assert url.startswith(f"http://127.0.0.1:{lab.environment['IMSLAB_CONSOLE_PORT']}")
    assert _get(f"{url}api/lab", token)["name"] == "imslab"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _get(f"{url}api/lab", "")


def _get(url: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        content = json.load(answer)
    assert isinstance(content, dict)
    return content


# What a container may, and what it knows.


def test_no_container_is_root_or_can_write_its_own_files(lab: Lab) -> None:
    for container in lab.inspected().values():
        if not container["State"]["Running"]:
            continue  # init and database have done what they are for
        name, config, host = container["Name"], container["Config"], container["HostConfig"]
        assert config["User"] not in ("", "0", "root", "0:0"), name
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert min(host["Memory"], host["PidsLimit"], host["NanoCpus"]) > 0, name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
    said = lab.inside("hss", "sh", "-c", "id -u; touch /opt/x /usr/x /run/secrets/imslab/x; ls /opt", check=False)
    assert said.split() == ["10001", "imslab"]


def test_no_argument_or_variable_holds_a_secret(lab: Lab) -> None:
    hidden = [path.read_text().strip() for path in lab.secrets.rglob("*.password")]
    hidden += [path.read_text().strip() for path in lab.secrets.rglob("*.seal")]
    assert len(hidden) > 20
    seen = json.dumps(lab.inspect(*lab.containers(ended=True)))
    assert not [secret for secret in hidden if secret in seen]


def test_a_container_holds_its_own_keys_and_nobody_elses(lab: Lab) -> None:
    owners: dict[bytes, str] = {}
    containers = lab.inspected()
    for name in (*nodes(), "console", "postgres"):
        folder = lab.secrets / name
        mounts = containers[name]["Mounts"]
        assert [mount["Source"] for mount in mounts if mount["Destination"].startswith("/run/secrets")] == [str(folder)]
        assert not [mount for mount in mounts if mount["Destination"].startswith("/run/secrets") and mount["RW"]]
        keys = [*folder.glob("*.key"), *folder.glob("*.seal"), *folder.glob("*.sealed")]
        assert keys, name
        assert not (folder / "ca.key").exists()
        for path in keys:
            assert owners.setdefault(path.read_bytes(), name) == name, path
            assert path.stat().st_mode & 0o077 == 0, path
            if path.suffix == ".key" and name in nodes():
                assert path.stem == name or path.stem.rpartition("-")[0] == name, path
    master = lab.compose("run", "--rm", "-T", "lab", "cat", "/var/lib/imslab/authority/secrets/sealing.key").stdout
    assert len(bytes.fromhex(master.strip())) == 32
    assert not [
        path for path in lab.secrets.rglob("*") if path.is_file() and master.strip().encode() in path.read_bytes()
    ]
    assert "authority" not in json.dumps(containers["console"]["Mounts"])


_REACH = """
import json, socket
from concurrent.futures import ThreadPoolExecutor

def reach(target):
    name, host, port = target
    try:
        socket.create_connection((host, port), timeout=2.0).close()
        return name, "open"
    except OSError as error:
        return name, type(error).__name__

with ThreadPoolExecutor(32) as pool:
    print(json.dumps(dict(pool.map(reach, {targets!r}))))
"""


def _addresses(lab: Lab, container: dict[str, Any]) -> dict[str, str]:
    found = container["NetworkSettings"]["Networks"]
    return {name.removeprefix(f"{lab.project}_"): entry["IPAddress"] for name, entry in found.items()}


def test_a_ue_reaches_the_edge_and_nothing_behind_it(lab: Lab) -> None:
    behind = [("cscf", 7443), ("cscf", 5062), ("hss", 7443), ("postgres", 5432), ("pcscf-b", 5061), ("pcscf-a", 5062)]
    at = {service: _addresses(lab, container) for service, container in lab.inspected().items()}
    targets: list[tuple[str, str, int]] = []
    for service, port in behind:
        targets += [(f"{service}:{port}@{net}", host, port) for net, host in at[service].items()]
    targets += [(f"by name {service}", service, port) for service, port in behind[:4]]
    targets += [("sba of the gateway", at["imsagw-a"]["sba"], 7443)]
    targets += [("sba of the kms", at["kms"]["sba"], 7443)]
    targets += [("elsewhere", "192.0.2.1", 80)]
    open_ones = [
        ("gm", at["pcscf-a"]["access-a"], 5061),
        ("ua", at["kms"]["access-a"], 7444),
        ("nrf", at["nrf"]["management"], 7443),
    ]
    found = lab.python("alice", _REACH.format(targets=[*targets, *open_ones]))
    assert [name for name, state in found.items() if state == "open"] == ["gm", "ua", "nrf"], found


def test_another_nodes_certificate_opens_no_slot_of_the_database(lab: Lab) -> None:
    """The role of one NF is not let into the schema of another, and nobody is let in without TLS."""
    code = (
        "import asyncio, asyncpg, json, ssl\n"
        f"word = open('{SECRETS}/database.password').read().strip()\n"
        f"tls = ssl.create_default_context(cafile='{SECRETS}/ca.crt')\n"
        "async def main():\n"
        "    found = {}\n"
        "    for name, more in (('own', {}), ('plain', {'ssl': False})):\n"
        "        try:\n"
        "            it = await asyncpg.connect(host='postgres', user='imslab-bsf', database='imslab', password=word,\n"
        "                                       **{'ssl': tls, **more})\n"
        "            found[name] = 'in'\n"
        "            try:\n"
        "                await it.fetch('select * from \"imslab-hss\".kv_subscriber limit 1')\n"
        "                found['foreign'] = 'read'\n"
        "            except asyncpg.InsufficientPrivilegeError:\n"
        "                found['foreign'] = 'refused'\n"
        "            await it.close()\n"
        "        except Exception as error:\n"
        "            found[name] = type(error).__name__\n"
        "    print(json.dumps(found))\n"
        "asyncio.run(main())\n"
    )
    found = lab.python("bsf", code)
    assert found["own"] == "in"
    assert found["foreign"] == "refused"
    assert found["plain"] == "InvalidAuthorizationSpecificationError"


# Crashes.


def _returned(lab: Lab, service: str, since: str) -> bool:
    state = lab.inspect(lab.containers(service, ended=True)[0])[0]["State"]
    return state["StartedAt"] != since and state["Running"] and everyone(lab, nodes())


def _calls(lab: Lab, security: str) -> bool:
    return lab.call("alice", "bob", "--security", security)["result"] == "established"


@pytest.mark.attack("T9")
def test_a_call_goes_on_while_its_pcscf_is_killed_and_comes_back(lab: Lab) -> None:
    verdicts: list[dict[str, Any]] = []
    talking = threading.Thread(
        target=lambda: verdicts.append(lab.call("alice", "bob", "--security", "e2ae-sdes", seconds=8.0))
    )
    talking.start()
    until(lambda: json.loads(lab.imslab("status", "--json"))["media_streams"] > 0, 60, "media")
    since = lab.starts("pcscf-a")
    lab.kill("pcscf-a")
    talking.join(120)
    until(lambda: _returned(lab, "pcscf-a", since), RETURNS_S, "pcscf-a")
    assert verdicts[0]["result"] == "established", verdicts
    assert all(heard["heard"] and heard["loss"] < 0.1 for heard in verdicts[0]["audio"].values()), verdicts
    until(lambda: _calls(lab, "e2ae-sdes"), RETURNS_S, "a call after pcscf-a was killed")


@pytest.mark.attack("T9")
@pytest.mark.parametrize(
    ("service", "security"), [("imsagw-a", "e2ae-sdes"), ("kms", "e2e-kms"), ("postgres", "e2e-kms")]
)
def test_who_is_killed_comes_back_and_calls_go_through(lab: Lab, service: str, security: str) -> None:
    since = lab.starts(service)
    lab.kill(service)
    until(lambda: _returned(lab, service, since), RETURNS_S, service)
    until(lambda: _calls(lab, security), RETURNS_S, f"a call after {service} was killed")


# Replicas.


def test_replicas_take_instances_of_their_own_and_one_may_die(lab: Lab) -> None:
    (scale,) = commands("compose/README.md", "test_replicas_take_instances_of_their_own_and_one_may_die")
    counts = {nf: int(count) for nf, count in re.findall(r"--scale ([\w-]+)=(\d+)", scale)}
    assert set(counts) == {"pcscf-a", "imsagw-a", "kms"}
    lab.shell(f"cd compose; {scale}")
    instances = {nf: instance_names(nf, count) for nf, count in counts.items()}
    everybody = [name for names in instances.values() for name in names]
    until(lambda: everyone(lab, everybody), RETURNS_S, "every instance")
    for nf, names in instances.items():
        claimed = [lab.docker("exec", one, "cat", "/tmp/imslab/node.json") for one in lab.containers(nf)]
        assert sorted(json.loads(text)["instance"] for text in claimed) == names
    kms_was, edge_was = lab.starts("kms"), lab.starts("pcscf-a")
    lab.kill("kms")
    lab.kill("pcscf-a")
    until(lambda: _calls(lab, "e2e-kms"), RETURNS_S, "a call with one instance of two")
    until(lambda: lab.starts("kms") != kms_was and lab.starts("pcscf-a") != edge_was, RETURNS_S, "the engine")
    until(lambda: everyone(lab, everybody), RETURNS_S, "the instances that were killed")
    lab.compose("up", "-d", "--no-recreate", "--scale", "pcscf-a=1", "--scale", "imsagw-a=1", "--scale", "kms=1")
    until(lambda: set(lab.status()) == set(nodes()), RETURNS_S, "the instances that were taken away to be gone")
    until(lambda: _calls(lab, "e2ae-sdes"), RETURNS_S, "a call after that")


# The end.


def test_nodes_end_in_order_when_they_are_stopped(lab: Lab) -> None:
    lab.compose("stop", "-t", "30", *nodes(), "console", "postgres")
    ended = lab.inspected()
    for name in (*nodes(), "console", "postgres"):
        assert ended[name]["State"]["ExitCode"] == 0, name
    last = {name: _events(lab, ended[name]["Id"]) for name in nodes()}
    for name, events in last.items():
        assert "node-stopped" in events, (name, events)
        assert "deregistration-failed" not in events, (name, events)


def _events(lab: Lab, container: str) -> list[str]:
    done = subprocess.run(
        ["docker", "logs", "--tail", "20", container],
        env={**os.environ, "DOCKER_HOST": lab.host},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")]


def test_nothing_is_left_when_the_lab_is_taken_down(lab: Lab) -> None:
    _, _, enter, _, _, down, *_ = commands("compose/README.md", "test_a_call_as_the_page_has_it")
    lab.shell(f"{enter}; {down}")
    assert not lab.containers(ended=True)
    mine = ("ls", "-q", "--filter", f"label=com.docker.compose.project={lab.project}")
    assert (lab.docker("volume", *mine), lab.docker("network", *mine)) == ("", "")
