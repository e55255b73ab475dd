"""The form of a request (Annex A): what is taken and how everything else is answered."""

import base64

import pytest

from keying.mikey.profile import DEFAULT_PROFILE, Profile
from nodes.httpmessage import HttpRequest
from nodes.kms.http import (
    MAX_BODY,
    MAX_MESSAGE,
    BodyForm,
    NotAnnexA,
    Operation,
    bootstrap_response,
    mikey_response,
    read_body,
    read_post,
)

MESSAGE = bytes.fromhex("010b05801122334400010f00") + bytes(range(256))
MIKEY = (("Content-Type", "application/mikey"),)
TARGET = "/keymanagement?requesttype=ticketrequest"


def post(body=MESSAGE, *, method="POST", target=TARGET, headers=MIKEY, profile=DEFAULT_PROFILE):
    return read_post(HttpRequest(method, target, headers, body), profile)


def refused(**request):
    with pytest.raises(NotAnnexA) as fault:
        post(**request)
    return fault.value.response


@pytest.mark.clause("TS 33.328", "A-2")
def test_both_operations_are_told_by_the_parameter():
    assert post().operation is Operation.REQUEST
    assert post(target="/keymanagement?requesttype=ticketresolve").operation is Operation.RESOLVE
    assert post(target="/keymanagement?lang=en&requesttype=ticketresolve").operation is Operation.RESOLVE


@pytest.mark.clause("TS 33.328", "A-2")
def test_path_and_words_are_the_profile_s():
    profile = Profile(http_path="/k", http_operation_parameter="op", http_resolve_word="r")
    assert post(target="/k?op=r", profile=profile).operation is Operation.RESOLVE
    assert refused(target=TARGET, profile=profile).status == 404


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.parametrize("parameters", ["", "; version=1", ';version="1"'])
def test_the_media_type_may_have_parameters(parameters):
    assert post(headers=(("content-type", f"Application/MIKEY{parameters}"),)).octets == MESSAGE


@pytest.mark.clause("RFC 6043", "7")
@pytest.mark.clause("TS 33.328", "A-2")
def test_binary_and_base64_bodies_are_told_apart_and_answered_alike():
    assert read_body(MESSAGE) == (BodyForm.BINARY, MESSAGE)
    text = base64.b64encode(MESSAGE)
    for body in (text, text + b"\r\n", base64.encodebytes(MESSAGE), b" " + text):
        assert read_body(body) == (BodyForm.BASE64, MESSAGE)
    assert mikey_response(200, BodyForm.BINARY, MESSAGE, DEFAULT_PROFILE).body == MESSAGE
    answer = mikey_response(403, BodyForm.BASE64, MESSAGE, DEFAULT_PROFILE)
    assert (answer.status, answer.body, answer.content_type) == (403, text, "application/mikey")


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"AQ",
        b"AQsF$AAA",
        b"\x00" + MESSAGE,
        b"AQ==AQ==",
        b"A",
        "ä".encode(),
        base64.urlsafe_b64encode(b"\xfb\xff\xfe"),
    ],
)
def test_a_body_that_is_no_message_is_refused(body):
    with pytest.raises(NotAnnexA) as fault:
        read_body(body)
    assert fault.value.response.status == 400


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.attack("T5")
def test_size_is_bounded_before_and_after_decoding():
    assert refused(body=b"\x01" * (MAX_BODY + 1)).status == 413
    with pytest.raises(NotAnnexA) as fault:
        read_body(b"\x01" * (MAX_MESSAGE + 1))
    assert fault.value.response.status == 413
    assert read_body(base64.encodebytes(b"\x01" * MAX_MESSAGE))[1] == b"\x01" * MAX_MESSAGE


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE", "BREW"])
def test_another_method_is_told_which_one_is_right(method):
    response = refused(method=method)
    assert (response.status, response.header("Allow")) == (405, "POST")


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.parametrize(
    "target", ["/", "/keymanagement/", "/keymanagementx", "/KeyManagement", "//keymanagement", "*"]
)
def test_another_resource_is_not_found(target):
    assert refused(target=f"{target}?requesttype=ticketrequest").status == 404


@pytest.mark.clause("RFC 3830", "10.1")
@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Content-Type", "text/plain"),),
        (("Content-Type", "application/mikey-x"),),
        (("Content-Type", ""),),
        (*MIKEY, *MIKEY),
        (*MIKEY, ("Content-Encoding", "gzip")),
    ],
)
def test_another_media_type_or_coding_is_refused(headers):
    assert refused(headers=headers).status == 415


@pytest.mark.clause("TS 33.328", "A-2")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "query",
    [
        "",
        "requesttype=",
        "requesttype",
        "requesttype=ticket",
        "requesttype=ticketrequest&requesttype=ticketresolve",
        "requesttype=ticketrequest&requesttype=ticketrequest",
        "RequestType=ticketrequest",
        "requesttype=ticketrequest%00",
        "a=1&" * 40 + "requesttype=ticketrequest",
    ],
)
def test_the_parameter_is_there_once_and_known(query):
    response = refused(target=f"/keymanagement?{query}")
    assert response.status == 400
    assert b"requesttype" in response.body


@pytest.mark.clause("TS 33.328", "A-3")
def test_who_is_unknown_is_told_to_bootstrap():
    response = bootstrap_response("kms.ims.test")
    assert response.status == 401
    assert response.header("WWW-Authenticate") == 'Digest realm="3GPP-bootstrapping@kms.ims.test"'
