"""Every way into the console, as somebody would try it who may not come in: another page, another user, a guess."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lab.console.access import SESSION_S, WRONG_TRIES, Access, AccessError, as_text, new_token, open_token, read_token
from lab.console.events import MOST_CLIENTS
from lab.console.server import LIMITS
from lab.console.settings import ConsoleSettings
from lab.console.static_files import StaticFiles
from sba.testing import async_test
from tests.console.client import Browser, console, next_event, parsed

# without the secret


@async_test
async def test_without_a_session_or_token_nothing_below_api_answers():
    async with console() as site:
        browser = site.browser()
        for path in ("/api/echo", "/api/lab", "/api/calls", "/api/events", "/api/nothing", "/api", "/api/session"):
            answer = await browser.get(path)
            assert (answer.status, answer.cause) == (401, "NO_SESSION"), path
        assert (await browser.send("POST", "/api/echo", {})).status == 401
        assert (await browser.send("DELETE", "/api/session")).status == 401
        assert not site.asked


@async_test
async def test_a_wrong_token_opens_nothing():
    async with console() as site:
        browser = site.browser()
        for token in ("x", site.text[:-1], site.text + "A", site.text.swapcase(), "é" * 43):
            assert (await browser.sign_in(token)).status == 401
        assert (await browser.get("/api/echo", Authorization="Bearer " + site.text[::-1])).status == 401
        assert (await browser.get("/api/echo", Authorization=f"Basic {site.text}")).status == 401
        for body in ({}, {"token": ""}, {"token": None}, {"token": ["a"]}, {"token": {"a": 1}}):
            assert (await browser.send("POST", "/api/session", body)).status == 400
        assert (await browser.send("POST", "/api/session", b"[]")).status == 400
        assert (await browser.send("POST", "/api/session", b"\xff")).status == 400


@async_test
async def test_the_right_token_opens_the_interface_for_a_program_and_a_session_for_a_page():
    async with console() as site:
        program = await site.browser().get("/api/echo", Authorization=f"Bearer {site.text}")
        assert program.status == 200
        page = await site.signed_in()
        assert (await page.get("/api/echo")).status == 200
        session = await page.get("/api/session")
        assert 0 < session.json["expires_in_s"] <= SESSION_S


@async_test
async def test_a_token_in_a_query_is_refused_even_when_it_is_right():
    async with console() as site:
        for query in (f"token={site.text}", f"Token={site.text}", f"access_token={site.text}", "page_key=a"):
            answer = await site.browser().get(f"/api/echo?{query}", Authorization=f"Bearer {site.text}")
            assert (answer.status, answer.cause) == (400, "BAD_REQUEST")
            assert site.text not in answer.body.decode()
        assert not site.asked


@async_test
async def test_many_wrong_tokens_end_the_looking_at_tokens_for_a_while_and_leave_sessions_alone():
    now = [0.0]
    async with console(now=lambda: now[0]) as site:
        page, other = await site.signed_in(), site.browser()
        for _ in range(WRONG_TRIES):
            assert (await other.sign_in("wrong")).status == 401
        refused = await other.sign_in(site.text)
        assert (refused.status, refused.cause) == (429, "TOO_MANY_TRIES")
        assert int(refused.headers["retry-after"]) <= 60
        assert (await other.get("/api/echo", Authorization=f"Bearer {site.text}")).status == 429
        assert (await page.get("/api/echo")).status == 200
        now[0] = 61.0
        assert (await other.sign_in(site.text)).status == 200


# the halves of a session


@async_test
async def test_neither_half_of_a_session_opens_anything_alone_or_with_a_foreign_half():
    async with console() as site:
        one, other = await site.signed_in(), await site.signed_in()
        for cookie, page_key in (
            (one.cookie, ""),  # what another port of 127.0.0.1 would get from the browser
            ("", one.page_key),  # what a script in the page could take
            (one.cookie, other.page_key),
            (other.cookie, one.page_key),
            (one.cookie, site.text),
            (f"{one.cookie}; {one.cookie}", one.page_key),  # set twice: somebody put one beside it
        ):
            answer = await Browser(site.server.port, cookie, page_key).get("/api/echo")
            assert (answer.status, answer.cause) == (401, "NO_SESSION")
        assert (await one.get("/api/echo")).status == 200


@async_test
async def test_the_cookie_is_out_of_reach_of_scripts_other_sites_and_the_console_of_another_lab():
    async with console() as one, console() as other:
        answer = await one.browser().sign_in(one.text)
        name, _, attributes = answer.headers["set-cookie"].partition("=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in attributes.split(";")}
        assert name == f"imslab_console_{one.server.port}"
        page = await one.signed_in()
        assert (await Browser(other.server.port, page.cookie, page.page_key).get("/api/echo")).status == 401
        renamed = page.cookie.replace(str(one.server.port), str(other.server.port))
        assert (await Browser(other.server.port, renamed, page.page_key).get("/api/echo")).status == 401


@async_test
async def test_a_session_ends_when_it_is_left_and_when_its_time_is_over():
    now = [0.0]
    async with console(now=lambda: now[0]) as site:
        page, other = await site.signed_in(), await site.signed_in()
        ended = await page.send("DELETE", "/api/session")
        assert (ended.status, "Max-Age=0" in ended.headers["set-cookie"]) == (204, True)
        assert (await page.get("/api/echo")).status == 401
        assert (await other.get("/api/echo")).status == 200
        now[0] = SESSION_S + 1.0
        assert (await other.get("/api/echo")).status == 401


def test_a_new_token_ends_every_session(tmp_path):
    access = Access(new_token(tmp_path / "token"))
    held = access.begin(as_text(read_token(tmp_path / "token")))
    access.check_session(held.cookie, held.page_key)
    access.change_token(new_token(tmp_path / "token"))
    with pytest.raises(AccessError):
        access.check_session(held.cookie, held.page_key)


def test_sessions_are_bounded(tmp_path):
    token = new_token(tmp_path / "token")
    access = Access(token)
    first, *_ = [access.begin(as_text(token)) for _ in range(65)]
    with pytest.raises(AccessError):
        access.check_session(first.cookie, first.page_key)


# other pages


@async_test
async def test_a_foreign_host_is_refused_whatever_else_is_right():
    """DNS rebinding: the page of evil.test lets its name point to 127.0.0.1 and so has our origin for its own."""
    async with console() as site:
        page = await site.signed_in()
        for host in (
            f"evil.test:{site.server.port}",
            "127.0.0.1",
            f"127.0.0.2:{site.server.port}",
            "",
            f"[::1]:{site.server.port}",
        ):
            for path in ("/api/echo", "/", "/metrics"):
                answer = await page.get(path, Host=host, Authorization=f"Bearer {site.text}")
                assert (answer.status, answer.cause) == (421, "FOREIGN_HOST"), (host, path)
        both = page.request("GET", "/api/echo", headers={"X-A": f"1\r\nHost: {page.host}"})
        assert parsed(await page.raw(both)).status in (400, 421)
        none = page.request("GET", "/api/echo", headers={"Host": None})
        assert parsed(await page.raw(none)).status in (400, 421)
        absolute = page.request("GET", f"http://{page.host}/api/echo")
        assert parsed(await page.raw(absolute)).status == 400
        assert not site.asked


@async_test
async def test_a_published_name_is_taken_and_no_other():
    async with console(hosts=("127.0.0.1:8480",)) as site:
        browser = site.browser()
        taken = await browser.get("/api/echo", Host="127.0.0.1:8480", Authorization=f"Bearer {site.text}")
        other = await browser.get("/api/echo", Host="127.0.0.1:8481", Authorization=f"Bearer {site.text}")
        assert (taken.status, other.status) == (200, 421)


@async_test
async def test_a_foreign_origin_is_refused_with_the_cookie_of_the_victim():
    async with console() as site:
        page = await site.signed_in()
        for origin in (
            "http://evil.test",
            "null",
            f"https://{page.host}",
            "http://127.0.0.1:1",
            f"http://localhost:{site.server.port}",
        ):
            for method, body in (("GET", None), ("POST", {})):
                answer = await page.send(method, "/api/echo", body, {"Origin": origin})
                assert (answer.status, answer.cause) == (403, "FOREIGN_ORIGIN"), origin
            assert (await page.send("POST", "/api/session", {"token": site.text}, {"Origin": origin})).status == 403
        assert not site.asked


@async_test
async def test_what_a_browser_says_comes_from_another_site_is_refused_but_a_link_to_the_page():
    async with console() as site:
        page = await site.signed_in()
        for where in ("cross-site", "same-site"):
            for path in ("/api/echo", "/api/events", "/metrics", "/static/app.js"):
                answer = await page.get(path, Sec_Fetch_Site=where, Sec_Fetch_Mode="no-cors")
                assert answer.status == 403, (where, path)
            assert (await page.get("/api/echo", Sec_Fetch_Site=where, Sec_Fetch_Mode="navigate")).status == 403
            assert (await page.get("/", Sec_Fetch_Site=where, Sec_Fetch_Mode="no-cors")).status == 403
            assert (await page.get("/", Sec_Fetch_Site=where, Sec_Fetch_Mode="navigate")).status in (200, 404)
        assert (await page.get("/api/echo", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")).status == 200


@async_test
async def test_a_preflight_learns_nothing():
    async with console() as site:
        browser = site.browser()
        for origin in ("http://evil.test", f"http://{browser.host}"):
            answer = await browser.send(
                "OPTIONS",
                "/api/echo",
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "x-imslab",
                },
            )
            assert answer.status in (401, 403)
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        page = await site.signed_in()
        allowed = await page.send("OPTIONS", "/api/echo")
        assert allowed.status == 405
        assert not [name for name in allowed.headers if name.startswith("access-control-")]


@async_test
async def test_a_form_of_another_page_cannot_post():
    """What a form can send without a preflight: three media types, no field of its own."""
    async with console() as site:
        page = await site.signed_in()
        for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None):
            answer = await page.send("POST", "/api/echo", {}, {"Content-Type": media_type})
            assert (answer.status, answer.cause) == (415, "MEDIA_TYPE")
        assert (await page.send("POST", "/api/echo", {}, {"X-Imslab": None})).status == 401
        assert not site.asked


@async_test
async def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere_and_to_be_framed_by_nobody():
    async with console() as site:
        page = await site.signed_in()
        answers = [
            await page.get("/api/echo"),
            await page.get("/"),
            await page.get("/nothing"),
            await site.browser().get("/api/echo"),
            await page.get("/api/echo", Host="evil.test"),
        ]
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "server" not in answer.headers
        assert answers[0].headers["cache-control"] == "no-store"


# methods, paths, sizes


@async_test
async def test_only_the_methods_of_a_path_do_anything():
    async with console() as site:
        page = await site.signed_in()
        for method in ("HEAD", "PUT", "TRACE", "PATCH", "DELETE", "CONNECT", "get", "BREW"):
            octets = await page.raw(page.request(method, "/api/echo"))
            assert parsed(octets).status == 405, method
            assert b"X-Imslab" not in octets.partition(b"\r\n\r\n")[2], "TRACE would give out the page's key"
            assert parsed(await page.raw(page.request(method, "/"))).status in (404, 405)
        assert (await page.send("POST", "/api/events", {})).status == 405
        assert (await page.send("PUT", "/api/session")).status == 405
        assert not site.asked


@async_test
async def test_no_path_leads_out_of_the_index_of_files():
    async with console() as site:
        page = await site.signed_in()
        for path in (
            "/static/../server.py",
            "/static/..%2fserver.py",
            "/static/%2e%2e/server.py",
            "/static/....//server.py",
            "/../../etc/passwd",
            "//etc/passwd",
            "/static//etc/passwd",
            "/static/",
            "/static",
            "/static/index.html%00.png",
            "/static\\..\\server.py",
            "/%73tatic/index.html",
            "/console.token",
            "/static/__init__.py",
            "/etc/passwd",
        ):
            answer = await page.get(path)
            assert answer.status in (400, 404), path
            assert b"import" not in answer.body
            assert b"root:" not in answer.body


def test_the_index_holds_files_of_known_kinds_and_follows_no_link_out(tmp_path):
    (tmp_path / "page.js").write_text("1")
    (tmp_path / "secret.token").write_text("2")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.css").write_text("3")
    assert set(StaticFiles(tmp_path).paths) == {"/static/page.js", "/static/deep/a.css"}


@async_test
async def test_a_body_too_long_is_refused_before_it_is_read_and_while_it_comes():
    async with console() as site:
        page = await site.signed_in()
        said = page.request("POST", "/api/echo", b"{}", {"Content-Length": str(LIMITS.body + 1)})
        assert parsed(await page.raw(said)).status == 413
        chunk = b"%x\r\n%s\r\n" % (30_000, b" " * 30_000)
        head = page.request("POST", "/api/echo", b"", {"Content-Length": None, "Transfer-Encoding": "chunked"})
        assert parsed(await page.raw(head + chunk * 3 + b"0\r\n\r\n")).status == 413
        assert not site.asked


@async_test
async def test_a_body_that_is_no_plain_object_is_refused():
    async with console() as site:
        page = await site.signed_in()
        for body in (b"[]", b"1", b'"a"', b"{", b"\xff\xfe", b"[" * 30_000, b'{"a":' * 20 + b"1" + b"}" * 20):
            answer = await page.send("POST", "/api/echo", body)
            assert (answer.status, answer.cause) == (400, "BAD_REQUEST"), body[:20]
        assert (await page.send("POST", "/api/echo", {"a": [1, {"b": None}]})).json["body"] == {"a": [1, {"b": None}]}


@async_test
async def test_header_bombs_and_smuggled_requests_end_at_the_door():
    async with console() as site:
        page = await site.signed_in()
        many = page.request("GET", "/api/echo", headers={f"X-{index}": "1" for index in range(100)})
        long = page.request("GET", "/api/echo", headers={"X-Long": "a" * 20_000})
        twice = page.request("POST", "/api/echo", b"{}", {"Transfer-Encoding": "chunked"})
        for octets in (many, long, twice):
            assert parsed(await page.raw(octets)).status == 400
        query = await page.get("/api/echo?q=" + "a" * 600)
        assert (query.status, query.cause) == (400, "BAD_REQUEST")
        assert (await page.get("/api/echo?q=%ff")).status == 400
        assert (await page.get("/api/echo?q=1&q=2")).status == 400
        assert (await page.get("/api/echo/%ff")).status == 400
        assert not site.asked


# connections


@async_test
async def test_a_client_that_dribbles_is_cut_and_does_not_keep_others_out():
    async with console(dataclasses.replace(LIMITS, request_s=0.5)) as site:
        slow_reader, slow = await asyncio.open_connection("127.0.0.1", site.server.port)
        try:
            request = site.browser().request("GET", "/")
            began = time.monotonic()
            closed = asyncio.ensure_future(slow_reader.read())
            for octet in request[:40]:
                slow.write(bytes((octet,)))
                if (await asyncio.wait({closed}, timeout=0.05))[0]:
                    break
            else:
                pytest.fail("the connection lived as long as octets dribbled in")
            assert time.monotonic() - began < 5
            assert (await site.browser().get("/nothing")).status == 404
            assert site.server.turned_away["slow"] == 1
        finally:
            slow.close()


@async_test
async def test_connections_past_the_limit_are_closed_at_once():
    limits = dataclasses.replace(LIMITS, connections=3, connections_per_address=3)
    async with console(limits) as site:
        held = [await asyncio.open_connection("127.0.0.1", site.server.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, each in (*held, (reader, writer)):
            each.close()


@async_test
async def test_event_streams_past_the_limit_are_refused_and_one_that_ends_makes_room():
    async with console() as site:
        page = await site.signed_in()
        streams = [page.events() for _ in range(MOST_CLIENTS)]
        readers = [await stream.__aenter__() for stream in streams]
        for reader in readers:
            assert (await next_event(reader))[0] == "hello"
        refused = await page.get("/api/events")
        assert (refused.status, refused.cause) == (503, "BUSY")
        assert (await page.get("/api/echo")).status == 200
        await streams[0].__aexit__(None, None, None)
        for _ in range(100):
            async with page.events() as reader:
                if b"200" in await reader.readline():
                    break
        else:
            pytest.fail("the place of a stream that ended is not given again")
        for stream in streams[1:]:
            await stream.__aexit__(None, None, None)


@async_test
async def test_a_stream_that_is_not_read_is_cut_and_holds_up_nobody():
    async with console() as site:
        page = await site.signed_in()
        deaf = socket.create_connection(("127.0.0.1", site.server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(page.request("GET", "/api/events"))
        async with page.events() as reader:
            assert (await next_event(reader))[0] == "hello"
            async with asyncio.timeout(20):
                number = 0
                while len(site.events._clients) < 2:
                    assert (await page.get("/api/echo")).status == 200  # time for the other to get in
                while len(site.events._clients) > 1:
                    site.events.send("node", {"number": number, "filler": "x" * 20_000})
                    assert (await next_event(reader))[1]["number"] == number
                    number += 1
        deaf.close()


# files and processes


def test_the_token_is_of_256_bits_and_its_file_is_for_its_user_alone(tmp_path):
    path = tmp_path / "console.token"
    token = open_token(path)
    assert len(token) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_token(path) == token
    assert as_text(token) not in repr(token)


def test_a_token_that_others_could_have_read_or_placed_is_not_believed(tmp_path):
    path = tmp_path / "console.token"
    first = open_token(path)
    path.chmod(0o640)
    assert read_token(path) is None
    second = open_token(path)
    assert second != first
    assert path.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(as_text(first))
    elsewhere.chmod(0o600)
    path.unlink()
    path.symlink_to(elsewhere)
    assert read_token(path) is None
    assert open_token(path) != first
    assert not path.is_symlink()


@pytest.mark.root
def test_another_user_of_the_machine_cannot_read_the_token():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        open_token(Path(folder) / "console.token")
        (Path(folder) / "open").write_text("a")
        (Path(folder) / "open").chmod(0o644)
        become = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); open(sys.argv[1]).read()"
        for name, readable in (("open", True), ("console.token", False)):
            reading = subprocess.run(
                [sys.executable, "-c", become, f"{folder}/{name}"], capture_output=True, check=False, text=True
            )
            assert (reading.returncode == 0) is readable
        assert "PermissionError" in reading.stderr


# where it listens


def test_the_console_of_a_lab_listens_on_loopback_whatever_port_it_is_given():
    for said in (True, 8480, None, "x"):
        assert ConsoleSettings.of_lab(said).bind == "127.0.0.1"
    chosen: bool = False
    assert not ConsoleSettings.of_lab(chosen).enabled


def test_in_a_container_the_names_are_those_the_machine_publishes():
    published = ConsoleSettings.of_container(
        {
            "IMSLAB_CONSOLE_PORT": "8480",
            "IMSLAB_CONSOLE_PUBLISHED": "127.0.0.1:9000",
            "IMSLAB_CONSOLE_HOSTS": "Console:8480",
        }
    )
    assert (published.port, published.published) == (8480, "127.0.0.1:9000")
    assert set(published.hosts) == {"127.0.0.1:9000", "localhost:9000", "console:8480"}
    assert not ConsoleSettings.of_container({}).enabled
    with pytest.raises(ValueError, match="evil"):
        ConsoleSettings.of_container({"IMSLAB_CONSOLE_PORT": "8480", "IMSLAB_CONSOLE_PUBLISHED": "evil.test:80"})


@async_test
async def test_the_port_is_on_the_address_asked_for_and_no_other():
    async with console() as site:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", site.server.port), timeout=2)


# metrics


@async_test
async def test_metrics_are_for_a_program_with_the_token_and_for_no_page():
    async with console() as site:
        page = await site.signed_in()
        for browser in (site.browser(), page):
            answer = await browser.get("/metrics")
            assert (answer.status, answer.cause) == (401, "NO_SESSION")
        assert (await site.browser().get("/metrics", Authorization="Bearer x")).status == 401
        got = await site.browser().get("/metrics", Authorization=f"Bearer {site.text}")
        assert (got.status, got.body) == (200, b"imslab_up 1\n")
        assert got.headers["content-type"].startswith("text/plain")


# texts of peers


@async_test
async def test_what_a_peer_wrote_leaves_as_json_and_never_as_markup():
    nasty = {"reason": "<script>alert(1)</script>\u2028\r\n\r\nevent: order\r\ndata: {}\ud800", "jitter": float("nan")}
    async with console() as site:
        page = await site.signed_in()

        async def answer(ask):
            return nasty

        site.server._routes.add("GET", "/api/nasty", answer)
        got = await page.get("/api/nasty")
        assert got.headers["content-type"] == "application/json"
        assert got.json == {"reason": nasty["reason"].replace("\ud800", "?"), "jitter": None}
        async with page.events() as reader:
            await next_event(reader)
            site.events.send("call", nasty)
            site.events.send("last", {})
            assert (await next_event(reader))[1]["reason"] == nasty["reason"].replace("\ud800", "?")
            assert (await next_event(reader))[0] == "last", "a text must not become an event of its own"
