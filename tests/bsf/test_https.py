"""The HTTPS server and client of the nodes: what they carry, and what they do not put up with (T7)."""

import asyncio
import contextlib
import ssl
import time

import pytest
from opentelemetry.trace import SpanKind
from twisted.internet.error import CannotListenError

from nodes.https import HttpError, HttpFault, HttpLimits, HttpRequest, HttpResponse, HttpsAddress, HttpsClient
from sba.errors import ProblemError
from sba.identity import NodeIdentity
from sba.pki import LabCa
from sba.telemetry import current_traceparent
from sba.testing import async_test
from tests.bsf.web import NAME, read_all, serving
from tests.cscf.home import until

KEPT = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
GET = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
LARGE = 2**20
"""Octets of an answer that the kernel does not take at once."""


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, (("Content-Type", "application/mikey"), ("X-Target", request.target)), request.body)


def status(octets):
    return int(octets.split(b" ", 2)[1]) if octets.startswith(b"HTTP/1.1 ") else None


@async_test
async def test_request_and_response_arrive_whole(tmp_path):
    seen = []

    async def handler(request):
        seen.append(request)
        return await echo(request)

    async with serving(tmp_path, handler) as site:
        headers = (("Content-Type", "Application/MIKEY; version=1"),)
        answer = await site.client.request(
            "POST", site.address, "/k?requesttype=ticketrequest&x=%20", headers=headers, body=bytes(range(256))
        )
        [request] = seen
        assert (answer.status, answer.body, answer.content_type) == (200, bytes(range(256)), "application/mikey")
        assert (request.method, request.path, request.query) == (
            "POST",
            "/k",
            {"requesttype": "ticketrequest", "x": " "},
        )
        assert (request.content_type, request.header("host")) == ("application/mikey", f"{NAME}:{site.server.port}")
        assert answer.header("server") is None
        assert answer.header("cache-control") == "no-store"
        assert answer.header("date") is not None
        empty = await site.client.request("GET", site.address, "/")
        assert (empty.body, seen[1].body, seen[1].query) == (b"", b"", {})


def test_a_doubled_parameter_means_none_is_believed():
    assert HttpRequest("GET", "/?a=1&a=2").query == {}
    assert HttpRequest("GET", "/?" + "&".join(f"a{n}=1" for n in range(40))).query == {}
    assert HttpRequest("GET", "/?a=%ff").query == {}
    assert "secret" not in repr(HttpRequest("GET", "/", (("Authorization", "secret"),), b"secret"))
    assert "secret" not in repr(HttpResponse(200, (("A", "secret"),), b"secret"))


@async_test
async def test_one_span_on_each_side_and_the_handler_runs_below_its_own(tmp_path):
    inside = {}

    async def handler(request):
        before = current_traceparent()
        await asyncio.sleep(0)
        inside[request.body] = (before, current_traceparent())
        request.span.set_attribute("imslab.mikey.request", request.body.decode())
        return HttpResponse(403)

    async with serving(tmp_path, handler) as site:

        async def ask(number):
            with site.telemetry.tracer.start_as_current_span(f"call {number}") as call:
                await site.client.request("POST", site.address, "/secret/../x?token=abc", body=b"%d" % number)
                return call.get_span_context().trace_id

        traces = await asyncio.gather(*(ask(number) for number in range(50)))
        spans = site.spans.get_finished_spans()
        for number, trace_id in enumerate(traces):
            mine = [span for span in spans if span.context.trace_id == trace_id]
            [client] = [span for span in mine if span.kind is SpanKind.CLIENT]
            [server] = [span for span in mine if span.kind is SpanKind.SERVER]
            assert (client.name, server.name) == ("POST", "POST")
            assert server.parent.span_id == client.context.span_id
            assert server.attributes["imslab.mikey.request"] == str(number)
            assert (
                server.attributes["http.response.status_code"] == client.attributes["http.response.status_code"] == 403
            )
            assert client.attributes["server.address"] == NAME
            before, after = inside[b"%d" % number]
            assert before == after
            assert f"{trace_id:032x}-{server.context.span_id:016x}" in before
        assert "token=abc" not in str([span.attributes for span in spans])


@pytest.mark.attack("T8")
@async_test
async def test_a_fault_of_the_handler_is_answered_without_a_word_about_it(tmp_path):
    async def handler(request):
        if request.path == "/problem":
            raise ProblemError(404, "X", "the reason is secret-word")
        if request.path == "/slow":
            await asyncio.Event().wait()
        raise RuntimeError("secret-word")

    async with serving(tmp_path, handler, HttpLimits(handler_s=0.05)) as site:
        for path, expected in (("/", 500), ("/problem", 404), ("/slow", 503)):
            answer = await site.client.request("GET", site.address, path)
            assert (answer.status, answer.body) == (expected, b"")
            assert "secret-word" not in str(answer.headers)
        assert "secret-word" not in site.log.getvalue()
        assert "RuntimeError" in site.log.getvalue()


@pytest.mark.attack("T7")
@async_test
async def test_what_is_no_proper_request_is_answered_400_and_the_next_client_is_served(tmp_path):
    async with serving(tmp_path, echo) as site:
        for octets in (
            b"\x16\x03\x01 rubbish\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100)) + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
            b"GET /" + b"y" * 100_000,
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 8000 + b"\r\n" + b"Z: " + b"y" * 9000 + b"\r\n\r\n",
        ):
            answer = await site.raw(octets)
            assert status(answer) == 400, octets[:60]
            assert answer.count(b"HTTP/1.1") == 1, octets[:60]
            assert b"200" not in answer.split(b"\r\n")[0]
        assert status(await site.raw(GET)) == 200


@pytest.mark.attack("T7")
@async_test
async def test_a_body_larger_than_allowed_is_413_however_it_is_announced(tmp_path):
    bodies = []

    async def handler(request):
        bodies.append(len(request.body))
        return HttpResponse(200)

    async with serving(tmp_path, handler, HttpLimits(body=1000)) as site:
        post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
        assert status(await site.raw(post + b"Content-Length: 1001\r\n\r\n")) == 413
        assert status(await site.raw(post + b"Content-Length: 999999999999999999999\r\n\r\n" + b"x" * 5000)) == 413
        assert status(await site.raw(post + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 50 + b"0\r\n\r\n")) == 413
        assert bodies == []
        assert status(await site.raw(post + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n")) == 200
        assert status(await site.raw(post + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)) == 200
        assert bodies == [512, 1000]


@pytest.mark.attack("T7")
@async_test
async def test_a_client_that_dribbles_or_says_nothing_is_cut(tmp_path):
    async with serving(tmp_path, echo, HttpLimits(request_s=0.4, linger_s=0.2)) as site:
        silent, silent_writer = await asyncio.open_connection("127.0.0.1", site.server.port)  # not even a handshake
        reader, writer = await site.open()
        began = time.monotonic()

        async def dribble():
            with contextlib.suppress(OSError):
                for octet in b"GET / HTTP/1.1\r\nX: " + b"y" * 1000:
                    writer.write(bytes((octet,)))
                    await writer.drain()
                    await asyncio.sleep(0.02)

        async with asyncio.timeout(5):
            _, heard, nothing = await asyncio.gather(dribble(), read_all(reader), read_all(silent))
        assert (heard, nothing) == (b"", b"")
        assert time.monotonic() - began < 4
        assert status(await site.raw(GET)) == 200
        silent_writer.close()
        writer.close()


@pytest.mark.attack("T7")
@async_test
async def test_a_client_that_does_not_read_does_not_hold_its_connection(tmp_path):
    async def handler(request):
        return HttpResponse(200, (), b"x" * 4_000_000)

    async with serving(tmp_path, handler, HttpLimits(request_s=0.3, linger_s=0.2)) as site:
        _reader, writer = await site.open()
        writer.transport.pause_reading()
        writer.write(GET)
        await writer.drain()
        await until(lambda: site.spans.get_finished_spans() and not site.server._channels)
        writer.transport.abort()


@pytest.mark.attack("T7")
@async_test
async def test_connections_are_counted_and_given_back(tmp_path):
    async with serving(tmp_path, echo, HttpLimits(connections=3)) as site:
        open_ones = [await site.open() for _ in range(3)]
        with pytest.raises(OSError):
            await site.open()
        for _, writer in open_ones:
            writer.close()
        await until(lambda: not site.server._channels)
        assert site.server._from == {}
        assert status(await site.raw(GET)) == 200


@pytest.mark.attack("T7")
@async_test
async def test_one_address_cannot_take_all_connections(tmp_path):
    async with serving(tmp_path, echo, HttpLimits(connections_per_address=2)) as site:
        held = [await site.open() for _ in range(2)]
        with pytest.raises(OSError):
            await site.open()
        other = HttpsClient(site.identity.ca_path, site.telemetry, source="127.0.0.9")
        assert (await other.request("GET", site.address, "/")).status == 200
        for _, writer in held:
            writer.close()


@async_test
async def test_requests_in_a_row_on_one_connection_are_answered_in_order(tmp_path):
    async with serving(tmp_path, echo) as site:
        many = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20))
        answer = await site.raw(many + GET)
        targets = [line.split(b": ")[1] for line in answer.split(b"\r\n") if line.lower().startswith(b"x-target")]
        assert targets == [*(b"/%d" % number for number in range(20)), b"/"]


@async_test
async def test_asked_to_stop_a_server_lets_whole_answers_leave(tmp_path):
    started, go_on, handled = asyncio.Event(), asyncio.Event(), []

    async def handler(request):
        handled.append(request.path)
        started.set()
        await go_on.wait()
        return HttpResponse(200, body=bytes(LARGE))

    async with serving(tmp_path, handler) as site:
        reader, writer = await site.open()
        writer.write(KEPT)
        async with asyncio.timeout(10):
            await started.wait()
        stopping = asyncio.ensure_future(site.server.stop())
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                (await asyncio.open_connection("127.0.0.1", site.server.port))[1].close()
        writer.write(KEPT)
        go_on.set()
        answer = await read_all(reader)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"\r\nConnection: close" in head
        assert len(body) == LARGE
        await stopping
        writer.close()
        assert handled == ["/"], "what comes after the word to stop is not looked at"


@pytest.mark.attack("T7")
@async_test
async def test_a_client_that_does_not_read_does_not_hold_a_server_that_stops(tmp_path):
    async def handler(request):
        del request
        return HttpResponse(200, body=bytes(64 * LARGE))

    async with serving(tmp_path, handler) as site:
        reader, writer = await site.open()
        writer.write(GET)
        assert await reader.readline()
        async with asyncio.timeout(10):
            await site.server.stop()
        writer.close()


@async_test
async def test_a_client_that_leaves_early_harms_nobody(tmp_path):
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(request):
        if request.path == "/wait":
            started.set()
            await go_on.wait()
            ended.set()
        return HttpResponse(200)

    async with serving(tmp_path, handler) as site:
        with pytest.raises(HttpError) as error:
            await site.client.request("GET", site.address, "/wait", timeout_s=0.3)
        assert error.value.fault is HttpFault.TIMEOUT
        assert started.is_set()
        go_on.set()
        async with asyncio.timeout(5):
            await ended.wait()
        assert (await site.client.request("GET", site.address, "/")).status == 200


@pytest.mark.attack("T6")
@async_test
async def test_tls_below_1_2_and_plain_http_get_nothing(tmp_path):
    async with serving(tmp_path, echo) as site:
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old = site.tls(ssl.TLSVersion.TLSv1_1)
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", site.server.port, ssl=old, server_hostname=NAME)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        writer.write(GET)
        assert b"HTTP" not in await read_all(reader)
        writer.close()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", site.server.port, ssl=site.tls(version), server_hostname=NAME
            )
            assert writer.get_extra_info("ssl_object").version() == version.name.replace("TLSv1_", "TLSv1.")
            writer.close()


@pytest.mark.attack("T6")
@async_test
async def test_the_client_talks_to_the_named_server_of_its_ca_alone(tmp_path):
    requests = []

    async def handler(request):
        requests.append(request)
        return HttpResponse(200)

    async with serving(tmp_path / "a", handler) as site:
        wrong_name = HttpsAddress(host="127.0.0.1", port=site.server.port, tls_name="kms.ims.test")
        LabCa.create(tmp_path / "b")
        stranger = HttpsClient(tmp_path / "b" / "ca.crt", site.telemetry)
        for client, address in ((site.client, wrong_name), (stranger, site.address)):
            with pytest.raises(HttpError) as error:
                await client.request("POST", address, "/", body=b"precious")
            assert error.value.fault is HttpFault.TLS
        assert requests == []
        by_address = HttpsAddress(host="127.0.0.1", port=site.server.port)
        assert (await site.client.request("GET", by_address, "/")).status == 200


@pytest.mark.attack("T6")
@async_test
async def test_a_server_whose_certificate_was_revoked_is_left(tmp_path):
    async with serving(tmp_path, echo) as site:
        node = NodeIdentity(site.lab.add("client", "ue-1", nf_types=("UE",)))
        client = HttpsClient(node.ca_path, site.telemetry, identity=node)
        assert (await client.request("GET", site.address, "/")).status == 200
        site.lab.ca.revoke("web-1")
        with pytest.raises(HttpError) as error:
            await client.request("GET", site.address, "/")
        assert error.value.fault is HttpFault.TLS


@async_test
async def test_the_client_says_why_there_was_no_response(tmp_path):
    async with serving(tmp_path, echo) as site:
        taken = site.server.port
        with pytest.raises(CannotListenError):
            await site.server.start("127.0.0.1", taken)
        await site.server.stop()
        with pytest.raises(HttpError) as error:
            await site.client.request("GET", HttpsAddress(host="127.0.0.1", port=taken, tls_name=NAME), "/")
        assert error.value.fault is HttpFault.UNREACHABLE


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"SSH-2.0-x\r\n\r\n", HttpFault.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", HttpFault.UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, HttpFault.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000, HttpFault.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", HttpFault.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", None),
        (b"", None),
    ],
)
@async_test
async def test_a_bad_server_ends_as_an_error_of_its_kind(tmp_path, octets, fault):
    async with serving(tmp_path, echo) as site:
        served = asyncio.Event()

        async def misbehave(reader, writer):
            with contextlib.suppress(OSError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(octets)
                await writer.drain()
                if fault is None:
                    await served.wait()
            writer.close()

        tls = site.identity.server_context(require_client=False)
        server = await asyncio.start_server(misbehave, "127.0.0.1", 0, ssl=tls)
        address = HttpsAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls_name=NAME)
        with pytest.raises(HttpError) as error:
            await site.client.request("GET", address, "/", timeout_s=0.5 if fault is None else 5)
        served.set()
        server.close()
        assert error.value.fault is (fault or HttpFault.TIMEOUT)
