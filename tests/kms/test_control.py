"""What the operator sees and does at a KMS, and what nobody gets to see."""

import json

import grpc
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keying.mikey.codec import encode_ticket
from keying.mikey.payloads import TicketPayload
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.ticket import TicketProtectionKey, open_ticket, ticket_id
from keying.secret import Secret
from nodes.kms.credentials import STATIC_PLACE, read_static
from nodes.kms.node import Kms
from protos import kms_control_pb2 as pb
from sba.errors import ConfigurationError, RemoteProblem
from sba.store import Sealer
from sba.testing import LabFixture, async_test
from tests.kms.home import Home, sent
from tests.kms.parties import ALICE, BOB

CONTROL = pb.DESCRIPTOR.services_by_name["NkmsControl"].methods_by_name


@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
@async_test
async def test_the_operator_reads_the_audit_and_turns_the_ticket_key(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        operator = await lab.client("LAB")
        ticket = await alice.ticket(BOB)
        fresh = (await operator.call(CONTROL["RotateTicketKey"], pb.RotateRequest())).tpk_id
        assert (await bob.resolve(sent(ticket))).mpki.key == ticket.mpki.key
        later = await alice.ticket(BOB)
        entries = (await operator.call(CONTROL["Audit"], pb.AuditRequest())).entries
        assert [(entry.operation, entry.outcome, entry.user) for entry in entries] == [
            ("request", "granted", ALICE.text),
            ("resolve", "granted", BOB.text),
            ("request", "granted", ALICE.text),
        ]
        assert entries[0].tpk_id == fresh != entries[1].tpk_id == entries[2].tpk_id
        assert entries[1].ticket_id == entries[2].ticket_id == ticket_id(ticket.payload)
        assert entries[0].ticket_id == ticket_id(later.payload)
        assert list(entries[0].responders) == [BOB.text]
        assert entries[0].not_after - entries[0].at == pytest.approx(3600, abs=5)
        of_bob = await operator.call(CONTROL["Audit"], pb.AuditRequest(user=BOB.text, limit=5))
        assert [entry.user for entry in of_bob.entries] == [BOB.text]


@pytest.mark.attack("T8")
@async_test
async def test_a_ticket_key_leaves_by_the_lab_s_switch_alone_and_loudly(tmp_path, capfd):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice = home.ue("alice")
        operator = await lab.client("LAB")
        ticket = await alice.ticket(BOB)
        wish = pb.ExportTicketKeyRequest(ticket=encode_ticket(ticket.payload))
        with pytest.raises(RemoteProblem) as error:
            await operator.call(CONTROL["ExportTicketKey"], wish)
        assert error.value.cause == "KEY_EXPORT_OFF"
        await lab.stop("kms")
        lab.document["key_export"] = True
        home.kms = await lab.start("kms", "kms", home.settings(), cls=Kms)
        answer = await operator.call(CONTROL["ExportTicketKey"], wish, timeout=10.0)
        key = TicketProtectionKey(bytes.fromhex(answer.tpk_id), Secret(answer.tpk))
        contents = open_ticket(DEFAULT_PROFILE, ticket.payload, lambda _name: key)
        assert contents.keys[0].key == ticket.keys[0].key
        assert "kms-ticket-key-exported" in capfd.readouterr().err
        unknown = TicketPayload(ticket.payload.policy, ticket.payload.ticket_data.replace(key.key_id, bytes(8)))
        for octets, cause in (
            (b"\x00", "INVALID_MSG_FORMAT"),
            (bytes(20_000), "INVALID_MSG_FORMAT"),
            (encode_ticket(unknown), "TICKET_KEY_NOT_FOUND"),
        ):
            with pytest.raises(RemoteProblem) as error:
                await operator.call(CONTROL["ExportTicketKey"], pb.ExportTicketKeyRequest(ticket=octets))
            assert error.value.cause == cause


@pytest.mark.attack("T6")
@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("Audit", pb.AuditRequest),
        ("RotateTicketKey", pb.RotateRequest),
        ("ExportTicketKey", pb.ExportTicketKeyRequest),
    ],
)
@async_test
async def test_control_is_the_operator_s_alone(tmp_path, method, request_type):
    async with LabFixture(tmp_path) as lab:
        lab.document["key_export"] = True
        home = await Home(lab).start()
        before = home.kms._keys.current.key_id
        for nf_type in ("KMS", "BSF", "PCSCF", "UE"):
            client = await lab.client(nf_type)
            with pytest.raises(RemoteProblem) as error:
                await client.call(CONTROL[method], request_type())
            assert error.value.code in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.INVALID_ARGUMENT,
            )
        assert home.kms._keys.current.key_id == before


@pytest.mark.attack("T8")
@async_test
async def test_no_key_is_in_spans_logs_or_the_database(tmp_path, capfd):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        spans = InMemorySpanExporter()
        home.kms.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        found = await bob.resolve(sent(ticket))
        assert (await bob.resolve(sent(ticket, b"\x01" * 20))).status == 403
        assert (await home.ue("alice", known=False).ticket(BOB)).status == 401
        secrets = [
            alice.credential.key,
            bob.credential.key,
            ticket.mpki.key,
            ticket.mpkr.key,
            found.forked_mpkr.key,
            *(key.key for key in (*ticket.keys, *found.keys)),
            home.kms._keys.current.key,
        ]
        finished = spans.get_finished_spans()
        decisions = [dict(span.attributes) for span in finished if span.name == "kms.decision"]
        assert [(each["imslab.kms.operation"], each["imslab.kms.outcome"]) for each in decisions] == [
            ("request", "granted"),
            ("resolve", "granted"),
            ("resolve", "refused"),
            ("request", "refused"),
        ]
        assert decisions[0]["imslab.kms.user"] == ALICE.text
        assert decisions[0]["imslab.kms.responders"] == [BOB.text]
        assert decisions[0]["imslab.kms.ticket_id"] == ticket_id(ticket.payload)
        http = next(dict(span.attributes) for span in finished if span.name == "POST")
        assert http["imslab.mikey.request"].startswith("REQUEST_INIT_PSK: T, RANDRi, IDRi, IDRkms, TP, IDRpsk, V")
        assert http["imslab.mikey.response"].startswith("REQUEST_RESP: T, IDRkms, TICKET, KEMAC, V")
        captured = capfd.readouterr()
        text = (
            captured.err
            + captured.out
            + "".join(span.to_json() if hasattr(span, "to_json") else str(vars(span)) for span in finished)
        )
        kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
        for secret in secrets:
            octets = secret.reveal()
            assert octets.hex() not in text
            assert str(octets) not in text
            assert octets not in kept
            assert octets.hex().encode() not in kept
        assert b"kms_audit" in kept


def static_file(lab, path, content, instance="kms"):
    sealer = Sealer(lab.folder / "sealing.key", lab.instance_id(instance))
    path.write_bytes(sealer.seal(content if isinstance(content, bytes) else json.dumps(content).encode(), STATIC_PLACE))
    return path


@pytest.mark.clause("TS 33.328", "6.2.3.1-2")
@async_test
async def test_static_keys_are_off_unless_a_file_is_named_and_then_loud(tmp_path, capfd):
    async with LabFixture(tmp_path) as lab:
        entry = {
            "psk_identity": "alice@ims.test",
            "psk": "ab" * 32,
            "impi": "alice@ims.test",
            "identities": [ALICE.text],
        }
        path = static_file(lab, tmp_path / "psk.sealed", [entry])
        home = await Home(lab).start()
        alice = home.ue("alice", btid="alice@ims.test", key=Secret(b"\xab" * 32), known=False)
        assert (await alice.ticket(BOB)).status == 401
        await lab.stop("kms")
        assert "NON-SECURE" not in capfd.readouterr().err
        home.kms = await lab.start("kms", "kms", home.settings(static_psk_file=str(path)), cls=Kms)
        assert "NON-SECURE" in capfd.readouterr().err
        assert (await alice.ticket(BOB)).payload
        assert (await home.ue("bob").ticket(ALICE)).payload


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        [{"psk_identity": "a", "psk": "abcd", "impi": "a", "identities": ["sip:a@b"]}],
        [{"psk_identity": "a", "psk": "ab" * 32, "impi": "a", "identities": []}],
        [{"psk_identity": "a", "psk": "ab" * 32, "impi": "a", "identities": ["sip:a@b"], "more": 1}],
        {"psk": "ab" * 32},
    ],
)
def test_a_static_key_file_that_cannot_be_used_says_nothing_of_its_content(tmp_path, content):
    lab = LabFixture(tmp_path, nrf=False)
    path = static_file(lab, tmp_path / "psk.sealed", content)
    sealer = Sealer(tmp_path / "sealing.key", lab.instance_id("kms"))
    with pytest.raises(ConfigurationError) as error:
        read_static(path, sealer.unseal)
    assert "ab" * 8 not in str(error.value)
    assert error.value.__cause__ is None
    with pytest.raises(ConfigurationError):
        read_static(path, Sealer(tmp_path / "sealing.key", lab.instance_id("other")).unseal)
    with pytest.raises(ConfigurationError):
        read_static(tmp_path / "none", sealer.unseal)
