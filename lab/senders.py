"""Who sends telemetry: the node named by the certificate of the connection, whatever the data says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lab.labfile import NodeRow
from sba.errors import IdentityError
from sba.identity import PeerIdentities, RevocationList

TELL_AGAIN_S = 60.0
"""Seconds in which one sender is complained of once for the same thing."""
_SHOWN = 64
"""Most characters of a claimed name that are printed."""


class SenderRefusedError(Exception):
    """The telemetry is not taken; the text says why."""


@dataclass(frozen=True)
class Sender:
    """A node of the lab, as its certificate has it."""

    node: str
    nf_type: str
    instance_id: str = ""


class Senders:
    """Finds the node behind a certificate of the lab CA, among ``nodes`` as they then are.

    Refusals are told to ``journal``, each kind once a minute.
    """

    def __init__(
        self,
        nodes: Collection[NodeRow],
        revoked: RevocationList,
        journal: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes = nodes
        self._names = self._read()
        self._revoked = revoked
        self._journal = journal
        self._clock = clock
        self._identities = PeerIdentities()
        self._told: dict[tuple[str, str], float] = {}

    def _read(self) -> Mapping[str, str]:
        return {row.instance_id.lower(): row.instance for row in self._nodes}

    def of(self, pem: bytes) -> Sender:
        """Return the sender of a verified certificate (PEM).

        Raises ``SenderRefusedError`` when it is revoked or of no node of this lab.
        """
        try:
            peer = self._identities.of(pem)
        except IdentityError as error:
            raise self._refused("", "a certificate of no NF", str(error)) from error
        self._revoked.refresh()
        if peer.instance_id not in self._names:
            self._names = self._read()  # an instance that came since
        node = self._names.get(peer.instance_id, "")
        if peer.serial_number in self._revoked:
            raise self._refused(node or peer.instance_id, "a revoked certificate")
        if not node:
            raise self._refused(peer.instance_id, "an NF that is not of this lab")
        return Sender(node, peer.nf_type, peer.instance_id)

    def check_claim(self, sender: Sender, claimed: str, instance: str = "", nf_type: str = "") -> None:
        """Compare who the data says to be from with the certificate; raises ``SenderRefusedError`` when they differ.

        ``claimed`` is a node's name; an NF instance id and an NF type count only where they are given.
        """
        if claimed != sender.node:
            raise self._refused(sender.node, "the name of another node", ascii(claimed[:_SHOWN]))
        if instance and instance.lower() != sender.instance_id.lower():
            raise self._refused(sender.node, "another NF instance id", ascii(instance[:_SHOWN]))
        if nf_type and nf_type not in sender.nf_type.split(","):
            raise self._refused(sender.node, "another NF type", ascii(nf_type[:_SHOWN]))

    def _refused(self, who: str, why: str, detail: str = "") -> SenderRefusedError:
        now = self._clock()
        if self._told.get((who, why), now - TELL_AGAIN_S) <= now - TELL_AGAIN_S:
            self._told[who, why] = now
            self._journal(f"telemetry refused: {who or 'somebody'} sent it under {why} {detail}".rstrip())
        return SenderRefusedError(why)
