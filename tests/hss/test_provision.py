"""The subscriber file: written sealed, read back, and what it refuses."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from nodes.hss.provision import (
    AkaCredentials,
    FilterCriterion,
    ProvisioningError,
    PublicIdentity,
    Subscriber,
    Trigger,
    build_provisioning,
    parse_subscribers,
    read_provisioning,
)
from nodes.hss.subscribers import NotOwnerError, SubscriberDirectory, UnknownSubscriberError, canonical_impu
from sba.errors import StoreError
from sba.store import Sealer, create_sealing_key

K = "465b5ce8b199b49faa5f0a2ee238a6bc"
OP = "cdc202d5123e20f62b6d676ac72cb318"
OPC = "cd63cb71954a9f4e48a5994e37a02baf"
ALICE = {"impi": "1@ims.test", "domain": "ims.test", "k": K, "opc": OPC, "impus": ["sip:alice@ims.test", "tel:+1555"]}


def sealer(folder, instance="hss"):
    create_sealing_key(folder / "key")
    return Sealer(folder / "key", instance)


def parse(*entries):
    return parse_subscribers(json.dumps(entries).encode())


def test_what_is_built_is_read_back(tmp_path):
    subscriber = Subscriber(
        "1@ims.test",
        "ims.test",
        (
            PublicIdentity("sip:alice@ims.test", display_name="Alice"),
            PublicIdentity("sip:hidden@ims.test", barred=True),
        ),
        AkaCredentials(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC)), b"\xb9\xb9"),
        "required",
        (FilterCriterion(3, "sip:as.ims.test", (Trigger(method="INVITE"),), terminate_on_failure=True),),
        2,
        {"mmtel": "x"},
    )
    digest = Subscriber("d@ims.test", "ims.test", (PublicIdentity("sip:d@ims.test"),), Secret("påss".encode()))
    sealing = sealer(tmp_path)
    assert read_provisioning(build_provisioning([subscriber, digest], sealing), sealing) == (subscriber, digest)


@pytest.mark.attack("T8")
def test_the_file_shows_no_key_and_opens_for_its_instance_only(tmp_path):
    [subscriber] = parse(ALICE)
    sealed = build_provisioning([subscriber], sealer(tmp_path))
    assert bytes.fromhex(K) not in sealed
    assert K.encode() not in sealed
    for other in (sealer(tmp_path, "other"),):
        with pytest.raises(StoreError):
            read_provisioning(sealed, other)
    with pytest.raises(StoreError):
        read_provisioning(sealed[:-1] + bytes([sealed[-1] ^ 1]), sealer(tmp_path))


@pytest.mark.clause("TS 35.206", "2.1")
def test_op_becomes_opc():
    [subscriber] = parse({**{k: v for k, v in ALICE.items() if k != "opc"}, "op": OP})
    assert subscriber.credentials.opc == Secret(bytes.fromhex(OPC))


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "change",
    [
        {"k": K[:-2]},
        {"k": "zz" * 16},
        {"amf": "80"},
        {"opc": None},
        {"password": "x"},
        {"k": None, "opc": None},
        {"impus": []},
        {"impus": ["tel:+1555"]},
        {"impi": "no domain"},
        {"media_security": "maybe"},
        {"max_sessions": -1},
        {"surprise": 1},
        {"filter_criteria": [{"priority": 1}]},
    ],
)
def test_wrong_entries_are_refused_without_showing_keys(change):
    with pytest.raises(ProvisioningError) as error:
        parse({**ALICE, **change})
    assert K[:16] not in str(error.value)
    assert "0x" not in str(error.value)


@given(st.binary(max_size=200))
def test_any_octets_give_subscribers_or_the_one_error(octets):
    with contextlib.suppress(ProvisioningError):
        assert parse_subscribers(octets) is not None


def test_identities_are_owned_once():
    with pytest.raises(ProvisioningError):
        parse(ALICE, {**ALICE, "impi": "2@ims.test"})
    with pytest.raises(ProvisioningError):
        parse(ALICE, {**ALICE, "impus": ["sip:other@ims.test"]})
    other = {**ALICE, "impi": "2@ims.test", "impus": ["sip:alice@IMS.test:5060"]}
    with pytest.raises(ProvisioningError):
        SubscriberDirectory(parse(ALICE, other))


@pytest.mark.clause("RFC 3261", "10.3-5")
@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("SIP:alice@IMS.Test:5060;transport=tcp?subject=x", "sip:alice@ims.test"),
        ("sips:Alice@ims.test", "sip:Alice@ims.test"),
        ("sip:%61lice@ims.test", "sip:alice@ims.test"),
        ("tel:+1-555-01.00;phone-context=x", "tel:+15550100"),
    ],
)
def test_canonical_form(uri, canonical):
    assert canonical_impu(uri) == canonical


def test_owners():
    directory = SubscriberDirectory(parse(ALICE, {**ALICE, "impi": "2@ims.test", "impus": ["sip:bob@ims.test"]}))
    assert directory.owner("1@ims.test", "tel:+1-555").impi == "1@ims.test"
    assert directory.owner("2@ims.test", "").impi == "2@ims.test"
    with pytest.raises(NotOwnerError):
        directory.owner("2@ims.test", "sip:alice@ims.test")
    for impi, impu in (("3@ims.test", "sip:alice@ims.test"), ("", "sip:eve@ims.test"), ("", "mailto:alice@ims.test")):
        with pytest.raises(UnknownSubscriberError):
            directory.owner(impi, impu)
