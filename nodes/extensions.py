"""Media security that packages bring, as far as the lab description enables it: modes and crypto suites.

Whatever is enabled has to be there, to be what it says and to stand in nobody's way, or the node does not start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from keying.modes import ModeError, SecurityMode, check_mode, check_modes
from keying.suites import SuiteError
from media.srtp_transform import enable_srtp_suite
from sba.config import NodeEnvironment
from sba.errors import ConfigurationError
from sba.packages import CRYPTO_SUITES, SECURITY_MODES


def _entry(group: str, name: str) -> EntryPoint:
    found = tuple(entry_points(group=group, name=name))
    if not found:
        raise ConfigurationError(f"the lab enables {name}, which no package brings ({group})")
    if len(found) > 1:
        raise ConfigurationError(f"several packages bring {name} ({group})")
    return found[0]


def _load(entry: EntryPoint) -> object:
    try:
        loaded: object = entry.load()
    except Exception as error:  # whatever the package does wrong, it is the package that is named
        raise ConfigurationError(f"{entry.name} ({entry.value}) cannot be loaded: {error}") from error
    return loaded


def load_modes(names: Iterable[str]) -> Mapping[str, type[SecurityMode]]:
    """Return the classes of security modes by name; raises :class:`ConfigurationError`."""
    try:
        modes = {name: check_mode(name, _load(_entry(SECURITY_MODES, name))) for name in names}
        check_modes(modes)
    except ModeError as error:
        raise ConfigurationError(str(error)) from None
    return modes


def load_suites(names: Iterable[str]) -> Mapping[str, str]:
    """Enable crypto suites in this process; return what each is loaded from, ``module:object`` by name.

    Raises :class:`ConfigurationError`.
    """
    entries = [_entry(CRYPTO_SUITES, name) for name in names]
    for entry in entries:
        try:
            enable_srtp_suite(entry.name, _load(entry))
        except SuiteError as error:
            raise ConfigurationError(str(error)) from None
    return {entry.name: entry.value for entry in entries}


@cache
def _modes(names: tuple[str, ...]) -> Mapping[str, type[SecurityMode]]:
    return load_modes(names)


def security_modes(environment: NodeEnvironment) -> Mapping[str, type[SecurityMode]]:
    """Return the security modes that the lab of a node enables; raises :class:`ConfigurationError`."""
    return _modes(environment.lab.security_modes)


def crypto_suites(environment: NodeEnvironment) -> Mapping[str, str]:
    """Enable the crypto suites of the lab in this process, like :func:`load_suites`."""
    return load_suites(environment.lab.crypto_suites)


__all__ = ["crypto_suites", "load_modes", "load_suites", "security_modes"]
