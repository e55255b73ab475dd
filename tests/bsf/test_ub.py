"""The procedure of Ub and its book of challenges, without network: whatever is sent, RES alone opens the door."""

import asyncio
import string
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from nodes.bsf.challenges import ChallengeBook, GbaVector, NoVectorLeftError
from nodes.bsf.ub import Ub
from nodes.bsf.zh import HssRefusalError
from nodes.https import HttpRequest
from signalling.aka.digest import DigestChallenge, DigestCredentials, aka_password
from signalling.aka.vectors import generate_vector
from tests.bsf.home import BSF, answer
from tests.cscf.home import ALICE, BOB, OPC, K


class Hss:
    def __init__(self):
        self.sqn = 32
        self.asked = []
        self.refusal = None

    async def vector(self, impi, resync=None):
        self.asked.append((impi, resync))
        await asyncio.sleep(0)
        if self.refusal is not None or (resync is not None and resync[1] != b"g" * 14):
            raise self.refusal or HssRefusalError(403, "auts")
        self.sqn += 33
        found = generate_vector(K, OPC, self.sqn)
        self.last = GbaVector(found.rand, found.autn, found.xres, found.ck, found.ik, (f"sip:{impi}",))
        return self.last


class Kept:
    def __init__(self):
        self.added = []

    async def add(self, bootstrap):
        self.added.append(bootstrap)


class Bench:
    def __init__(self, **book):
        self.time = 0.0
        self.hss, self.kept, self.outcomes = Hss(), Kept(), []
        self.book = ChallengeBook(lambda: self.time, **{"lifetime_s": 30.0, "per_user": 3, **book})
        self.ub = Ub(
            fqdn=BSF,
            home_domains=("ims.test",),
            lifetime_s=600,
            challenges=self.book,
            bootstraps=self.kept,
            hss=self.hss,
            admits=lambda _source: True,
            record=self.outcomes.append,
            now=lambda: 1_000_000.7,
        )

    async def ask(self, authorization, **more):
        text = authorization.format() if isinstance(authorization, DigestCredentials) else authorization
        return await self.ub.answer(HttpRequest("GET", "/", (("Authorization", text),), **more))

    async def challenge(self, impi=ALICE.impi):
        response = await self.ask(DigestCredentials(impi, BSF, "/"))
        return None if response.status != 401 else DigestChallenge.parse(response.header("WWW-Authenticate"))

    def password(self):
        return aka_password("AKAv1-MD5", self.hss.last.xres, self.hss.last.ik, self.hss.last.ck)


def run(coroutine):
    """Run on a loop of its own: hypothesis calls a test many times, and the reactor's loop is at work."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


QUOTED = st.text(string.printable[:95], max_size=40)


@pytest.mark.attack("T7")
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque", "auts"),
            QUOTED,
        ),
    ),
    st.sampled_from(["", "known nonce", "known nonce and user"]),
)
def test_no_words_open_the_door(parameters, known):
    async def scenario():
        bench = Bench()
        challenge = await bench.challenge()
        if known:
            parameters.update({"nonce": challenge.nonce, "opaque": challenge.opaque, "realm": BSF, "uri": "/"})
            parameters.setdefault("username", ALICE.impi)
        if known.endswith("user"):
            parameters.update({"username": ALICE.impi, "qop": "auth-int", "algorithm": "AKAv1-MD5", "nc": "00000001"})
        escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in parameters.items()}
        text = "Digest " + ", ".join(f'{name}="{value}"' for name, value in escaped.items())
        response = await bench.ask(text)
        assert response.status in {400, 401, 403}
        assert response.body == b""
        assert bench.kept.added == []
        assert len(bench.outcomes) == 2

    run(scenario())


@pytest.mark.attack("T7")
@given(st.binary(max_size=200))
def test_no_octets_open_the_door(octets):
    async def scenario():
        bench = Bench()
        for text in (octets.decode("latin-1"), "Digest " + octets.decode("latin-1")):
            assert (await bench.ask(text)).status in {400, 403}
        assert bench.kept.added == []
        assert bench.hss.asked == []

    run(scenario())


@pytest.mark.clause("RFC 3310", "5.2")
def test_a_challenge_lives_as_long_as_told():
    async def scenario():
        bench = Bench()
        challenge = await bench.challenge()
        credentials = answer(challenge, bench.password())
        bench.time = 30.0
        late = await bench.ask(credentials)
        assert DigestChallenge.parse(late.header("WWW-Authenticate")).stale
        assert bench.kept.added == []
        assert len(bench.book) == 1
        fresh = DigestChallenge.parse(late.header("WWW-Authenticate"))
        bench.time = 59.9
        assert (await bench.ask(answer(fresh, bench.password()))).status == 200
        [kept] = bench.kept.added
        assert (kept.at, kept.expires_at, kept.impi) == (1_000_000.0, 1_000_600.0, ALICE.impi)
        assert kept.public_identities == (f"sip:{ALICE.impi}",)

    run(scenario())


def test_a_bootstrap_that_cannot_be_stored_is_not_announced():
    async def scenario():
        bench = Bench()
        challenge = await bench.challenge()

        async def fail(_bootstrap):
            raise OSError("disk full")

        bench.kept.add = fail
        with pytest.raises(OSError):
            await bench.ask(answer(challenge, bench.password()))
        assert (await bench.ask(answer(challenge, bench.password()))).status == 401

    run(scenario())


@pytest.mark.clause("TS 24.109", "4.5")
def test_resynchronisation_asks_the_hss_with_the_rand_of_the_challenge():
    async def scenario():
        bench = Bench()
        challenge = await bench.challenge()
        rand = bench.hss.last.rand
        forged = await bench.ask(answer(challenge, Secret(b""), auts=b"f" * 14))
        assert (forged.status, bench.hss.asked[-1]) == (403, (ALICE.impi, (rand, b"f" * 14)))
        good = await bench.ask(answer(challenge, Secret(b""), auts=b"g" * 14))
        assert (good.status, bench.hss.asked[-1]) == (401, (ALICE.impi, (rand, b"g" * 14)))
        assert [outcome.outcome for outcome in bench.outcomes] == ["challenged", "refused", "challenged"]

    run(scenario())


@pytest.mark.attack("T7")
def test_the_hss_being_away_costs_a_user_no_vector():
    async def scenario():
        bench = Bench()
        bench.hss.refusal = HssRefusalError(503, "hss-unreachable")
        for _ in range(10):
            response = await bench.ask(DigestCredentials(ALICE.impi, BSF, "/"))
            assert (response.status, response.header("Retry-After")) == (503, "5")
        bench.hss.refusal = None
        nonces = {(await bench.challenge()).nonce for _ in range(10)}
        assert len(nonces) == 3
        bench.time = 31.0
        assert (await bench.challenge()).nonce not in nonces

    run(scenario())


@pytest.mark.attack("T7")
def test_users_do_not_count_against_each_other_and_the_book_is_bounded(monkeypatch):
    monkeypatch.setattr("nodes.bsf.challenges.MAX_OPEN", 5)

    async def scenario():
        bench = Bench(per_user=1)
        mine = await bench.challenge(BOB.impi)
        for number in range(5):
            assert (await bench.challenge(f"{number}@ims.test")).nonce != mine.nonce
        assert len(bench.book) == 5
        assert bench.book.find(mine.nonce) is None
        with pytest.raises(NoVectorLeftError):
            bench.book.spend(BOB.impi)
        assert await bench.challenge(BOB.impi) is None
        assert bench.outcomes[-1].reason == "vectors-spent"
        assert bench.ub._turns == {}
        bench.time = 100.0
        assert bench.book.find("x") is None
        assert (len(bench.book), len(bench.book._spent)) == (0, 0)

    run(scenario())


@pytest.mark.attack("T7")
def test_concurrent_requests_for_one_user_spend_what_one_after_the_other_do():
    async def scenario():
        bench = Bench()
        found = await asyncio.gather(*(bench.challenge() for _ in range(20)))
        assert len({challenge.nonce for challenge in found}) == 3
        assert len(bench.hss.asked) == 3
        assert bench.ub._turns == {}

    run(scenario())
