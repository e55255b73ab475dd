"""What the command line says when a UE refuses what was asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracer
from twisted.internet.defer import Deferred

from lab.calls import CallDesk, CallOrder
from lab.control import ControlError, Params
from lab.refusals import MEANINGS, meaning, refusal, silent_node, ticket_refusal
from nodes.ue import media_security
from nodes.ue.config import Behaviour, CallOptions, RegisterOptions
from protos import ue_control_pb2
from sba.errors import ProblemError, RemoteProblem
from sba.testing import async_test

NOBODY = ProblemError(504, "TARGET_NF_NOT_REACHABLE", "no instance offers it")


def remote(problem: ProblemError, instance: str = "") -> RemoteProblem:
    method = "/ims.ue_control.v1.UeControl/Call"
    return RemoteProblem(problem.code, problem.details(), method=method, instance=instance)


@pytest.mark.parametrize(
    ("options", "expected"), [(RegisterOptions, "bad_response"), (CallOptions, "codec"), (Behaviour, "reject_status")]
)
def test_an_unknown_option_is_named_with_those_there_are(
    options: type[RegisterOptions | CallOptions | Behaviour], expected: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        options.read({"foo": "1"})
    error = refusal("bob", remote(caught.value))
    assert str(error).startswith("foo: unknown option; there are ")
    assert expected in str(error)
    assert error.kind == "usage"


def test_an_option_with_a_wrong_value_is_named_with_what_fits() -> None:
    with pytest.raises(ProblemError) as caught:
        CallOptions.read({"codec": "G729"})
    error = refusal("bob", remote(caught.value))
    assert str(error).startswith("codec: ")
    assert "PCMA" in str(error)
    assert error.kind == "usage"


@pytest.mark.parametrize(
    ("problem", "text", "kind"),
    [
        (remote(ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND", "no such call")), "no such call", "usage"),
        (
            remote(ProblemError(409, "CALL_CANNOT_CHANGE", "the call is not established")),
            "the UE bob refused: the call is not established",
            "failed",
        ),
        (RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="x"), "the UE bob does not answer", "failed"),
        (RemoteProblem(grpc.StatusCode.DEADLINE_EXCEEDED), "the UE bob does not answer", "failed"),
        (remote(NOBODY), "the UE bob does not answer", "failed"),
    ],
)
def test_a_refusal_keeps_its_reason_and_only_silence_is_called_silence(
    problem: RemoteProblem, text: str, kind: str
) -> None:
    error = refusal("bob", problem)
    assert (str(error), error.kind) == (text, kind)


@pytest.mark.parametrize(
    ("param", "reason", "said"),
    [("target", "no host", "sip:: no host"), ("suites", "FOO: there are A, B", "suite: FOO: there are A, B")],
)
def test_a_call_the_ue_cannot_make_sense_of_is_wrong_usage(param: str, reason: str, said: str) -> Deferred[None]:
    class Refusing:
        telemetry = SimpleNamespace(tracer=NoOpTracer())

        async def ue_status(self, user: str) -> ue_control_pb2.StatusResponse:
            return ue_control_pb2.StatusResponse(registered=True)

        async def call(self, user: str, request: object) -> AsyncIterator[ue_control_pb2.CallEvent]:
            raise remote(ProblemError(400, "INVALID_PARAM", invalid_params=[(param, reason)]))
            yield ue_control_pb2.CallEvent()

    alice = SimpleNamespace(
        name="alice", impu="sip:alice@x", tel="", software_ue=True, announces=(), gateway="g", kms_level="off"
    )
    lab: Any = SimpleNamespace(users={"alice": alice}, gateways=())
    desk = CallDesk(Refusing(), SimpleNamespace(), lab)  # type: ignore[arg-type]

    async def progress(item: Params) -> None:
        del item

    @async_test
    async def run() -> None:
        with pytest.raises(ControlError) as caught:
            await desk.place(CallOrder("alice", "sip:"), progress)
        assert (str(caught.value), caught.value.kind) == (said, "usage")

    return run()


@pytest.mark.parametrize(
    ("software_ue", "reason", "said"),
    [
        (
            False,
            "Not Registered",
            "dave has no software UE: a client of its own has to register (imslab client-config CLIENT dave)",
        ),
        (False, "Temporarily Unavailable", ""),
        (True, "Not Registered", ""),
    ],
)
def test_a_user_without_a_ue_who_does_not_answer_is_told_apart(
    software_ue: bool, reason: str, said: str
) -> Deferred[None]:
    class Calling:
        telemetry = SimpleNamespace(tracer=NoOpTracer())

        async def ue_status(self, user: str) -> ue_control_pb2.StatusResponse:
            return ue_control_pb2.StatusResponse(registered=True)

        async def call(self, user: str, request: object) -> AsyncIterator[ue_control_pb2.CallEvent]:
            yield ue_control_pb2.CallEvent(state="ended", sip_status=480, reason=reason)

    def user(name: str, *, software_ue: bool) -> SimpleNamespace:
        more = {"software_ue": software_ue, "announces": (), "gateway": "g", "kms_level": "off"}
        return SimpleNamespace(name=name, impu=f"sip:{name}@x", tel="", **more)

    users = {"alice": user("alice", software_ue=True), "dave": user("dave", software_ue=software_ue)}
    lab: Any = SimpleNamespace(users=users, gateways=(), modes={}, names={}, nodes={})
    desk = CallDesk(Calling(), SimpleNamespace(), lab)  # type: ignore[arg-type]

    async def progress(item: Params) -> None:
        del item

    @async_test
    async def run() -> None:
        verdict = await desk.place(CallOrder("alice", "dave"), progress)
        assert (verdict.sip_status, verdict.meaning) == (480, said)

    return run()


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ('Not Acceptable Here (399 127.0.0.1 "media-sec:kms-refused", 306 127.0.0.1 "x")', "refused"),
        ("kms-unreachable: kms.ims.test did not answer in 5 s", "did not answer"),
        ("mikey-invalid", "failed its checks"),
        ("media-sec:protection-required: policy requires protected media", "where policy"),
        ("media-sec:suite-too-strong: AEAD_AES_256_GCM", "longer keys"),
        ("responder-not-allowed: sip:carol@ims.test", "does not name"),
    ],
)
def test_a_call_without_keys_of_the_kms_says_what_that_means(reason: str, word: str) -> None:
    assert word in meaning(reason)


@pytest.mark.parametrize("reason", ["", "Busy Here", "unmikey-invalidated"])
def test_other_reasons_are_given_no_meaning(reason: str) -> None:
    assert meaning(reason) == ""


def test_every_word_of_a_ue_has_a_meaning() -> None:
    words = {value for name, value in vars(media_security).items() if name.startswith("TOKEN_")}
    assert words <= set(MEANINGS)


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("kms.ims.test: timeout: kms.ims.test did not answer in 5 s", "kms.ims.test did not answer in 5 s"),
        ("kms.ims.test: kms.ims.test: ConnectionRefusedError", "kms.ims.test: ConnectionRefusedError"),
        (
            "no key shared with the KMS, no answer of the BSF: bsf.ims.test did not answer in 5 s",
            "no key shared with the KMS, no answer of the BSF: bsf.ims.test did not answer in 5 s",
        ),
        ("the KMS answered 503", "the KMS answered 503: it waits for its BSF, or for the KMS of another domain"),
        ("no answer in time", "KMS and BSF together gave no answer in time"),
    ],
)
def test_a_ue_that_asked_in_vain_is_not_called_silent(detail: str, said: str) -> None:
    error = ticket_refusal("alice", remote(ProblemError(504, "KMS_UNREACHABLE", detail)), "ab" * 16)
    assert str(error).startswith(f"the UE alice asked in vain: {said}")
    assert error.kind == "failed"
    assert (error.details["result"], error.details["cause"]) == ("failed", "KMS_UNREACHABLE")


def test_a_refused_ticket_has_cause_meaning_and_trace() -> None:
    problem = remote(ProblemError(403, "MIKEY_INVALID_TP_PAR", "the KMS refused: INVALID_TP_PAR"))
    error = ticket_refusal("alice", problem, "ab" * 16)
    assert "the policy of the ticket is not allowed" in str(error)
    assert error.details == {
        "result": "refused",
        "cause": "MIKEY_INVALID_TP_PAR",
        "reason": str(error),
        "trace_id": "ab" * 16,
    }


def test_a_silent_nrf_is_not_taken_for_the_ue() -> None:
    problem = RemoteProblem(grpc.StatusCode.UNAVAILABLE, method="/ims.nrf_oauth2.v1.NnrfAccessToken/Get")
    assert str(refusal("alice", problem)) == "the NRF does not answer"


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="ipv4:127.0.0.1:1: refused"), "kms-p does not answer"),
        (RemoteProblem(grpc.StatusCode.DEADLINE_EXCEEDED), "kms-p does not answer"),
        (remote(NOBODY), "kms-p does not answer"),
        (remote(NOBODY, instance="kms-p"), "kms-p refused: no instance offers it"),
        (RemoteProblem(grpc.StatusCode.INTERNAL, message="x"), "kms-p cannot be asked (internal)"),
        (remote(ProblemError(404, "NF_DISCOVERY_FAILURE", "x")), "kms-p is not there: the NRF knows no such node"),
        (remote(ProblemError(403, "KEY_EXPORT_OFF", "the lab does not")), "kms-p refused: the lab does not"),
    ],
)
def test_a_kms_that_gives_no_answer_is_told_without_words_of_grpc(problem: RemoteProblem, said: str) -> None:
    assert silent_node("kms-p", problem).startswith(said)
