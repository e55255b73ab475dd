"""CSB update: new keys and new crypto sessions in an established bundle, from either side (RFC 6043 5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keying.mikey.payloads import CryptoSession, GeneralExtension, KeyData, SecurityPolicy
from keying.mikey.sessions import SessionKeys


class Association:
    """An established bundle as one side keeps it: the keys that protect its updates, its sessions, its last times."""

    csb_id: int

    @property
    def keys(self) -> SessionKeys:
        """The session keys in force."""
        raise NotImplementedError

    @property
    def sessions(self) -> tuple[CryptoSession, ...]:
        """The crypto sessions in force, one policy each."""
        raise NotImplementedError

    def start(
        self,
        now: float,
        *,
        keys: Sequence[KeyData] = (),
        policies: Sequence[SecurityPolicy] = (),
        sessions: Sequence[CryptoSession] | None = None,
        extensions: Sequence[GeneralExtension] = (),
        response: bool = True,
    ) -> UpdateStarted:
        """Return an update this side starts: `keys` need L (initiator) or M (responder), `sessions` replace the map.

        Raises InvalidTicketPolicy where the flags forbid keys. The old keys stay in force until the update is done.
        """
        raise NotImplementedError

    def receive(self, octets: bytes, now: float) -> UpdateReceived:
        """Return the update the peer starts, verified. Raises AuthenticationFailure, Replayed and other MikeyErrors."""
        raise NotImplementedError


class UpdateStarted:
    """An update under way; `message` is to be sent as it stands."""

    message: bytes

    def receive(self, octets: bytes, now: float) -> SessionKeys:
        """Return the keys that are in force from now on, by a TRANSFER_RESP. Raises PeerError and other MikeyErrors."""
        raise NotImplementedError

    def finish(self) -> SessionKeys:
        """Return the keys that are in force from now on, for an update without response."""
        raise NotImplementedError


class UpdateReceived:
    """A verified update of the peer, not in force yet."""

    sessions: tuple[CryptoSession, ...]
    extensions: tuple[GeneralExtension, ...]
    response_wanted: bool

    def accept(
        self,
        now: float,
        *,
        ssrcs: Mapping[int, int] | None = None,
        chosen: Mapping[int, int] | None = None,
        keys: Sequence[KeyData] = (),
        extensions: Sequence[GeneralExtension] = (),
    ) -> tuple[bytes | None, SessionKeys]:
        """Return TRANSFER_RESP (None where none is wanted) and the keys that are in force from now on."""
        raise NotImplementedError
