"""The lab CA: what its certificates say, how long they live, who may read its keys."""

import contextlib
import ssl
import stat
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from sba.config import NodeEnvironment
from sba.errors import ConfigurationError, IdentityError
from sba.identity import NodeIdentity, read_identity
from sba.pki import LabCa, decode_nf_types, encode_nf_types
from sba.testing import LabFixture

ANNEX_P = "TS 33.328 Annex P"
ID = "3f0b2c1e-6d7a-4d51-9b7e-000000000001"


@pytest.mark.clause(ANNEX_P, "P.1.2-3")
def test_certificate_profile(tmp_path):
    ca = LabCa.create(tmp_path)
    certificate = ca.issue("cscf", ["SCSCF", "ICSCF"], ID, dns=["cscf.ims.test"], ips=["127.0.0.9", "::1", "::1"])
    identity = read_identity(certificate)
    assert identity.instance_id == str(uuid.UUID(ID))
    assert set(identity.nf_types) == {"SCSCF", "ICSCF"}
    assert identity.dns_names == ("cscf.ims.test",)
    assert identity.addresses == ("127.0.0.9", "::1")
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=396)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(ca.certificate)


@pytest.mark.clause(ANNEX_P, "P.1.2-3")
def test_no_certificate_lives_longer_than_thirteen_months(tmp_path):
    ca = LabCa.create(tmp_path)
    with pytest.raises(IdentityError):
        ca.issue("hss", ["HSS"], ID, dns=["hss.ims.test"], lifetime=timedelta(days=400))


@pytest.mark.attack("T8")
def test_private_keys_are_readable_by_their_owner_only(tmp_path):
    ca = LabCa.create(tmp_path)
    ca.issue("hss", ["HSS"], ID, dns=["hss.ims.test"])
    ca.reissue("hss")
    for path in tmp_path.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_reissue_keeps_the_names_and_changes_the_key(tmp_path):
    ca = LabCa.create(tmp_path)
    old = ca.issue("hss", ["HSS"], ID, dns=["hss.ims.test"], ips=["127.0.0.5"])
    new = LabCa.open(tmp_path).reissue("hss")
    before, after = read_identity(old), read_identity(new)
    assert (before.instance_id, before.nf_types, before.dns_names, before.addresses) == (
        after.instance_id,
        after.nf_types,
        after.dns_names,
        after.addresses,
    )
    assert old.serial_number != new.serial_number
    assert old.public_key() != new.public_key()


def test_revocation_adds_up(tmp_path):
    ca = LabCa.create(tmp_path)
    one = ca.issue("one", ["HSS"], ID, dns=["one.ims.test"])
    two = ca.issue("two", ["HSS"], ID, dns=["two.ims.test"])
    ca.revoke("one")
    ca.revoke(two)
    ca.revoke("one")
    assert {entry.serial_number for entry in ca.revocation_list()} == {one.serial_number, two.serial_number}


def test_an_authority_is_not_overwritten(tmp_path):
    LabCa.create(tmp_path)
    with pytest.raises(ConfigurationError):
        LabCa.create(tmp_path)


@pytest.mark.parametrize("name", ["", "ca", "../x", "a/b", ".hidden"])
def test_names_that_are_no_file_names(tmp_path, name):
    with pytest.raises(IdentityError):
        LabCa.create(tmp_path).issue(name, ["HSS"], ID, dns=["hss.ims.test"])


@pytest.mark.clause("RFC 9310", "3")
def test_nf_types_of_the_example_certificate():
    assert decode_nf_types(bytes.fromhex("30051603414d46")) == ("AMF",)
    assert encode_nf_types(["AMF"]) == bytes.fromhex("30051603414d46")


@pytest.mark.clause("RFC 9310", "3")
def test_nf_types_are_in_ascending_order():
    assert decode_nf_types(encode_nf_types(["SCSCF", "IMS_AS", "ICSCF"])) == ("ICSCF", "IMS_AS", "SCSCF")


@pytest.mark.clause("RFC 9310", "3")
@pytest.mark.parametrize("names", [[], ["A", "A"], [""], ["X" * 33], ["A B"], ["Ä"]])
def test_nf_types_that_are_not_allowed(names):
    with pytest.raises(IdentityError):
        encode_nf_types(names)


@given(st.binary(max_size=80))
def test_nf_types_decoder_raises_nothing_but_its_own_error(der):
    with contextlib.suppress(IdentityError):
        decode_nf_types(der)


@given(st.sets(st.from_regex(r"[A-Z0-9_]{1,32}", fullmatch=True), min_size=1, max_size=12))
def test_nf_types_come_back(names):
    assert set(decode_nf_types(encode_nf_types(names))) == names


def test_a_certificate_of_another_instance_is_a_configuration_error(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    lab.add("hss", "hss-1", nf_types=("HSS",))
    lab.document["nodes"]["hss-1"]["nf_instance_id"] = lab.instance_id("other")
    lab.write()
    with pytest.raises(ConfigurationError, match="another NF instance"):
        NodeIdentity(NodeEnvironment.load(lab.path, "hss-1"))


def test_tls_contexts_demand_what_they_should(tmp_path):
    identity = NodeIdentity(LabFixture(tmp_path, nrf=False).add("hss", "hss-1", nf_types=("HSS",)))
    assert identity.server_context(require_client=True).verify_mode is ssl.CERT_REQUIRED
    assert identity.server_context(require_client=False).verify_mode is ssl.CERT_NONE
    client = identity.client_context()
    assert client.check_hostname
    assert client.minimum_version is ssl.TLSVersion.TLSv1_2


def test_times_are_what_they_were_asked_to_be(tmp_path):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ca = LabCa.create(tmp_path, now=now)
    certificate = ca.issue("hss", ["HSS"], ID, dns=["hss.ims.test"], lifetime=timedelta(days=30), now=now)
    assert certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    assert certificate.not_valid_after_utc <= now + timedelta(days=30)
