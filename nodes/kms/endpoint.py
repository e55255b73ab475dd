"""The HTTPS endpoint for UEs: Annex A in front of the exchanges."""

from __future__ import annotations

from keying.mikey.describe import summary
from keying.mikey.profile import Profile
from nodes.httpmessage import Fields, HttpRequest, HttpResponse
from nodes.kms.exchanges import Exchanges, Refusal
from nodes.kms.http import (
    MikeyPost,
    NotAnnexA,
    Operation,
    bootstrap_response,
    mikey_response,
    plain,
    read_post,
)
from nodes.kms.watch import Watch
from sba.access import RateLimit


class KmsEndpoint:
    """Answers the requests of UEs; `identity` is the name in the challenge to bootstrap."""

    def __init__(
        self, exchanges: Exchanges, profile: Profile, identity: str, addresses: RateLimit, watch: Watch
    ) -> None:
        self._exchanges = exchanges
        self._profile = profile
        self._identity = identity
        self._addresses = addresses
        self._watch = watch
        self.in_progress = 0
        """Requests that wait for their answer."""

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one request (A.1 to A.3, assumed)."""
        self.in_progress += 1
        try:
            return await self._handle(request)
        finally:
            self.in_progress -= 1

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        if not self._addresses.take(request.remote[0]):
            return plain(429, "too many requests", _retry_after(self._addresses.retry_after_s()))
        try:
            post = read_post(request, self._profile)
        except NotAnnexA as fault:
            return fault.response
        request.span.set_attribute("imslab.mikey.request", summary(post.octets))
        return await self._answer(post, request)

    async def _answer(self, post: MikeyPost, request: HttpRequest) -> HttpResponse:
        ask = self._exchanges.request if post.operation is Operation.REQUEST else self._exchanges.resolve
        try:
            with self._watch.deciding(post.operation.value) as decision:
                octets = await ask(post.octets, decision)
        except Refusal as refusal:
            return self._refused(refusal, post, request)
        request.span.set_attribute("imslab.mikey.response", summary(octets))
        return mikey_response(200, post.form, octets, self._profile)

    def _refused(self, refusal: Refusal, post: MikeyPost, request: HttpRequest) -> HttpResponse:
        if refusal.status == 401:
            return bootstrap_response(self._identity)
        more = _retry_after(refusal.retry_after_s) if refusal.retry_after_s else ()
        if refusal.octets is None:
            return plain(refusal.status, refusal.reason.partition(":")[0], more)
        request.span.set_attribute("imslab.mikey.response", summary(refusal.octets))
        return mikey_response(refusal.status, post.form, refusal.octets, self._profile, more)


def _retry_after(seconds: int) -> Fields:
    return (("Retry-After", str(seconds)),)
