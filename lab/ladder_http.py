"""The HTTP exchanges of a call in its ladder: UE and KMS (TS 33.328 Annex A), UE and BSF (Ub of TS 33.220).

A request and its answer are two arrows. Where the span of either end names the MIKEY message in a body, the arrow does
too, with its payloads: ``POST REQUEST_INIT_PSK: T, RANDRi, IDRi, IDRkms, TP, IDRpsk, V``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lab.ladder_steps import Step, at_ms, record_id
from lab.spans import Span

HTTP_POINTS = {"KMS": "Ua", "BSF": "Ub"}
"""Reference point by the NF type of the server (TS 33.220 4.4; that 33.328 names it Ua is assumed)."""
_BEYOND_SIP = ("mikey.transfer", "kms.decision")


def is_http(span: Span) -> bool:
    """Tell whether a span is an HTTP request at either end."""
    return "http.request.method" in span.attributes


def is_beside_sip(span: Span) -> bool:
    """Tell whether a span begins key management that belongs to the call of its trace although it knows no Call-ID."""
    return is_http(span) or span.name.startswith(_BEYOND_SIP)


def http_steps(own: Sequence[Span], spans: Sequence[Span], names: Mapping[str, str], start_ns: int) -> Iterable[Step]:
    """Return the arrows of every HTTP request in ``own``; ``names`` gives the node behind a server's name."""
    servers = {(span.trace_id, span.parent_id): span for span in spans if is_http(span) and span.kind == "SERVER"}
    types = {span.node: span.nf_type.partition(",")[0] for span in spans if span.nf_type}
    for client in own:
        if not is_http(client) or client.kind != "CLIENT":
            continue
        server = servers.get((client.trace_id, client.span_id))
        address = client.text("server.address")
        target = server.node if server else names.get(address) or address or "?"
        ends = [client] if server is None else [client, server]
        point = HTTP_POINTS.get(types.get(target, ""), "HTTP")
        request, response = (_first(ends, f"imslab.mikey.{part}") for part in ("request", "response"))
        status = client.text("http.response.status_code")
        path = client.text("url.path")
        yield Step(
            kind="http",
            at_ms=at_ms(client.start_ns, start_ns),
            until_ms=at_ms(server.start_ns if server else client.start_ns, start_ns),
            source=client.node,
            target=target,
            label=f"{client.text('http.request.method')} {request or path}",
            detail=path,
            interface=point,
            transport="HTTPS",
            unseen=server is None and not status,
            ids=(record_id(client, "http request"),),
        )
        failed = client.text("error.type")
        if not status and not failed and server is None:
            continue
        yield Step(
            kind="http",
            at_ms=at_ms(server.end_ns if server else client.end_ns, start_ns),
            until_ms=at_ms(client.end_ns, start_ns),
            source=target,
            target=client.node,
            label=" ".join(filter(None, (status or failed or "no answer", response))),
            detail=path,
            interface=point,
            transport="HTTPS",
            outcome=status or "ERROR",
            unseen=not status,
            ids=(record_id(client, "http response"),),
        )


def _first(ends: Iterable[Span], key: str) -> str:
    return next((text for end in ends if (text := end.text(key))), "")


def mikey_steps(own: Sequence[Span], start_ns: int) -> Iterable[Step]:
    """Return a note for every Ticket Transfer message at its end, and one for every decision of a KMS."""
    for span in own:
        at = at_ms(span.start_ns, start_ns)
        if span.name == "mikey.transfer":
            name, _, payloads = span.text("imslab.mikey.message").partition(": ")
            way = span.text("imslab.mikey.direction")
            label = " ".join(filter(None, (name, way)))
            ids = (record_id(span, "mikey"),)
            yield Step("mikey", at, at, span.node, "", label or "MIKEY", detail=payloads, outcome=way, ids=ids)
        elif span.name == "kms.decision":
            fallen = at_ms(span.end_ns, start_ns)
            yield Step(
                "decision",
                fallen,
                fallen,
                span.node,
                "",
                " ".join(filter(None, (span.text("imslab.kms.operation"), span.text("imslab.kms.outcome")))),
                detail=_decided(span),
                outcome=span.text("imslab.kms.outcome"),
                ids=(record_id(span, "decision"),),
            )


def _decided(span: Span) -> str:
    user, responders = span.text("imslab.kms.user"), span.text("imslab.kms.responders")
    who = f"{user} for {responders}" if user and responders else user or responders
    return ", ".join(filter(None, (span.text("imslab.kms.reason"), who)))
