from __future__ import annotations

import ipaddress
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.config import LabConfig, load, parse
from lab.instances import keep
from lab.labfile import LabFile, LabFileError
from lab.layout import Layout
from lab.resolve import OPERATOR, resolve
from lab.state import StateFolder
from lab.subscribers import load as load_secrets
from nodes.hss.provision import AkaCredentials, read_provisioning
from nodes.imsagw.config import ImsAgwSettings
from nodes.kms.credentials import read_static
from nodes.ue.config import UeSettings
from sba.config import NodeEnvironment
from sba.errors import StoreError
from sba.identity import read_identity
from sba.pki import LabCa
from sba.store import Sealer

LAB = Path(__file__).resolve().parents[2] / "config" / "lab.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder.at(tmp_path / "state")


@pytest.fixture
def lab(folder: StateFolder) -> dict[str, Any]:
    return resolve(load(LAB), folder)


def test_every_node_has_addresses_of_its_own_in_the_labs_subnet(lab: dict[str, Any]) -> None:
    network = ipaddress.ip_network(lab["network"])
    addresses = list(lab["layout"]["addresses"].values())
    assert len(addresses) == len(set(addresses))
    assert all(ipaddress.ip_address(address) in network for address in addresses)
    assert network.is_loopback
    for instance in ("pcscf-a", "imsagw-b"):
        assert lab["layout"]["addresses"][instance] != lab["layout"]["addresses"][f"{instance}/core"]


def test_each_node_can_load_its_part(lab: dict[str, Any], folder: StateFolder) -> None:
    for instance in lab["nodes"]:
        environment = NodeEnvironment.load(folder.lab_json, instance)
        assert environment.node.sbi.port != 0


def test_settings_are_those_the_nodes_know(lab: dict[str, Any], folder: StateFolder) -> None:
    from sba.run import node_class

    for instance, entry in lab["nodes"].items():
        if instance != OPERATOR:
            node_class(entry["kind"]).settings_class.model_validate(entry["settings"])


def test_a_lab_comes_back_at_the_same_addresses_with_the_same_identities(
    lab: dict[str, Any], folder: StateFolder
) -> None:
    serial = LabCa.open(folder.pki).present("pcscf-a").serial_number
    before = load_secrets(folder)["alice"].k
    assert resolve(load(LAB), folder) == lab
    assert LabCa.open(folder.pki).present("pcscf-a").serial_number == serial
    assert load_secrets(folder)["alice"].k == before


def test_two_labs_share_no_address(lab: dict[str, Any], tmp_path: Path) -> None:
    other = resolve(load(LAB), StateFolder.at(tmp_path / "other"))
    mine, theirs = (set(each["layout"]["addresses"].values()) for each in (lab, other))
    assert not mine & theirs


def test_a_certificate_names_the_node_its_type_and_its_addresses(lab: dict[str, Any], folder: StateFolder) -> None:
    identity = read_identity(LabCa.open(folder.pki).present("imsagw-a"))
    assert identity.nf_types == ("IMS_AGW",)
    assert identity.instance_id == lab["nodes"]["imsagw-a"]["nf_instance_id"]
    assert "imsagw-a.ims.test" in identity.dns_names
    addresses = lab["layout"]["addresses"]
    assert {addresses["imsagw-a"], addresses["imsagw-a/core"]} <= set(identity.addresses)


def test_hss_and_ue_hold_the_same_keys(lab: dict[str, Any], folder: StateFolder) -> None:
    hss = Sealer(folder.sealing_key, lab["nodes"]["hss"]["nf_instance_id"])
    subscribers = read_provisioning((folder.secrets / "hss.sealed").read_bytes(), hss)
    alice = next(entry for entry in subscribers if entry.impi.startswith("001010000000001"))
    ue = Sealer(folder.sealing_key, lab["nodes"]["alice"]["nf_instance_id"])
    card = json.loads(ue.unseal((folder.secrets / "alice.sealed").read_bytes()))
    assert isinstance(alice.credentials, AkaCredentials)
    assert alice.credentials.k.reveal().hex() == card["k"]
    assert alice.credentials.opc.reveal().hex() == card["opc"]
    assert {identity.uri for identity in alice.public_identities} == {"sip:alice@ims.test", "tel:+15550100"}


@pytest.mark.attack("T8")
def test_no_subscriber_key_stands_in_any_file_in_the_open(lab: dict[str, Any], folder: StateFolder) -> None:
    secrets = load_secrets(folder)
    needles = []
    for entry in secrets.values():
        for value in (entry.k, entry.opc, entry.password):
            if value is not None:
                raw = value.reveal()
                needles += [raw, raw.hex().encode(), raw.hex().upper().encode()]
    assert len(needles) >= 3 * (3 * 2 + 1)
    for path in folder.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path


@pytest.mark.attack("T8")
def test_a_sealed_card_opens_for_its_owner_only(lab: dict[str, Any], folder: StateFolder) -> None:
    bob = Sealer(folder.sealing_key, lab["nodes"]["bob"]["nf_instance_id"])
    with pytest.raises(StoreError):
        bob.unseal((folder.secrets / "alice.sealed").read_bytes())


def test_secrets_are_readable_by_their_owner_only(lab: dict[str, Any], folder: StateFolder) -> None:
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    for path in (folder.sealing_key, folder.secrets / "hss.sealed", folder.pki / "ca.key", folder.pki / "alice.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_policy_of_an_access_reaches_its_pcscf(folder: StateFolder) -> None:
    config = load(LAB)
    strict = config.access_networks[1].model_copy(update={"media_security": "required"})
    config = config.model_copy(update={"access_networks": [config.access_networks[0], strict]})
    lab: Any = resolve(config, folder)
    assert lab["nodes"]["pcscf-a"]["settings"]["e2ae"] == "preferred"
    assert lab["nodes"]["pcscf-b"]["settings"]["e2ae"] == "required"


def test_the_lab_file_names_nodes_by_address_and_by_name(lab: dict[str, Any], folder: StateFolder) -> None:
    file = LabFile.read(folder.lab_json)
    addresses = lab["layout"]["addresses"]
    assert file.names[addresses["pcscf-a/core"]] == "pcscf-a"
    assert file.names["imsagw-b.ims.test"] == "imsagw-b"
    assert file.users["alice"].gateway == "imsagw-a"
    assert file.gateways == ("imsagw-a", "imsagw-b")


def test_without_a_lab_the_lab_file_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match="imslab up"):
        LabFile.read(tmp_path / "lab.json")


def changed(**changes: Any) -> LabConfig:
    return parse(yaml.safe_dump({**yaml.safe_load(LAB.read_text()), **changes}))


def test_each_home_domain_has_a_kms_and_a_bsf_of_its_own_under_the_names_ues_know_them_by(
    lab: dict[str, Any], folder: StateFolder
) -> None:
    authority = LabCa.open(folder.pki)
    for domain, user, kms, bsf in (("ims.test", "alice", "kms", "bsf"), ("partner.test", "erin", "kms-p", "bsf-p")):
        told = lab["nodes"][user]["settings"]
        assert told["access_network"] == lab["users"][user]["access"]
        assert "pcscf" not in told
        assert told["kms"]["tls_name"] == told["kms"]["identity"] == f"kms.{domain}"
        assert told["bsf"]["tls_name"] == f"bsf.{domain}"
        for role, instance, listener in (("kms", kms, "http"), ("bsf", bsf, "ub")):
            settings = lab["nodes"][instance]["settings"]
            assert settings["home_domains"] == [domain]
            assert not {"host", "port"} & set(told[role]), "a UE finds them"
            assert settings[listener]["port"]
            identity = read_identity(authority.present(instance))
            assert set(identity.dns_names) == {f"{instance}.ims.test", f"{role}.{domain}"}
            assert identity.nf_types == (role.upper(),)
    file = LabFile.read(folder.lab_json)
    assert (file.names["kms.partner.test"], file.names["bsf.ims.test"]) == ("kms-p", "bsf")


@pytest.mark.attack("T6")
def test_a_kms_of_another_domain_is_no_naf_here_though_its_node_has_a_name_in_the_lab_s_domain(
    lab: dict[str, Any], folder: StateFolder
) -> None:
    names = read_identity(LabCa.open(folder.pki).present("kms-p")).dns_names
    for bsf, kms in (("bsf", "kms.ims.test"), ("bsf-p", "kms.partner.test")):
        assert lab["nodes"][bsf]["settings"]["allowed_nafs"] == [kms]
    assert not set(names) & set(lab["nodes"]["bsf"]["settings"]["allowed_nafs"])


def test_a_certificate_without_the_name_of_the_role_is_replaced(lab: dict[str, Any], folder: StateFolder) -> None:
    kms = lab["nodes"]["kms"]
    authority = LabCa.open(folder.pki)
    authority.issue("kms", ("KMS",), kms["nf_instance_id"], dns=["kms.elsewhere.test"], ips=[kms["sbi"]["host"]])
    assert resolve(load(LAB), folder) == lab
    assert "kms.ims.test" in read_identity(LabCa.open(folder.pki).present("kms")).dns_names


def test_what_a_kms_lets_users_do_reaches_the_kms_of_their_domain(folder: StateFolder) -> None:
    description: dict[str, Any] = yaml.safe_load(LAB.read_text())
    description["users"][0]["kms_rights"] = {"request_for": ["bob"], "resolve_from": [], "max_validity_s": 60}
    groups = [{"uri": "sip:sales@partner.test", "members": ["erin", "*@ims.test"], "requesters": ["alice"]}]
    config = changed(users=description["users"], kms={"groups": groups, "max_validity_s": 7200, "foreign_kms": "none"})
    nodes: Any = resolve(config, folder)["nodes"]
    own, other = nodes["kms"]["settings"], nodes["kms-p"]["settings"]
    assert own["users"]["sip:alice@ims.test"] == {
        "request_for": ["sip:bob@ims.test"],
        "resolve_from": [],
        "reusable": True,
        "max_validity_s": 60,
    }
    assert own["groups"] == {}
    assert "sip:alice@ims.test" not in other["users"]
    assert other["groups"] == {
        "sip:sales@partner.test": {
            "members": ["sip:erin@partner.test", "*@ims.test"],
            "requesters": ["sip:alice@ims.test"],
        }
    }
    assert {each["max_ticket_validity_s"] for each in (own, other)} == {7200}
    assert {each["foreign_kms"] for each in (own, other)} == {"none"}


def test_the_local_policy_of_a_user_reaches_the_ue(folder: StateFolder) -> None:
    description: dict[str, Any] = yaml.safe_load(LAB.read_text())
    policy = {
        "level": "required",
        "reusable": True,
        "peers": {"erin": "off", "*@partner.test": "allowed"},
        "also": ["bob"],
    }
    description["users"][0]["kms_policy"] = policy
    nodes: Any = resolve(changed(users=description["users"]), folder)["nodes"]
    told = nodes["alice"]["settings"]["kms_policy"]
    assert (told["level"], told["reusable"], told["also"]) == ("required", True, ["sip:bob@ims.test"])
    assert told["peers"] == {"sip:erin@partner.test": "off", "*@partner.test": "allowed"}
    assert UeSettings.model_validate(nodes["alice"]["settings"]).kms_policy.level == "required"


@pytest.mark.attack("T8")
def test_static_keys_reach_the_ue_and_its_kms_sealed_and_only_where_the_lab_wants_them(folder: StateFolder) -> None:
    lab: Any = resolve(changed(kms={"static_psk": True}), folder)
    kept = {name: own.kms_psk for name, own in load_secrets(folder).items()}
    assert all(kept.values())
    for name, kms in (("alice", "kms"), ("erin", "kms-p")):
        card = json.loads(
            Sealer(folder.sealing_key, lab["nodes"][name]["nf_instance_id"]).unseal(
                (folder.secrets / f"{name}.sealed").read_bytes()
            )
        )
        settings = lab["nodes"][kms]["settings"]
        path = Path(settings["static_psk_file"])
        environment = NodeEnvironment.load(folder.lab_json, kms)
        sealer = Sealer(folder.sealing_key, environment.node.sealed_for)
        impi = lab["users"][name]["impi"]
        entry = read_static(path, sealer.unseal)[impi.encode()]
        psk = kept[name]
        assert psk is not None
        assert entry.key == psk
        assert card["kms_psk"] == psk.reveal().hex()
        assert entry.identities[0].text == f"sip:{name}@{settings['home_domains'][0]}"
        assert psk.reveal().hex().encode() not in path.read_bytes()
    lab = resolve(changed(), folder)
    assert not any(own.kms_psk for own in load_secrets(folder).values())
    assert "static_psk_file" not in lab["nodes"]["kms"]["settings"]


def test_a_ue_is_told_the_groups_its_user_is_in_and_no_other(folder: StateFolder) -> None:
    groups = [
        {"uri": "sip:sales@ims.test", "members": ["bob", "sip:carol@ims.test"]},
        {"uri": "sip:all@ims.test", "members": ["sip:sales@ims.test", "erin"]},
        {"uri": "sip:house@partner.test", "members": ["@home"]},
        {"uri": "sip:number@ims.test", "members": ["tel:+15550100"]},
        {"uri": "sip:world@partner.test", "members": ["@lab"]},
        {"uri": "sip:domain@partner.test", "members": ["*@ims.test"]},
    ]
    nodes: Any = resolve(changed(kms={"groups": groups}), folder)["nodes"]
    told = {name: nodes[name]["settings"]["kms_policy"]["groups"] for name in ("alice", "bob", "carol", "erin")}
    assert told == {
        "alice": ["sip:number@ims.test", "sip:world@partner.test", "sip:domain@partner.test"],
        "bob": ["sip:sales@ims.test", "sip:all@ims.test", "sip:world@partner.test", "sip:domain@partner.test"],
        "carol": ["sip:sales@ims.test", "sip:all@ims.test", "sip:world@partner.test", "sip:domain@partner.test"],
        "erin": ["sip:all@ims.test", "sip:house@partner.test", "sip:world@partner.test"],
    }
    assert UeSettings.model_validate(nodes["erin"]["settings"]).kms_policy.groups == tuple(told["erin"])


def test_each_kms_knows_whose_numbers_belong_to_which_other_kms(lab: dict[str, Any]) -> None:
    assert lab["nodes"]["kms"]["settings"]["peers"] == {
        "kms.partner.test": {"responders": ["sip:*@partner.test", "tel:+15550104"]}
    }
    numbers = [f"tel:+1555010{digit}" for digit in range(4)]
    assert lab["nodes"]["kms-p"]["settings"]["peers"] == {"kms.ims.test": {"responders": ["sip:*@ims.test", *numbers]}}


def test_the_mikey_profile_and_tickets_made_by_users_reach_every_kms_and_ue(folder: StateFolder) -> None:
    profile = {"suite": "256", "ticket_kind_issued": [2, 1, 1], "ts_types_accepted": ["NTP_UTC"]}
    nodes: Any = resolve(changed(kms={"profile": profile, "user_made_tickets": True}), folder)["nodes"]
    for name in ("kms", "kms-p", "alice", "erin"):
        assert nodes[name]["settings"]["mikey_profile"] == profile, name
    assert [nodes[name]["settings"]["user_made_tickets"] for name in ("kms", "kms-p")] == [True, True]
    nodes = resolve(changed(), folder)["nodes"]
    assert not nodes["kms"]["settings"]["user_made_tickets"]
    assert "mikey_profile" not in nodes["alice"]["settings"]


def test_each_instance_of_a_network_function_is_a_node_of_its_own(folder: StateFolder) -> None:
    lab: Any = resolve(changed(instances={"pcscf-a": 2, "imsagw-b": 3}), folder)
    nodes = lab["nodes"]
    assert {name for name in nodes if nodes[name]["nf"] == "pcscf-a"} == {"pcscf-a", "pcscf-a-2"}
    assert {name for name in nodes if nodes[name]["nf"] == "imsagw-b"} == {"imsagw-b", "imsagw-b-2", "imsagw-b-3"}
    assert {name for name in nodes if nodes[name]["kind"] == "kms"} == {"kms", "kms-p"}
    first, second = nodes["pcscf-a"], nodes["pcscf-a-2"]
    assert first["nf_instance_id"] != second["nf_instance_id"]
    assert first["settings"]["access_network"] == second["settings"]["access_network"] == "access-a"
    assert first["settings"]["gm"] != second["settings"]["gm"]
    assert (first["nf_set"], NodeEnvironment.load(folder.lab_json, "pcscf-a-2").node.store_name) == ("", "pcscf-a-2")


def test_the_instances_of_a_kms_share_name_and_store(folder: StateFolder) -> None:
    lab: Any = resolve(changed(instances={"kms": 3}), folder)
    authority = LabCa.open(folder.pki)
    told = [NodeEnvironment.load(folder.lab_json, name).node for name in ("kms", "kms-2", "kms-3")]
    assert {(node.store_name, node.sealed_for) for node in told} == {("kms.ims.test", "set kms.ims.test")}
    assert len({node.settings["http"]["host"] for node in told}) == 3
    for node in told:
        names = set(read_identity(authority.present(node.instance)).dns_names)
        assert names == {f"{node.instance}.ims.test", "kms.ims.test"}
    other = NodeEnvironment.load(folder.lab_json, "kms-p").node
    assert other.sealed_for != told[0].sealed_for
    assert lab["nodes"]["kms-p"]["nf_set"] == "kms.partner.test"


def test_an_instance_that_comes_back_is_who_it_was(folder: StateFolder) -> None:
    config = load(LAB)
    before: Any = resolve(config, folder, instances={"pcscf-a": 2})
    less: Any = resolve(config, folder, instances={"pcscf-a": 1})
    assert "pcscf-a-2" not in less["nodes"]
    assert resolve(config, folder, instances={"pcscf-a": 2})["nodes"] == before["nodes"]


def test_what_scale_chose_outlives_the_lab_and_wins_over_the_description(folder: StateFolder) -> None:
    config = changed(instances={"kms": 2})
    resolve(config, folder)
    keep(folder.instances, {"kms": 1, "pcscf-b": 2})
    names = set(resolve(config, folder)["nodes"])
    assert "kms-2" not in names
    assert "pcscf-b-2" in names


@pytest.mark.parametrize("content", ["", "[]", '{"kms": 9}', '{"kms": "2"}', '{"other": 2}', '{"kms": 0}'])
def test_an_unusable_file_of_instances_changes_nothing(folder: StateFolder, content: str) -> None:
    folder.create()
    folder.instances.write_text(content)
    assert {"kms", "kms-2"} & set(resolve(load(LAB), folder)["nodes"]) == {"kms"}


def test_a_layout_may_come_from_outside(folder: StateFolder) -> None:
    lab: Any = resolve(load(LAB), folder, layout=Layout("127.9.9"))
    assert lab["network"] == "127.9.9.0/24"
    assert lab["nodes"]["kms"]["sbi"]["host"].startswith("127.9.9.")


def test_a_gateway_learns_how_many_threads_carry_its_packets(folder: StateFolder) -> None:
    content = yaml.safe_load(LAB.read_text())
    content["access_networks"][0]["packet_workers"] = {"count": 3, "cpus": [1, 0], "priority": 7}
    lab: Any = resolve(parse(yaml.safe_dump(content)), folder)
    told = {name: ImsAgwSettings.model_validate(lab["nodes"][name]["settings"]) for name in ("imsagw-a", "imsagw-b")}
    first, second = told["imsagw-a"], told["imsagw-b"]
    assert (first.relay_workers, first.relay_cpus, first.relay_priority) == (3, (1, 0), 7)
    assert (second.relay_workers, second.relay_cpus, second.relay_priority) == (0, (), 0)
