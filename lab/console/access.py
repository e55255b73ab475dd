"""Who may use the console: the holder of the token, and pages he opened with it.

The token lies in the state folder, readable by its user alone, and never leaves it but in a link. A page exchanges it
for a session with two halves: a cookie that no script can read, and a key that no cookie carries. A browser sends
cookies of 127.0.0.1 to every port there, also to one where another user of the machine listens; the page's key could be
had by a script in the page. Neither half opens anything alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keying.secret import Secret

TOKEN_OCTETS: Final = 32
"""Length of the token and of each half of a session, octets."""
SESSION_S: Final = 12 * 3600
"""Lifetime of a session, s."""
MOST_SESSIONS: Final = 64
"""Sessions at a time; the oldest ends when one more begins."""
WRONG_TRIES: Final = 10
"""Wrong tokens within ``TRIES_S`` before tokens are not looked at for a while; sessions go on."""
TRIES_S: Final = 60.0
"""Time over which wrong tokens are counted, s."""
_LONGEST: Final = 256


class AccessError(Exception):
    """Nobody who may come in; ``retry_after_s`` is set when too many wrong tokens came."""

    def __init__(self, retry_after_s: int = 0) -> None:
        super().__init__("too many wrong tokens" if retry_after_s else "no session and no token that is right")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class NewSession:
    """The two halves of a session that begins, as text, and its lifetime in seconds."""

    cookie: str
    page_key: str
    lifetime_s: int


@dataclass(frozen=True)
class _Session:
    page_key: bytes
    ends: float


class Access:
    """Checks tokens and sessions; ``monotonic`` gives seconds."""

    def __init__(self, token: Secret, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._token = _digest(as_text(token))
        self._now = monotonic
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._wrong: deque[float] = deque(maxlen=WRONG_TRIES)

    def begin(self, token: str) -> NewSession:
        """Open a session for whoever shows the token. Raises ``AccessError``."""
        self.check_token(token)
        cookie, page_key = _random(), _random()
        self._sessions[_digest(cookie)] = _Session(_digest(page_key), self._now() + SESSION_S)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return NewSession(cookie, page_key, SESSION_S)

    def check_token(self, token: str) -> None:
        """Raises ``AccessError`` unless the token is right."""
        now = self._now()
        while self._wrong and self._wrong[0] <= now - TRIES_S:
            self._wrong.popleft()
        if len(self._wrong) >= WRONG_TRIES:
            raise AccessError(max(1, int(self._wrong[0] + TRIES_S - now)))
        if not hmac.compare_digest(_digest(token), self._token):
            self._wrong.append(now)
            raise AccessError

    def check_session(self, cookie: str, page_key: str) -> float:
        """Return the seconds a session has left. Raises ``AccessError`` unless both halves belong together."""
        key = _digest(cookie)
        session = self._sessions.get(key)
        if session is None:
            raise AccessError
        left = session.ends - self._now()
        if left <= 0:
            del self._sessions[key]
            raise AccessError
        if not hmac.compare_digest(_digest(page_key), session.page_key):
            raise AccessError
        return left

    def end(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(cookie), None)

    def change_token(self, token: Secret) -> None:
        """Take another token from now on; every session ends."""
        self._token = _digest(as_text(token))
        self._sessions.clear()


def _digest(text: str) -> bytes:
    """Octets of the same length for every text, so that comparing takes the same time."""
    return hashlib.sha256(text[:_LONGEST].encode("utf-8", "replace")).digest()


def _random() -> str:
    return secrets.token_urlsafe(TOKEN_OCTETS)


def as_text(token: Secret) -> str:
    """Return the token as it stands in a link: base64url without padding."""
    return base64.urlsafe_b64encode(token.reveal()).rstrip(b"=").decode("ascii")


def read_token(path: Path) -> Secret | None:
    """Return the token in a file; ``None`` when there is none that its user alone could read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return None
        content = file.read(_LONGEST).strip()
    try:
        octets = base64.urlsafe_b64decode(content + b"=")
    except ValueError:
        return None
    return Secret(octets) if len(octets) == TOKEN_OCTETS else None


def new_token(path: Path) -> Secret:
    """Make a token and keep it in a file of its user alone. Raises ``OSError``."""
    token = Secret.random(TOKEN_OCTETS)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(as_text(token) + "\n")
    beside.replace(path)
    return token


def open_token(path: Path) -> Secret:
    """Return the token of a state folder, a new one where there is none to trust. Raises ``OSError``."""
    return read_token(path) or new_token(path)
