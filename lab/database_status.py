"""What each store of a lab is at: the revision of its tables, and the last one this release knows."""

from __future__ import annotations

from pathlib import Path

from lab.control import Json
from lab.labfile import LabFile
from lab.state import StateFolder
from sba.config import NodeEnvironment
from sba.database import DatabaseAccess, told
from sba.errors import SbaError
from sba.migrations import History, revision, revision_of_file
from sba.run import node_class


async def stores(folder: StateFolder) -> list[dict[str, Json]]:
    """Return one row for each store of the lab in ``folder``; what a store did not tell stands in its ``fault``."""
    rows: dict[str, dict[str, Json]] = {}
    for name, node in LabFile.read(folder.lab_json).nodes.items():
        if node.kind == "lab":
            continue
        environment = NodeEnvironment.load(folder.lab_json, name)
        store = environment.node.store_name
        if store in rows:
            continue
        row: dict[str, Json] = {"store": store, "kind": node.kind, "revision": "", "known": "", "fault": ""}
        try:
            history = History.of(node_class(node.kind))
            if history is None:
                continue
            row["known"] = history.steps[-1]
            row["where"], row["revision"] = await _look(environment)
        except (SbaError, ImportError) as error:
            row["where"], row["fault"] = row.get("where", ""), str(error)
        rows[store] = row
    return list(rows.values())


async def _look(environment: NodeEnvironment) -> tuple[str, str]:
    if not environment.lab.database_url:
        file = environment.node_dir / "store.sqlite"
        return str(file), revision_of_file(Path(file)) or ""
    access = DatabaseAccess.of(environment)
    engine = access.engine()
    try:
        with told():
            return str(access), await revision(engine) or ""
    finally:
        await engine.dispose()
