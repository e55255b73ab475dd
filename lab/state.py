"""The state folder of a lab: which file lies where, and who may read it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def default_folder() -> Path:
    """Return the per-user default: ``$IMSLAB_STATE``, else ``$XDG_STATE_HOME/imslab`` or ``~/.local/state/imslab``."""
    chosen = os.environ.get("IMSLAB_STATE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "imslab"


@dataclass(frozen=True)
class StateFolder:
    """The files of one lab under ``root``; the folder is the user's alone (0700)."""

    root: Path

    @classmethod
    def at(cls, path: str | Path | None) -> StateFolder:
        """Return the folder at ``path``, or the default one; nothing is created."""
        return cls((Path(path) if path else default_folder()).expanduser().absolute())

    def create(self) -> None:
        """Create the folder and its sub-folders, readable by the user alone."""
        for folder in (self.root, self.logs, self.pki, self.nodes, self.secrets):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    @property
    def lab_json(self) -> Path:
        """The resolved lab that every node reads."""
        return self.root / "lab.json"

    @property
    def description(self) -> Path:
        """The digest of the lab description that ``lab.json`` came from."""
        return self.root / "description.sha256"

    @property
    def instances(self) -> Path:
        """How many instances ``imslab scale`` chose of each network function."""
        return self.root / "instances.json"

    @property
    def packages(self) -> Path:
        """Which packages ``imslab up --with`` named, and where their modules lie."""
        return self.root / "packages.json"

    @property
    def metadata(self) -> Path:
        """Folder of the metadata of those packages."""
        return self.root / "packages"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self.root / "control.sock"

    @property
    def pid_file(self) -> Path:
        """The supervisor's process id."""
        return self.root / "supervisor.pid"

    @property
    def traces(self) -> Path:
        """The trace store."""
        return self.root / "traces.sqlite"

    @property
    def logs(self) -> Path:
        """Folder of the node logs."""
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        """Folder of the lab CA and the certificates."""
        return self.root / "pki"

    @property
    def nodes(self) -> Path:
        """Folder of the nodes' own stores."""
        return self.root / "nodes"

    @property
    def secrets(self) -> Path:
        """Folder of sealed secrets and the sealing key."""
        return self.root / "secrets"

    @property
    def database(self) -> Path:
        """Folder of the passwords that the network functions have at the database server."""
        return self.secrets / "database"

    @property
    def sealing_key(self) -> Path:
        """The lab's sealing key (0600)."""
        return self.secrets / "sealing.key"

    def log_of(self, instance: str) -> Path:
        """Return the log file of a node or of the supervisor."""
        return self.logs / f"{instance}.log"
