"""Which of several instances a process is: the first that no other process is at present.

Replicas that a container engine makes of one service are alike. Each takes the identity of one instance, and with it
its certificate, its state and its name, by a lock on a file in a folder that they share. The kernel frees the lock when
the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sba.errors import ConfigurationError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class Slot:
    """An instance that is this process's as long as ``descriptor`` is open."""

    instance: str
    descriptor: int


def claim(folder: Path, instances: Sequence[str]) -> Slot:
    """Take the first instance that is free.

    Raises :class:`ConfigurationError` when all are taken or the folder cannot be written.
    """
    for instance in instances:
        try:
            descriptor = os.open(folder / f"{instance}.lock", _FLAGS, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the folder {folder} of instances cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(f"the folder {folder} has no locks: {error.strerror}") from error
        return Slot(instance, descriptor)
    raise ConfigurationError(f"all {len(instances)} instances are taken: {', '.join(instances)}")
