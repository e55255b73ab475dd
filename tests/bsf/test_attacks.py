"""What a hostile UE, a hostile NAF, a false BSF and a killed one come to (T6 to T9)."""

import asyncio
import base64
import contextlib
import dataclasses

import grpc
import pytest

from keying.secret import Secret
from nodes.https import HttpsClient
from nodes.ue.gba import GbaError
from protos import bsf_gba_pb2, hss_gba_pb2
from sba.errors import RemoteProblem
from sba.identity import NodeIdentity
from sba.testing import async_test
from signalling.aka.digest import DigestChallenge, DigestCredentials, aka_password
from signalling.aka.gba import naf_id
from signalling.aka.vectors import Usim, parse_nonce
from tests.bsf.home import BSF, GET_INFO, KMS, UB, Ue, answer, answered, home
from tests.bsf.web import read_all
from tests.cscf.home import ALICE, BOB, OPC, K

VECTOR = hss_gba_pb2.DESCRIPTOR.services_by_name["NhssGbaUeAuthentication"].methods_by_name["GenerateVector"]


def sequence(autn, rand):
    """SQN of a challenge."""
    ak = Usim(K, OPC)._milenage.f2345(rand).ak.reveal()
    return int.from_bytes(bytes(a ^ b for a, b in zip(autn[:6], ak, strict=True)), "big")


def renamed(credentials, **changes):
    return dataclasses.replace(credentials, **changes)


# Hostile UEs.


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.109", "4.3")
@async_test
async def test_a_wrong_res_gets_nothing_and_takes_nothing_from_the_right_one(tmp_path):
    async with home(tmp_path) as it:
        challenge = await it.challenge()
        for wrong in (Secret(b""), Secret(bytes(8)), Secret(b"\xff" * 8)):
            response = await it.get(answer(challenge, wrong))
            assert (response.status, response.body) == (403, b"")
        assert len(it.bsf._bootstraps) == 0
        assert (await it.get(answered(challenge, Usim(K, OPC)))).status == 200


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3310", "5.2", "5.6")
@async_test
async def test_a_replayed_answer_is_challenged_and_bootstraps_nothing(tmp_path):
    async with home(tmp_path) as it:
        challenge = await it.challenge()
        credentials = answered(challenge, Usim(K, OPC))
        assert (await it.get(credentials)).status == 200
        [kept] = it.bsf._bootstraps._by_btid
        again = await it.get(credentials)
        assert (again.status, again.body, again.header("Authentication-Info")) == (401, b"", None)
        fresh = DigestChallenge.parse(again.header("WWW-Authenticate"))
        assert fresh.stale
        assert fresh.nonce != challenge.nonce
        assert list(it.bsf._bootstraps._by_btid) == [kept]
        older = renamed(credentials, nonce=fresh.nonce, opaque=fresh.opaque)
        assert (await it.get(older)).status == 403


@pytest.mark.attack("T7")
@async_test
async def test_the_right_answer_many_times_at_once_bootstraps_once(tmp_path):
    async with home(tmp_path) as it:
        credentials = answered(await it.challenge(), Usim(K, OPC))
        found = await asyncio.gather(*(it.get(credentials) for _ in range(12)))
        assert sorted(response.status for response in found) == [200] + [401] * 11
        assert len(it.bsf._bootstraps) == 1
        nonces = {
            DigestChallenge.parse(response.header("WWW-Authenticate")).nonce
            for response in found
            if response.status == 401
        }
        assert len(nonces) == it.bsf.settings.vectors_per_user


@pytest.mark.attack("T7", "T5")
@async_test
async def test_nobody_bootstraps_as_somebody_else(tmp_path):
    async with home(tmp_path) as it:
        challenge = await it.challenge(ALICE.impi)
        as_bob = answered(challenge, Usim(K, OPC), BOB.impi)
        assert (await it.get(as_bob)).status == 403
        as_nobody = answered(challenge, Usim(K, OPC), "001010000009999@ims.test")
        assert (await it.get(as_nobody)).status == 403
        with pytest.raises(GbaError) as error:
            await Ue(it, ALICE.impi, Usim(Secret(bytes(16)), OPC)).gba.credential(KMS)
        assert error.value.reason == "network"
        elsewhere = DigestCredentials("001010000000001@partner.test", BSF, "/")
        assert (await it.get(elsewhere)).status == 403
        assert len(it.bsf._bootstraps) == 0


@pytest.mark.attack("T7", "T1")
@async_test
async def test_every_part_of_an_answer_counts(tmp_path):
    async with home(tmp_path) as it:
        challenge = await it.challenge()
        good = answered(challenge, Usim(K, OPC))
        password = aka_password(
            "AKAv1-MD5", Usim(K, OPC).authenticate(*parse_nonce(challenge.nonce)).res, *[Secret(b"")] * 2
        )
        spoiled = {
            "realm": renamed(good, realm="kms.ims.test"),
            "opaque": renamed(good, opaque="0" * 32),
            "no opaque": renamed(good, opaque=None),
            "qop": answer(challenge, password, qop="auth"),
            "no qop": renamed(good, qop=None, nc=None, cnonce=None),
            "algorithm": renamed(good, algorithm="MD5"),
            "other algorithm": renamed(good, algorithm="AKAv2-SHA-256"),
            "uri": answer(challenge, password, uri="/other"),
            "count": answer(challenge, password, nc=2),
            "cnonce": renamed(good, cnonce=""),
        }
        for name, credentials in spoiled.items():
            assert (await it.get(credentials)).status == 400, name
        assert (await it.get(renamed(good, cnonce="other"))).status == 403
        assert (await it.get(good, body=b"something else")).status == 403
        assert (await it.get(good, target="/?x=1")).status == 400
        assert (await it.get(good)).status == 200


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.102", "RS-3")
@async_test
async def test_a_forged_resynchronisation_moves_nothing(tmp_path):
    async with home(tmp_path) as it:
        usim = Usim(K, OPC)
        challenge = await it.challenge()
        rand, autn = parse_nonce(challenge.nonce)
        genuine = Usim(K, OPC)
        genuine.state.highest = {0: 1 << 40}
        auts = genuine.auts(rand)
        for forged in (bytes(14), auts[:-1] + bytes((auts[-1] ^ 1,)), genuine.auts(bytes(16))):
            response = await it.get(answer(challenge, Secret(b""), auts=forged))
            assert response.status == 403
        unproved = renamed(answer(challenge, Secret(b"x"), auts=auts))
        assert (await it.get(unproved)).status == 403
        short = renamed(answer(challenge, Secret(b""), auts=auts), auts=Secret(b"AAAA"))
        assert (await it.get(short)).status == 403
        assert (await it.get(answered(challenge, usim))).status == 200
        after = parse_nonce((await it.challenge()).nonce)
        assert 0 < sequence(after[1], after[0]) - sequence(autn, rand) < 1 << 10


@pytest.mark.attack("T7")
@async_test
async def test_a_resynchronisation_is_followed_once(tmp_path):
    async with home(tmp_path) as it:
        ahead = Usim(K, OPC)
        ahead.state.highest = {0: 1_000_000}
        challenge = await it.challenge()
        resync = answer(challenge, Secret(b""), auts=ahead.auts(parse_nonce(challenge.nonce)[0]))
        first = await it.get(resync)
        fresh = DigestChallenge.parse(first.header("WWW-Authenticate"))
        assert not fresh.stale
        rand, autn = parse_nonce(fresh.nonce)
        assert sequence(autn, rand) >> 5 > 1_000_000
        replayed = DigestChallenge.parse((await it.get(resync)).header("WWW-Authenticate"))
        assert replayed.stale
        assert (await it.get(answered(fresh, ahead))).status == 200


@pytest.mark.attack("T7")
@async_test
async def test_challenges_asked_for_in_a_users_name_neither_lock_him_out_nor_use_up_his_numbers(tmp_path):
    async with home(tmp_path, vectors_per_user=4, requests_per_second=1000, burst=1000) as it:
        ue = Ue(it)
        before = await ue.gba.credential(KMS)
        nonces = [(await it.challenge()).nonce for _ in range(40)]
        assert len(set(nonces)) == 4
        assert set(nonces[3:]) == {nonces[3]}
        assert (await ue.key_anew(KMS)).btid != before.btid
        assert len({(await it.challenge()).nonce for _ in range(2)} & set(nonces)) == 0


@pytest.mark.attack("T7")
@async_test
async def test_one_address_is_slowed_down_and_the_next_is_served(tmp_path):
    async with home(tmp_path, requests_per_second=0.01, burst=3) as it:
        first = DigestCredentials(ALICE.impi, BSF, "/")
        assert [(await it.get(first)).status for _ in range(5)] == [401, 401, 401, 429, 429]
        assert (await it.get(first)).header("Retry-After") is not None
        with pytest.raises(GbaError) as error:
            await Ue(it).gba.credential(KMS)
        assert error.value.reason == "unreachable"
        it.client = HttpsClient(tmp_path / "pki" / "ca.crt", it.telemetry, source="127.0.0.7")
        assert (await Ue(it).gba.credential(KMS)).btid


@pytest.mark.attack("T7")
@async_test
async def test_what_is_no_bootstrapping_is_refused_and_costs_no_vector(tmp_path):
    async with home(tmp_path, requests_per_second=1000, burst=1000) as it:
        first = parse_nonce((await it.challenge()).nonce)
        good = DigestCredentials(ALICE.impi, BSF, "/").format()
        refused = [
            (await it.get(None), 400),
            (await it.get("Basic YTpi"), 400),
            (await it.get("Digest"), 400),
            (await it.get("Digest " + "a" * 8000), 400),
            (await it.get('Digest username="x", username="y"'), 400),
            (await it.get(DigestCredentials("", BSF, "/")), 403),
            (await it.get(DigestCredentials("a@b@ims.test", BSF, "/")), 403),
            (await it.get(DigestCredentials("x" * 500 + "@ims.test", BSF, "/")), 403),
            (await it.get(DigestCredentials("o' or 1=1@ims.test", BSF, "/")), 403),
            (await it.get(DigestCredentials("ålice@ims.test", BSF, "/")), 403),
            (await it.get(good, target="/other"), 404),
            (await it.get(good, target="/..//"), 404),
            (await it.get(good, method="POST", body=b"x"), 405),
            (await it.get(good, method="DELETE"), 405),
            (await it.get(good, body=b"x" * 100_000), 413),
        ]
        assert [response.status for response, _ in refused] == [status for _, status in refused]
        assert all(response.body == b"" for response, _ in refused)
        second = parse_nonce((await it.challenge()).nonce)
        assert sequence(second[1], second[0]) >> 5 == (sequence(first[1], first[0]) >> 5) + 1


@pytest.mark.attack("T7")
@async_test
async def test_silent_and_oversized_clients_do_not_keep_a_user_from_his_key(tmp_path):
    async with home(tmp_path, bsf=False) as it:
        process = await it.spawn_bsf()
        identity = NodeIdentity(it.lab.add("client", "prober", nf_types=("LAB",)))
        tls = identity.client_context(present_certificate=False)
        idle = [await asyncio.open_connection(UB, it.port) for _ in range(30)]
        half = [await asyncio.open_connection(UB, it.port, ssl=tls, server_hostname=BSF) for _ in range(20)]
        for _, writer in half:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        over = []
        for octets in (
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n",
            b"GET /" + b"x" * 200_000,
        ):
            reader, writer = await asyncio.open_connection(UB, it.port, ssl=tls, server_hostname=BSF)
            with contextlib.suppress(OSError):
                writer.write(octets)
                await writer.drain()
            over.append((await read_all(reader)).split(b"\r\n")[0])
            writer.close()
        assert over == [
            b"HTTP/1.1 400 Bad Request",
            b"HTTP/1.1 413 Request Entity Too Large",
            b"HTTP/1.1 400 Bad Request",
        ]
        key = await Ue(it).gba.credential(KMS)
        assert Secret((await it.info(key.btid)).ks_naf) == key.key
        for _, writer in idle + half:
            writer.close()
        assert await process.terminate() == 0
        assert not [line for line in process.text if "Traceback" in line or "Unhandled" in line]


# Hostile NAFs and other consumers.


@pytest.mark.attack("T6")
@pytest.mark.clause("TS 33.220", "4.5.3")
@async_test
async def test_a_naf_gets_keys_in_its_own_name_alone(tmp_path):
    async with home(tmp_path) as it:
        key = await Ue(it).gba.credential(KMS)
        other = await it.lab.client("KMS", "kms-2")
        cases = {
            (it.kms, naf_id("kms-2.ims.test")): 403,
            (it.kms, naf_id("kms.partner.test")): 403,
            (other, naf_id(KMS)): 403,
            (it.kms, naf_id(KMS, bytes.fromhex("0100000002"))): 403,
            (it.kms, b"KMS.ims.test" + bytes.fromhex("0100000006")): 400,
            (it.kms, b""): 400,
            (it.kms, b"\x00" * 400): 400,
        }
        for (client, naf), status in cases.items():
            with pytest.raises(RemoteProblem) as error:
                await it.info(key.btid, naf, client)
            assert error.value.problem.status == status, naf
        for btid in (
            "",
            "x",
            "AAAAAAAAAAAAAAAAAAAAAA==@bsf.ims.test",
            key.btid.replace("ims", "partner"),
            key.btid + " ",
        ):
            with pytest.raises(RemoteProblem) as error:
                await it.info(btid)
            assert (error.value.problem.status, error.value.cause) == (404, "CONTEXT_NOT_FOUND")
        own = await it.info(key.btid, naf_id("kms-2.ims.test"), other)
        assert Secret(own.ks_naf) != key.key


@pytest.mark.attack("T6")
@async_test
async def test_nafs_of_the_list_alone_get_keys_when_there_is_one(tmp_path):
    async with home(tmp_path, allowed_nafs=["KMS-2.ims.test"]) as it:
        key = await Ue(it).gba.credential(KMS)
        with pytest.raises(RemoteProblem) as error:
            await it.info(key.btid)
        assert error.value.problem.status == 403
        listed = await it.lab.client("KMS", "kms-2")
        assert len((await it.info(key.btid, naf_id("kms-2.ims.test"), listed)).ks_naf) == 32


@pytest.mark.attack("T6")
@async_test
async def test_no_token_and_no_other_consumer_reaches_a_key_or_a_vector(tmp_path):
    async with home(tmp_path) as it:
        key = await Ue(it).gba.credential(KMS)
        request = bsf_gba_pb2.BootstrappingInfoRequest(btid=key.btid, naf_id=naf_id(KMS))
        for nf_type in ("UE", "SCSCF", "PCSCF", "HSS", "IMS_AS"):
            client = await it.lab.client(nf_type, f"naf-{nf_type.lower()}".replace("_", "-"))
            with pytest.raises(RemoteProblem) as error:
                await it.info(key.btid, client=client)
            assert error.value.code is not grpc.StatusCode.OK
            with pytest.raises(RemoteProblem):
                await client.call(VECTOR, hss_gba_pb2.GbaVectorRequest(impi=ALICE.impi))
        with pytest.raises(RemoteProblem):
            await it.kms.call(VECTOR, hss_gba_pb2.GbaVectorRequest(impi=ALICE.impi))
        kms = NodeIdentity(it.lab.add("client", "kms", nf_types=("KMS",)))
        node = it.lab.document["nodes"]["bsf"]
        options = (("grpc.ssl_target_name_override", node["fqdn"]),)
        target = f"{node['sbi']['host']}:{node['sbi']['port']}"
        async with grpc.aio.secure_channel(target, kms.channel_credentials(), options) as channel:
            bare = channel.unary_unary(f"/{GET_INFO.containing_service.full_name}/{GET_INFO.name}")
            for metadata in ((), (("authorization", "Bearer x.y.z"),)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await bare(request.SerializeToString(), metadata=metadata, timeout=5)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.attack("T6")
@async_test
async def test_an_hss_gives_a_bsf_one_vector_of_a_user_with_a_usim(tmp_path):
    async with home(tmp_path, bsf=False) as it:
        bsf = await it.lab.client("BSF", "bsf")
        answer = await bsf.call(VECTOR, hss_gba_pb2.GbaVectorRequest(impi=ALICE.impi))
        Usim(K, OPC).authenticate(answer.vector.rand, answer.vector.autn)
        assert "sip:secret-alice@ims.test" not in answer.public_identities
        short = hss_gba_pb2.GbaVectorRequest(impi=ALICE.impi)
        short.resync.rand = b"short"
        for request, cause in (
            (hss_gba_pb2.GbaVectorRequest(), "MANDATORY_IE_MISSING"),
            (hss_gba_pb2.GbaVectorRequest(impi="nobody@ims.test"), "USER_NOT_FOUND"),
            (hss_gba_pb2.GbaVectorRequest(impi="dave@ims.test"), "AUTHENTICATION_SCHEME_NOT_SUPPORTED"),
            (short, "MANDATORY_IE_INCORRECT"),
        ):
            with pytest.raises(RemoteProblem) as error:
                await bsf.call(VECTOR, request)
            assert error.value.cause == cause


# Death.


@pytest.mark.attack("T9")
@async_test
async def test_a_bsf_killed_between_challenge_and_answer_challenges_again(tmp_path):
    async with home(tmp_path, bsf=False) as it:
        process = await it.spawn_bsf()
        ue = Ue(it)
        genuine, requests = it.client.request, []

        async def request(*args, **more):
            nonlocal process
            response = await genuine(*args, **more)
            requests.append(response.status)
            if len(requests) == 1:
                await process.kill()
                process = await it.spawn_bsf()
            return response

        it.client.request = request
        key = await ue.gba.credential(KMS)
        assert requests == [401, 401, 200]
        assert Secret((await it.info(key.btid)).ks_naf) == key.key
        await process.terminate()


@pytest.mark.attack("T9", "T8")
@async_test
async def test_a_killed_bsf_returns_with_its_bootstraps_and_keeps_no_key_in_the_open(tmp_path):
    async with home(tmp_path, bsf=False) as it:
        process = await it.spawn_bsf()
        challenge = await it.challenge()
        rand, autn = parse_nonce(challenge.nonce)
        response = await it.get(answered(challenge, Usim(K, OPC)))
        assert response.status == 200
        await process.kill()
        process = await it.spawn_bsf()
        btid = base64.b64encode(rand).decode() + "@" + BSF
        found = await it.info(btid)
        assert found.impi == ALICE.impi
        result = Usim(K, OPC).authenticate(rand, autn)
        keys = [result.ck.reveal(), result.ik.reveal(), result.res.reveal(), found.ks_naf]
        await process.kill()
        places = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
        seen = b"".join(places) + "\n".join(process.text).encode() + it.log.getvalue().encode()
        seen += str([(span.attributes, span.events) for span in it.spans.get_finished_spans()]).encode()
        for key in keys:
            for form in (key, key.hex().encode(), base64.b64encode(key)):
                assert form not in seen


@pytest.mark.attack("T8")
@async_test
async def test_a_record_moved_to_another_user_opens_nowhere(tmp_path):
    async with home(tmp_path) as it:
        alice, bob = await Ue(it).gba.credential(KMS), await Ue(it, BOB.impi).gba.credential(KMS)
        table = it.bsf._bootstraps._table
        mine, other = await table.get(alice.btid), await table.get(bob.btid)
        await table.put(alice.btid, {**mine, "ks": other["ks"]})
        await table.put(bob.btid, {**other, "impi": ALICE.impi})
        await table.put("junk", {"ks": 7})
        await it.lab.stop("bsf")
        await it.start_bsf()
        for key in (alice, bob):
            with pytest.raises(RemoteProblem) as error:
                await it.info(key.btid, client=await it.lab.client("KMS", "kms"))
            assert error.value.problem.status == 404
        assert await it.bsf._bootstraps._table.items() == []
