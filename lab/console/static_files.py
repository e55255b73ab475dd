"""The files of the page, read into an index when the console starts: what is not in it is not served.

A request names a key of the index, never a path of the file system, so no form of ``..`` leads anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from nodes.httpmessage import HttpResponse

MEDIA_TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "json": "application/json",
    "woff2": "font/woff2",
}
"""Media types of files that are served, by the ending of their name."""
MOST_OCTETS = 4 << 20
"""A file above this size is not part of the page, octets."""


class StaticFiles:
    """Answers by path, made once."""

    def __init__(self, folder: Traversable | None = None) -> None:
        root = folder or files("lab.console") / "static"
        self._by_path: dict[str, tuple[str, HttpResponse]] = {}
        if root.is_dir():
            self._read(root, "/static")
        index = self._by_path.get("/static/index.html")
        if index is not None:
            self._by_path["/"] = index

    def _read(self, folder: Traversable, path: str) -> None:
        for item in folder.iterdir():
            below = f"{path}/{item.name}"
            if item.is_dir():
                self._read(item, below)
                continue
            media_type = MEDIA_TYPES.get(item.name.rpartition(".")[2])
            if media_type is None:
                continue
            octets = item.read_bytes()
            if len(octets) <= MOST_OCTETS:
                tag = f'"{sha256(octets).hexdigest()[:32]}"'
                head = (("Content-Type", media_type), ("ETag", tag), ("Cache-Control", "no-cache"))
                self._by_path[below] = tag, HttpResponse(200, head, octets)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths that are served."""
        return tuple(self._by_path)

    def find(self, path: str, known_tag: str | None = None) -> HttpResponse | None:
        """Return the file at a path, 304 where the client has it; ``None`` where there is none."""
        found = self._by_path.get(path)
        if found is None:
            return None
        tag, response = found
        if known_tag == tag:
            return HttpResponse(304, tuple(pair for pair in response.headers if pair[0] != "Content-Type"))
        return response
