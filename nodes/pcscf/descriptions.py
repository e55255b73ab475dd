"""Which session description of a request or response counts, and as what (RFC 3261 13.2.1, RFC 6337)."""

from __future__ import annotations

from nodes.pcscf.bodies import has_sdp
from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.session import Session
from signalling.sip.message import SipRequest


def carrier_of(request: SipRequest) -> str:
    """Name a request that may bring an offer; an offer in a response to it has the callee's tag behind that."""
    number, method = request.cseq
    return f"{number} {method} {request.from_tag}"


def is_superseded(session: Session, request: SipRequest, tag: str) -> bool:
    """Neither what a request offered nor what a response to it in the dialog `tag` did is what was offered last."""
    exchange = session.media.exchange
    return exchange is None or exchange.carrier not in (carrier_of(request), f"{carrier_of(request)} {tag}")


def is_described(dialog: EdgeDialog | None, request: SipRequest) -> bool:
    """A response to an INVITE had a session description: others in the same dialog are ignored (RFC 3261 13.2.1).

    They repeat it, and an UPDATE may have changed what it said.
    """
    return dialog is not None and dialog.described == carrier_of(request)


def is_of_no_exchange(session: Session, dialog: EdgeDialog, request: SipRequest, tag: str) -> bool:
    """A description in a response inside a dialog is neither answer nor offer (RFC 6337 2.2, 3.1.1).

    It was in an earlier response; or the request asked for none, and nobody would answer it.
    """
    if request.method != "INVITE" and not has_sdp(request):
        return True
    return is_superseded(session, request, tag) and (has_sdp(request) or is_described(dialog, request))
