import pytest

from signalling.aka.nonces import NonceBook, NonceVerdict


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.clause("RFC 7616", "3.4", "TLS-6")
@pytest.mark.attack("T7")
def test_the_nonce_count_has_to_rise(clock):
    book = NonceBook(clock)
    book.issue("n")
    assert book.use("n", 1) is NonceVerdict.GOOD
    assert book.use("n", 1) is NonceVerdict.STALE
    assert book.use("n", 5) is NonceVerdict.GOOD
    assert book.use("n", 4) is NonceVerdict.STALE
    assert book.use("n", 0) is NonceVerdict.STALE


@pytest.mark.clause("TS 33.203", "AKA-2", "SC-8")
@pytest.mark.attack("T7")
def test_an_aka_nonce_is_good_once(clock):
    book = NonceBook(clock)
    book.issue("n")
    assert book.use("n", 1, once=True) is NonceVerdict.GOOD
    assert book.use("n", 2, once=True) is NonceVerdict.STALE


@pytest.mark.clause("TS 33.203", "E-9")
def test_a_nonce_ages(clock):
    book = NonceBook(clock, lifetime_s=240)
    book.issue("n")
    clock.now = 239.9
    assert book.use("n", 1) is NonceVerdict.GOOD
    clock.now = 240
    assert book.use("n", 2) is NonceVerdict.STALE


def test_foreign_and_voided_nonces_are_unknown(clock):
    book = NonceBook(clock)
    book.issue("n")
    book.void("n")
    book.void("n")
    assert book.use("n", 1) is NonceVerdict.UNKNOWN
    assert book.use("m", 1) is NonceVerdict.UNKNOWN


def test_a_nonce_is_issued_once(clock):
    book = NonceBook(clock)
    book.issue("n")
    with pytest.raises(ValueError, match="before"):
        book.issue("n")


@pytest.mark.attack("T7")
def test_the_book_is_bounded_and_the_oldest_go_first(clock):
    book = NonceBook(clock, limit=3)
    for nonce in "abcd":
        book.issue(nonce)
    assert len(book) == 3
    assert book.use("a", 1) is NonceVerdict.UNKNOWN
    assert book.use("d", 1) is NonceVerdict.GOOD
