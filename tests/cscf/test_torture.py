"""RFC 4475 and 5118 at a running CSCF, registrar and proxy (T7)."""

import asyncio
import re
from dataclasses import replace

import pytest

from nodes.cscf.config import CscfSettings
from nodes.cscf.register_request import read_register
from nodes.hss.provision import PublicIdentity
from sba.identity import NodeIdentity
from sba.testing import async_test
from signalling.sip.message import parse_message
from tests.cscf.home import DAVE, home_network
from tests.sip.test_torture import IPV6, TORTURE

SETTINGS = CscfSettings.model_validate({"mw": {"host": "127.0.0.1"}})

# What the registrar answers to a REGISTER for a user it knows: a challenge when the message is good.
REGISTRAR = {
    "dblreq": 401,
    "escnull": 401,
    "cparam01": 401,
    "cparam02": 401,
    "regescrt": 401,
    "regaut01": 401,
    "regbadct": 400,
    "unksm2": 400,
    "multi01": 400,
}
# What the proxy answers; 403: well formed, but nobody registered asks for it.
PROXY = {
    "badinv01": 400,
    "badvers": 505,
    "mismatch01": 400,
    "mismatch02": 501,
    "quotbal": 400,
    "ltgtruri": 400,
    "lwsruri": 400,
    "lwsstart": 400,
    "escruri": 400,
    "scalar02": 400,
    "ncl": 400,
    "unkscm": 416,
    "novelsc": 416,
    "zeromf": 483,
    "bext01": 420,
    "esc02": (403, 404),
    "intmeth": (403, 404),
    "esc01": (403, 404),
    "invut": 480,
}


def user(impu):
    return replace(DAVE, impi=impu.partition(":")[2], domain="example.com", public_identities=(PublicIdentity(impu),))


USERS = [
    user("sip:j.user@example.com"),
    user("sip:watson@example.com"),
    user("sip:user@example.com"),
    user("sip:null-%00-null@example.com"),
]


def distinct(data, name):
    """Several messages of the RFCs share a branch and a sent-by: to one server they would be retransmissions."""
    if name == "dblreq":  # a datagram; on a stream its second half is a request too, answered before or after the first
        data = data[: data.index(b"\r\n\r\n") + 4]
    return re.sub(rb"branch=z9hG4bK[^;\s,]+", b"branch=z9hG4bK" + name.encode(), data, count=1)


async def status_of(identity, port, data):
    """Send octets over a connection of its own; the status answered, None for none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=identity.client_context())
    try:
        writer.write(data)
        try:
            async with asyncio.timeout(1.5):
                while line := await reader.readline():
                    if line.startswith(b"SIP/2.0 ") and not line.startswith(b"SIP/2.0 100"):
                        return int(line.split()[1])
        except TimeoutError:
            return None
        return None
    finally:
        writer.transport.abort()


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 4475", "3.1.2", "3.3.3", "3.3.4", "3.3.5", "3.3.7", "3.3.11", "3.3.12", "3.3.13", "3.3.14")
@async_test
async def test_every_torture_message_gets_its_outcome_and_the_node_lives(tmp_path, capfd):
    async with home_network(tmp_path, subscribers=USERS, home_domains=["example.com"]) as home:
        peer = await home.peer()
        identity = NodeIdentity(home.lab.add("client", "pcscf-x", nf_types=("PCSCF",)))
        port = home.hop.port
        expected = {name: REGISTRAR.get(name, PROXY.get(name)) for name in TORTURE}
        messages = [(name, distinct(data, name)) for name, data in (*TORTURE.items(), *IPV6.items())]
        statuses = await asyncio.gather(*(status_of(identity, port, data) for _, data in messages))
        answers = dict(zip([name for name, _ in messages], statuses, strict=True))
        wrong = {
            name: answers[name]
            for name, wanted in expected.items()
            if wanted is not None and answers[name] not in (wanted if isinstance(wanted, tuple) else (wanted,))
        }
        assert wrong == {}
        assert 500 not in answers.values()
        options = peer.request("OPTIONS", f"sip:127.0.0.1:{port}")
        assert (await peer.stack.request(options, home.hop, role="mw")).status == 200
    assert "request.failed" not in "".join(capfd.readouterr())


def read(name):
    return read_register(parse_message(TORTURE[name]), ["example.com"], SETTINGS)


@pytest.mark.clause("RFC 4475", "3.3.12")
def test_a_parameter_outside_brackets_belongs_to_the_contact():
    [contact] = read("cparam01").contacts
    assert "unknownparam" not in contact.uri.params
    assert ("unknownparam", None) in contact.params


@pytest.mark.clause("RFC 4475", "3.3.13")
def test_a_parameter_inside_brackets_belongs_to_the_uri():
    [contact] = read("cparam02").contacts
    assert "unknownparam" in contact.uri.params
    assert contact.params == ()


@pytest.mark.clause("RFC 4475", "3.3.14")
def test_an_escaped_route_stays_in_the_contact():
    [contact] = read("regescrt").contacts
    assert contact.uri.headers == [("Route", "%3Csip:sip.example.com%3E")]


@pytest.mark.clause("RFC 4475", "3.1.1.4")
def test_an_escaped_nul_does_not_cut_the_user_part():
    register = read("escnull")
    assert register.impu == "sip:null-%00-null@example.com"
    assert {contact.uri.user for contact in register.contacts} == {"%00", "%00%00"}
