import dataclasses

import pytest

from signalling.sdp import SdpShapeError, check_answer_shape, check_successor, parse_sdp

OFFER = """v=0
o=a 1 1 IN IP4 192.0.2.1
s=-
c=IN IP4 192.0.2.1
t=0 0
m=audio 40000 RTP/SAVP 0
m=video 0 RTP/AVP 31
"""


def answer(old="", new=""):
    return parse_sdp(OFFER.replace("o=a 1 1", "o=b 9 5").replace(old, new) if old else OFFER)


@pytest.mark.clause("RFC 3264", "6")
def test_an_answer_of_the_same_shape_fits():
    check_answer_shape(parse_sdp(OFFER), answer("40000 RTP/SAVP", "50000 RTP/SAVP"))
    check_answer_shape(parse_sdp(OFFER), answer("40000 RTP/SAVP", "0 RTP/SAVP"))


@pytest.mark.clause("RFC 3264", "6")
@pytest.mark.clause("RFC 5124", "3.3.1")
@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("m=video 0 RTP/AVP 31\n", ""),
        ("m=video 0 RTP/AVP 31\n", "m=video 0 RTP/AVP 31\nm=audio 1 RTP/AVP 0\n"),
        ("m=audio", "m=image"),
        ("RTP/SAVP", "RTP/AVP"),
        ("t=0 0", "t=1 0"),
        ("m=video 0", "m=video 2000"),
    ],
)
def test_an_answer_of_another_shape_is_refused(old, new):
    with pytest.raises(SdpShapeError):
        check_answer_shape(parse_sdp(OFFER), answer(old, new))


@pytest.mark.clause("RFC 3264", "8")
def test_a_successor_raises_the_version_by_one_or_is_identical():
    first = parse_sdp(OFFER)
    check_successor(first, parse_sdp(OFFER))
    second = first.copy()
    second.origin = dataclasses.replace(first.origin, version=2)
    second.media[0].direction = "sendonly"
    check_successor(first, second)


@pytest.mark.clause("RFC 3264", "8")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("o=a 1 1", "o=a 1 3"),
        ("o=a 1 1", "o=a 2 2"),
        ("o=a 1 1", "o=b 1 2"),
        ("40000", "40002"),
        (
            "o=a 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 40000 RTP/SAVP 0\nm=video 0 RTP/AVP 31\n",
            "o=a 1 2 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 40000 RTP/SAVP 0\n",
        ),
    ],
)
def test_any_other_successor_is_refused(old, new):
    with pytest.raises(SdpShapeError):
        check_successor(parse_sdp(OFFER), parse_sdp(OFFER.replace(old, new)))
