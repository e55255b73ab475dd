"""HTTPS between UEs and the network: a strict server and a careful client over Twisted, both as coroutines.

A node that serves::

    async def handler(request: HttpRequest) -> HttpResponse: ...

    server = HttpsServer(handler, self.identity, self.telemetry)
    port = await server.start(settings.http.host, settings.http.port)
    ...
    await server.stop()

A node that asks::

    client = HttpsClient(self.identity.ca_path, self.telemetry, identity=self.identity)
    response = await client.request("POST", HttpsAddress(host=..., port=..., tls_name="kms.ims.test"), "/keymanagement",
                                    headers=(("Content-Type", "application/mikey"),), body=octets, timeout_s=5.0)

TLS 1.2 at least (TS 33.210 6.2, assumed). The server proves itself by a certificate of the lab CA that shows the name
asked for, the client by whatever the protocol above wants. Each request is one span on both sides, joined by
``traceparent``.
"""

from nodes.httpmessage import Fields, HttpError, HttpFault, HttpLimits, HttpRequest, HttpResponse, HttpsAddress
from nodes.httpsclient import HttpsClient
from nodes.httpsserver import Handler, HttpsServer

__all__ = [
    "Fields",
    "Handler",
    "HttpError",
    "HttpFault",
    "HttpLimits",
    "HttpRequest",
    "HttpResponse",
    "HttpsAddress",
    "HttpsClient",
    "HttpsServer",
]
