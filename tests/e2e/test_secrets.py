"""No key or password shows anywhere but where it is used: files, output, processes, captures (T8)."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from lab.spantext import unpack
from lab.state import StateFolder
from lab.subscribers import load
from signalling.aka.milenage import Milenage
from tests.capture.live import Capturing
from tests.e2e.capture import Capture
from tests.e2e.lab import Lab, running
from tests.e2e.live import LiveCall
from tests.e2e.search import Search
from tests.keying.mikey.independent.rfc6043 import verify_exchange

pytestmark = [pytest.mark.lab, pytest.mark.attack("T8"), pytest.mark.timeout(240)]

SUITES = (
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_192_CM_HMAC_SHA1_80",
    "AES_256_CM_HMAC_SHA1_80",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
)
LEAST_OCTETS = 6
"""Shorter values (AK, parts of keys) turn up by chance."""
_BTID = re.compile(rb"([A-Za-z0-9+/]{22}==)@bsf\.")
"""RAND of a bootstrapping, in base64, as it stands in IDRpsk."""
_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}")
_NONCE = re.compile(r'nonce="([A-Za-z0-9+/=]+)"')


@dataclass
class Searched:
    """A lab with a life behind it, and every secret that was used in it, by a name that may be shown."""

    lab: Lab
    secrets: dict[str, bytes] = field(default_factory=dict)
    call_ids: list[str] = field(default_factory=list)
    plain_capture: bytes = b""
    live_capture: bytes = b""
    live_capture_with_keys: bytes = b""

    def add(self, name: str, secret: bytes) -> None:
        assert len(secret) >= LEAST_OCTETS
        assert "_searches" not in vars(self), "all secrets are there before the first search"
        self.secrets[name] = secret

    @cached_property
    def _searches(self) -> tuple[Search, Search]:
        """For secrets as they are and in base64, and for those in hexadecimal in small letters."""
        forms = [(name, form) for name, secret in self.secrets.items() for form in (secret, *_base64_forms(secret))]
        return Search(forms), Search((name, secret.hex().encode()) for name, secret in self.secrets.items())

    def found_in(self, octets: bytes) -> list[str]:
        """Names of the secrets that `octets` holds, raw, in hexadecimal or in base64 at any alignment."""
        as_they_are, hexadecimal = self._searches
        return sorted(as_they_are.names_in(octets) | hexadecimal.names_in(octets.lower()))


def _base64_forms(secret: bytes) -> Iterator[bytes]:
    """What base64 text of anything that contains `secret` must contain, for its three alignments, both alphabets."""
    for shift in range(3):
        lead = bytes(shift)
        whole = (shift + len(secret)) // 3 * 3
        text = base64.b64encode((lead + secret)[:whole])[4 if shift else 0 :]
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")


def _digest_and_clear_users(description: dict[str, Any]) -> None:
    """dave's digest client is a UE of the lab here, grace uses AKA with ipsec-3gpp over UDP."""
    for user in description["users"]:
        if user["name"] == "dave":
            user["software_ue"] = True
    description["users"].append(
        {
            "name": "grace",
            "domain": "ims.test",
            "impi": "001010000000009@ims.test",
            "access": "access-a",
            "profile": "aka-udp",
        }
    )


def _aka_keys(searched: Searched, name: str, k: Any, opc: Any, texts: str) -> int:
    """CK, IK and RES of every challenge that shows in the capture; returns how many challenges there were."""
    rands = set()
    for nonce in _NONCE.findall(texts):
        try:
            octets = base64.b64decode(nonce, validate=True)
        except ValueError:
            continue
        if len(octets) >= 32:
            rands.add(octets[:16])
    for number, rand in enumerate(rands):
        for label, value in zip(("RES", "CK", "IK"), _f2345(k, opc, rand), strict=True):
            searched.add(f"{label} {number} of {name}", value)
    return len(rands)


def _kms_calls(found: Searched, captures: Path) -> dict[str, str]:
    """Calls and tickets with keys of the KMS, refusals and deaths among them; B-TIDs by user."""
    lab, btids = found.lab, {}
    for number, (caller, callee) in enumerate((("alice", "bob"), ("bob", "alice"), ("alice", "erin"))):
        path = captures / f"exchange-{number}.json"
        wanted = ("--security", "e2e-kms", "--seconds", "0.6", "--with-keys", "--exchange", str(path))
        result = lab.call(caller, callee, *wanted)
        found.call_ids.insert(0, result["call_id"])
        content = json.loads(path.read_text())
        for name in ("psk_i", "psk_r", "tpk"):
            found.add(f"{name} of KMS call {number}", bytes.fromhex(content[name]))
        done = verify_exchange(content)
        for name, key in done.keys.items():
            found.add(f"{name} of KMS call {number}", key)
        for kind, keys in (("ticket", done.master), ("session", done.session_keys)):
            for index, key in enumerate(keys):
                found.add(f"{kind} key {index} of KMS call {number}", key["data"])
        for cs_id, session in done.sessions.items():
            found.add(f"TEK {cs_id} of KMS call {number}", session["tek"])
            found.add(f"salt {cs_id} of KMS call {number}", session["salt"])
        for user, message in ((caller, "REQUEST_INIT"), (callee, "RESOLVE_INIT")):
            match = _BTID.search(base64.b64decode(content[message]))
            assert match is not None, message
            btids[user] = match[1].decode()
    lab.call("alice", "carol", "--security", "e2e-kms", "--seconds", "0.2", status=1)
    for spoilt in ("flip-mac", "wrong-psk", "old-timestamp"):
        lab.run("ticket", "request", "alice", "bob", "--option", f"tamper={spoilt}", check=False)
    for spoilt in ("flip-mac", "wrong-ticket", "garbage"):
        wanted = ("--security", "e2e-kms", "--option", f"tamper_mikey={spoilt}", "--seconds", "0.2")
        lab.run("call", "alice", "bob", *wanted, check=False)
    lab.run("ticket", "request", "bob", "alice", "--mode-3", check=False)
    lab.json("kms", "rotate")
    for instance in ("kms", "bsf"):
        dead = lab.kill(instance)
        lab.wait_back(instance, dead)
    lab.call("bob", "erin", "--security", "e2e-kms", "--seconds", "0.6")
    return btids


def _f2345(k: Any, opc: Any, rand: bytes) -> tuple[bytes, bytes, bytes]:
    outputs = Milenage(k, opc).f2345(rand)
    return outputs.res.reveal(), outputs.ck.reveal(), outputs.ik.reveal()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    """Calls with every suite, registrations of every profile, errors and a death; then all keys collected."""
    captures = tmp_path_factory.mktemp("captures")
    with running(tmp_path_factory.mktemp("secrets"), _digest_and_clear_users) as lab, ExitStack() as watching:
        found = Searched(lab)
        live, keyed = captures / "live.pcapng", captures / "live-keyed.pcapng"
        watching.enter_context(Capturing(lab, live))
        watching.enter_context(Capturing(lab, keyed, "--with-keys"))
        for user in ("alice", "bob", "dave", "grace"):
            assert lab.json("register", user)["registered"], user

        def take(name: str, result: dict[str, Any], path: Path) -> None:
            found.call_ids.append(result["call_id"])
            for number, line in enumerate(Capture(path).keys):
                for index, key in enumerate(line.crypto.all_keys):
                    found.add(f"SDES key {number}.{index} of {name} at {line.gateway}", key.reveal())
                found.add(f"master key {number} of {name} at {line.gateway}", line.crypto.master_key.reveal())

        for suite in SUITES:
            path = captures / f"{suite}.pcapng"
            wanted = ("--security", "e2ae-sdes", "--suite", suite, "--seconds", "0.6")
            take(suite, lab.call("alice", "bob", *wanted, "--pcap", str(path), "--with-keys"), path)
        path = captures / "changes.pcapng"
        with LiveCall(lab, "bob", "alice", "--security", "e2ae-sdes", "--pcap", str(path), "--with-keys") as call:
            for action in ("rekey", "move-port", "add-stream"):
                assert call.modify("bob", action) == 200
            dead = lab.kill("pcscf-a")
        lab.wait_back("pcscf-a", dead)
        take("changes", call.result(), path)
        # Errors that print: wrong proof, altered agreement, spoilt keys, unknown callee, e2e keys, nonsense.
        lab.run("register", "alice", "--option", "bad_response=true", check=False)
        lab.run("register", "alice", "--option", "tamper_verify=alter", check=False)
        lab.run("register", "alice", check=False)
        for spoilt in ("short-key", "same-key", "bad-mki"):
            lab.run("call", "alice", "bob", "--option", f"tamper_offer={spoilt}", "--seconds", "0.2", check=False)
        lab.run("call", "alice", "sip:nobody@ims.test", "--seconds", "0.2", check=False)
        lab.call("alice", "bob", "--security", "e2e-sdes", "--seconds", "0.6")
        btids = _kms_calls(found, captures)
        plain = captures / "plain.pcapng"
        lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.6", "--pcap", str(plain))
        found.plain_capture = plain.read_bytes()
        lab.run("deregister", "bob")
        lab.run("register", "bob")
        lab.run("flow", check=False)
        watching.close()
        found.live_capture, found.live_capture_with_keys = live.read_bytes(), keyed.read_bytes()
        texts = found.live_capture.decode("latin-1")  # challenges are no secret and stand there as they were sent
        challenges = 0
        for name, own in load(StateFolder.at(lab.state)).items():
            for label, value in vars(own).items():
                if value is not None:
                    found.add(f"{label} of {name}", value.reveal())
            if own.k is not None and own.opc is not None:
                challenges += _aka_keys(found, name, own.k, own.opc, texts)
                if name in btids:
                    outputs = _f2345(own.k, own.opc, base64.b64decode(btids[name]))
                    for label, value in zip(("RES", "CK", "IK"), outputs, strict=True):
                        found.add(f"{label} of the bootstrapping of {name}", value)
        assert {"CK of the bootstrapping of erin", "tpk of KMS call 0", "MPKr of KMS call 2"} <= set(found.secrets)
        assert challenges >= 4, "the derivation of CK and IK had nothing to work on"
        yield found


def test_search_itself_finds_a_secret_in_every_form(searched: Searched) -> None:
    secret = next(value for name, value in searched.secrets.items() if name.startswith("SDES key"))
    for disguise in (
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        *(base64.b64encode(b"\x01" * lead + secret + b"\x02" * 5) for lead in range(3)),
        base64.urlsafe_b64encode(secret),
    ):
        assert searched.found_in(b"before " + disguise + b" after"), disguise
    assert len(searched.secrets) > 50


@pytest.mark.clause("TS 33.328", "5.5.1-1")
def test_no_file_of_the_lab_holds_a_key(searched: Searched) -> None:
    read = 0
    for path in searched.lab.files():
        found = searched.found_in(path.read_bytes())
        assert not found, (path.name, found)
        read += 1
    assert read > 30
    names = {path.name for path in searched.lab.files()}
    assert "traces.sqlite" in names
    assert any(name.endswith(".log") for name in names)


def test_no_text_that_the_trace_store_keeps_compressed_holds_a_key(searched: Searched) -> None:
    with contextlib.closing(sqlite3.connect(searched.lab.state / "traces.sqlite")) as store:
        rows = store.execute("SELECT attributes, events FROM span").fetchall()
    texts = [json.dumps(unpack(stored)) for row in rows for stored in row if isinstance(stored, bytes)]
    assert len(texts) > 100, "long texts are kept compressed"
    for text in texts:
        assert not searched.found_in(text.encode()), text[:200]


def test_no_flow_in_any_format_shows_a_key(searched: Searched) -> None:
    # One call with every change in it and one with two KMSs stand for all: the others go through the same code.
    for call_id in (searched.call_ids[0], searched.call_ids[-1]):
        for form in (("text",), ("text", "--messages"), ("json",), ("mermaid",), ("html",)):
            shown = searched.lab.run("flow", call_id, "--format", *form).stdout
            assert not searched.found_in(shown.encode()), (call_id, form)


def test_no_status_or_log_command_shows_a_key(searched: Searched) -> None:
    lab = searched.lab
    outputs = [lab.run("status").stdout, lab.run("status", "--json").stdout, lab.run("pki", "show").stdout]
    outputs += [lab.run("user", name).stdout for name in lab.resolved["users"]]
    outputs += [lab.run("ue", "status", name).stdout for name in ("alice", "bob", "dave", "grace")]
    outputs += [lab.run("ue", "behave", "alice").stdout, json.dumps(lab.resolved)]
    outputs += [lab.run("ticket", "show", name).stdout for name in ("alice", "bob", "erin")]
    outputs += [lab.run("ticket", "show", "alice", "--json").stdout, lab.run("kms", "audit", "--json").stdout]
    outputs += [lab.run("logs", name).stdout for name in lab.nodes()]
    for output in outputs:
        assert not searched.found_in(output.encode()), output[:200]


def test_no_argument_or_environment_of_a_process_holds_a_key(searched: Searched) -> None:
    pids = [int(entry["pid"]) for entry in searched.lab.nodes().values()]
    pids.append(int((searched.lab.state / "supervisor.pid").read_text().split()[0]))
    assert len(pids) > 10
    for pid in pids:
        for name in ("cmdline", "environ"):
            octets = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not searched.found_in(octets), (pid, name)


def test_capture_without_the_switch_holds_no_key(searched: Searched) -> None:
    assert b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in searched.plain_capture or b"inline:<" in (
        searched.plain_capture
    )
    assert not searched.found_in(searched.plain_capture)
    text = searched.plain_capture
    assert re.findall(rb"inline:(?!<)[A-Za-z0-9+/=]{20,}", text) == []
    assert b"THIS FILE HOLDS MEDIA KEYS" not in text


def test_capture_of_the_running_lab_without_the_switch_holds_no_key_and_no_token(searched: Searched) -> None:
    assert len(searched.live_capture) > 500_000
    assert b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" in searched.live_capture
    assert not searched.found_in(searched.live_capture)
    assert not _TOKEN.search(searched.live_capture)


def test_capture_of_the_running_lab_with_keys_holds_those_of_media_alone(searched: Searched) -> None:
    found = searched.found_in(searched.live_capture_with_keys)
    assert len(found) > 10
    assert [name for name in found if not name.startswith(("SDES key", "master key"))] == []
    assert not _TOKEN.search(searched.live_capture_with_keys)


def test_lab_that_never_exports_keys_refuses_the_switch(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        description["key_export"] = "never"

    with running(own_folder, change) as lab:
        target = own_folder / "k.pcapng"
        process = lab.run("call", "alice", "bob", "--pcap", str(target), "--with-keys", check=False)
        assert process.returncode == 2
        assert not target.exists()
        process = lab.run("capture", "-o", str(target), "--with-keys", "--seconds", "1", check=False)
        assert process.returncode == 2
        assert "never exports keys" in process.stderr
        assert not target.exists()


def test_file_with_keys_is_for_its_owner_alone_and_the_command_warns(searched: Searched, tmp_path: Path) -> None:
    target = tmp_path / "k.pcapng"
    process = searched.lab.run("call", "alice", "bob", "--seconds", "0.6", "--pcap", str(target), "--with-keys")
    assert "WARNING" in process.stderr
    assert target.stat().st_mode & 0o077 == 0


def test_state_files_are_for_their_owner_alone(searched: Searched) -> None:
    root = searched.lab.state
    assert root.stat().st_mode & 0o077 == 0
    for path in (*(root / "secrets").rglob("*"), *(root / "pki").glob("*.key")):
        assert path.stat().st_mode & 0o077 == 0, path.name
