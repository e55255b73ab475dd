"""A UE with a KMS at hand, and the far end of its calls with keys of its own."""

import asyncio

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodes.ue.config import Behaviour
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipResponse
from tests.ue.fake_pcscf import IP, Site, until
from tests.ue.kms_stand_in import ALICE, BOB, StandInKms, management
from tests.ue.test_calls import FarEnd
from tests.ue.test_mikey_calls import End


class Bob(FarEnd):
    """The far end, with keys of its own; asks the KMS before it answers."""

    def __init__(self, site, kms, *, user=BOB, asserted=BOB, tags=("b2",), early="", **more):
        super().__init__(site, **more)
        self.kms, self.asserted, self.early = kms, asserted, early
        self.ends = {tag: End(kms, user, 5000 + 100 * at, peer=ALICE) for at, tag in enumerate(tags)}
        self.end = self.ends[tags[0]]
        self.media = self.end.media
        self.tag = tags[0]
        self.tasks = []
        self.again = []
        """Repetitions of the 2xx."""

    def response(self, txn, status, body=b"", headers=()):
        asserted = [("P-Asserted-Identity", f"<{self.asserted}>")] if self.asserted else []
        return super().response(txn, status, body, [*asserted, *headers])

    def invited(self, txn):
        self.tasks.append(asyncio.ensure_future(self.serve(txn)))

    async def serve(self, txn):
        request = txn.request
        if request.to_tag is not None:
            self.dialog.check_incoming(request)
            txn.respond(self.response(txn, 200, await self.end.answer(request.body)))
            return
        if self.status >= 300:
            txn.respond(self.response(txn, self.status))
            return
        if self.early:
            self.tag = self.early
            body = await self.ends[self.early].answer(request.body)
            txn.respond(self.response(txn, 183, body, [("Require", "100rel"), ("RSeq", "7")]))
            await until(lambda: self.site.pcscf.of("PRACK"))
            self.tag = next(tag for tag in self.ends if tag != self.early)
            self.end = self.ends[self.tag]
            self.media = self.end.media
        body = self.change(await self.end.answer(request.body) if request.body else await self.end.offer(peer=ALICE))
        final = self.response(txn, 200, body)
        self.dialog = Dialog.from_uas(request, final)
        resend = txn.send_success_again
        txn.send_success_again = lambda response: (self.again.append(response), resend(response))
        txn.respond(final)


class Kms:
    """A UE with a KMS at hand, registered."""

    def __init__(self, folder, *, kms=None, settings=(), key_export=False, **policy):
        self.folder = folder
        self.kms = kms or StandInKms()
        self.keys = management(self.kms, ALICE, "tel:+15550100", key_export=key_export, **policy)
        self.spans = InMemorySpanExporter()
        self.more = dict(settings)

    async def __aenter__(self):
        self.site = Site(self.folder, keys=self.keys, kms_policy=self.keys.policy, **self.more)
        site = await self.site.__aenter__()
        site.kms, site.keys, site.spans = self.kms, self.keys, self.spans
        site.ue.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        await site.ue.register()
        return site

    async def __aexit__(self, *caught):
        await self.site.__aexit__(*caught)

    def named(self, name):
        return [span for span in self.spans.get_finished_spans() if span.name == name]


def spans(site, name):
    return [span for span in site.spans.get_finished_spans() if span.name == name]


async def established(site):
    """Return the UE's call once it is established."""
    await until(lambda: any(call.state == "established" for call in site.ue.agent.calls.values()))
    (call,) = site.ue.agent.calls.values()
    return call


def transfers(site):
    told = (span.attributes for span in spans(site, "mikey.transfer"))
    return [(one["imslab.mikey.message"].partition(":")[0], one["imslab.mikey.direction"]) for one in told]


async def called(site, body, *, headers=(), **behaviour):
    """Call the UE; returns the request and the responses so far."""
    site.ue.agent.behaviour = Behaviour.read({"media": "off", "answer_after_s": "0", **behaviour})
    request = site.pcscf.invite(site.ue, body, headers)
    seen = []
    site.pcscf.send(request, seen)
    return request, seen


async def final(seen):
    await until(lambda: any(isinstance(one, SipResponse) and one.status >= 200 for one in seen))
    return seen[-1]


def caller(site, **more):
    return End(site.kms, BOB, 5000, dialled=ALICE, **more)


async def talking(site, bob):
    """Have `bob` call the UE; returns his dialog and the UE's call."""
    request, seen = await called(site, await bob.offer(peer=ALICE))
    response = await final(seen)
    bob.media.take_answer(response.body)
    return site.pcscf.acknowledge(request, response), await established(site)


async def offered(site, dialog, method, body, *more):
    """Send the UE an offer within a dialog; returns the final response."""
    seen = []
    fields = [("Content-Type", "application/sdp"), ("Contact", f"<sip:bob@{IP}:{site.pcscf.port}>"), *more]
    site.pcscf.send(dialog.request(method, fields, body), seen)
    return await final(seen)
