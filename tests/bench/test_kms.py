"""The bench of the KMS measures what it says: the cryptography is that of the messages, the store is filled as told."""

from dataclasses import replace

import pytest
from sqlalchemy import create_engine, func, select

from bench.kms import Case, Results, Run
from bench.kms_crypto import Cryptography
from bench.kms_parties import Call, Parties
from bench.kms_store import handler
from nodes.kms.tables import AUDIT, SEEN, USES
from sba.testing import async_test


def test_the_cryptography_alone_comes_to_macs_ciphertexts_and_keys_of_a_real_call():
    parties = Parties(1)
    call = Call.placed(parties.pairs[0], parties.kms())
    assert len(Cryptography(call).transfer()) == 13
    for part in ("request", "granted", "question", "resolved", "offer"):
        octets = getattr(call, part)
        altered = replace(call, **{part: octets[:-1] + bytes([octets[-1] ^ 1])})
        with pytest.raises(ArithmeticError):
            Cryptography(altered)


@async_test
async def test_a_store_is_filled_with_what_tickets_leave_and_answers_beside_it(tmp_path):
    parties, tickets = Parties(2), 50
    async with handler(tmp_path / "kms", "", parties, tickets) as kms:
        for message in parties.requests(3):
            assert await kms.grant(message)
        for message in parties.questions(3):
            assert await kms.resolve(message)
    [file] = tmp_path.rglob("store.sqlite")
    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        rows = [connection.scalar(select(func.count()).select_from(table)) for table in (SEEN, AUDIT, USES)]
        assert rows == [2 * tickets + 6, 2 * tickets + 6, tickets + 3]
        assert connection.scalar(select(func.count()).where(AUDIT.c.outcome != "granted")) == 0
    engine.dispose()


def test_a_ratio_is_made_round_by_round():
    results = Results()
    crypto, engines = Case("request", "at the KMS", "crypto"), Case("request", "at the KMS", "engines")
    for quick, slow in ((1.0, 5.0), (2.0, 8.0), (1.0, 20.0)):
        results.add(Run([quick / 2] * 2, quick, quick), crypto)
        results.add(Run([slow / 4] * 4, slow, slow), engines)
    [_, row] = results.rows()
    assert row["ratio_to_crypto"] == {"min": 2.0, "median": 2.5, "max": 10.0}
    assert row["processor_to_crypto"] == {"min": 2.0, "median": 2.5, "max": 10.0}
    assert row["per_s"] == row["per_core_s"] == {"min": 0.2, "median": 0.5, "max": 0.8}
    assert (row["rounds"], row["operations_a_round"]) == (3, 4)
