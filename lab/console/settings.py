"""Where the console listens and by which names it is reached."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from lab.control import Json

LOOPBACK: Final = "127.0.0.1"
PORT_VARIABLE: Final = "IMSLAB_CONSOLE_PORT"
PUBLISHED_VARIABLE: Final = "IMSLAB_CONSOLE_PUBLISHED"
HOSTS_VARIABLE: Final = "IMSLAB_CONSOLE_HOSTS"


@dataclass(frozen=True)
class ConsoleSettings:
    """``port`` 0 is the one kept from before, else the kernel's choice.

    ``published`` is ``host:port`` as the browser sees it where that is not where the console listens; ``hosts`` are
    further names with port that a request may give as Host.
    """

    enabled: bool = True
    bind: str = LOOPBACK
    port: int = 0
    published: str = ""
    hosts: tuple[str, ...] = ()

    @classmethod
    def of_lab(cls, chosen: Json) -> ConsoleSettings:
        """Return what ``console`` in ``lab.json`` says: whether there is one, or its port; always on loopback."""
        if isinstance(chosen, bool) or not isinstance(chosen, int):
            return cls(enabled=chosen is not False)
        return cls(port=chosen)

    @classmethod
    def read(cls, lab_json: Path) -> ConsoleSettings:
        """Return what a resolved lab says."""
        return cls.of_lab(json.loads(lab_json.read_text("utf-8")).get("console", True))

    @classmethod
    def of_container(cls, environment: Mapping[str, str] = os.environ) -> ConsoleSettings:
        """Return what the compose file says to the console's container: it listens on every address it has there.

        The machine publishes that port on its own loopback address alone, and that is the name the browser uses.
        Without ``IMSLAB_CONSOLE_PORT`` there is no console. Raises ``ValueError`` for what is no port or no address.
        """
        port = environment.get(PORT_VARIABLE, "")
        if not port:
            return cls(enabled=False)
        published = environment.get(PUBLISHED_VARIABLE, f"{LOOPBACK}:{port}")
        host, _, number = published.rpartition(":")
        ip_address(host.strip("[]"))
        hosts = {published.lower(), *environment.get(HOSTS_VARIABLE, "").lower().split()}
        if ip_address(host.strip("[]")).is_loopback:
            hosts.add(f"localhost:{int(number)}")
        return cls(bind="", port=int(port), published=published, hosts=tuple(sorted(hosts)))
