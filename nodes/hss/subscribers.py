"""Who is who: private identities, the public identities they own, and the form a URI is found by."""

from __future__ import annotations

from collections.abc import Iterable

from nodes.hss.provision import ProvisioningError, Subscriber
from signalling.sip.uri import SipUri, TelUri, UriError, parse_uri


class UnknownSubscriberError(Exception):
    """No subscriber has this identity."""


class NotOwnerError(Exception):
    """The public identity belongs to another private identity."""


def canonical_impu(uri: str) -> str:
    """Bring a public identity to the form it is stored by (RFC 3261 10.3 step 5, RFC 3966 4).

    Parameters, headers and port go, the host is lower case, sips counts as sip; a tel URI loses its visual separators.
    Raises ``UnknownSubscriberError`` for anything that is neither a SIP nor a tel URI.
    """
    try:
        parsed = parse_uri(uri)
    except UriError:
        raise UnknownSubscriberError(uri) from None
    if isinstance(parsed, TelUri):
        return f"tel:{parsed.digits}"
    if isinstance(parsed, SipUri):
        return "sip:" + parsed.address_of_record.partition(":")[2]
    raise UnknownSubscriberError(uri)


class SubscriberDirectory:
    """The provisioned subscribers, found by private or public identity."""

    def __init__(self, subscribers: Iterable[Subscriber]) -> None:
        self._by_impi: dict[str, Subscriber] = {}
        self._by_impu: dict[str, Subscriber] = {}
        for subscriber in subscribers:
            self._by_impi[subscriber.impi] = subscriber
            for identity in subscriber.public_identities:
                if self._by_impu.setdefault(canonical_impu(identity.uri), subscriber) is not subscriber:
                    raise ProvisioningError(f"the identity {identity.uri} is provisioned twice")

    def __len__(self) -> int:
        return len(self._by_impi)

    @property
    def domains(self) -> tuple[str, ...]:
        """Home domains of the subscribers, sorted."""
        return tuple(sorted({subscriber.domain for subscriber in self._by_impi.values()}))

    def by_impi(self, impi: str) -> Subscriber:
        """The owner of a private identity. Raises ``UnknownSubscriberError``."""
        try:
            return self._by_impi[impi]
        except KeyError:
            raise UnknownSubscriberError(impi) from None

    def by_impu(self, impu: str) -> Subscriber:
        """The owner of a public identity. Raises ``UnknownSubscriberError``."""
        try:
            return self._by_impu[canonical_impu(impu)]
        except KeyError:
            raise UnknownSubscriberError(impu) from None

    def owner(self, impi: str, impu: str) -> Subscriber:
        """The subscriber who has both identities; either may be empty, not both.

        Raises ``UnknownSubscriberError``, or ``NotOwnerError`` when the two belong to different subscribers.
        """
        subscriber = self.by_impu(impu) if impu else self.by_impi(impi)
        if impi and subscriber.impi != impi:
            self.by_impi(impi)
            raise NotOwnerError(impu)
        return subscriber
