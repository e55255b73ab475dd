"""Generate the gRPC message code from the contracts in this folder.

Run as ``python protos/generate.py``; the package build runs it too. The output (``*_pb2.py``,
``*_pb2.pyi``) stands beside the contracts and is never committed. There is no generated
client or server code: ``sba`` reads the service descriptors, so that authorization options,
tracing and deadlines cannot be bypassed.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path


def generate(root: Path) -> list[str]:
    """Compile every contract under ``root/protos`` and return their names.

    Raises ``SystemExit`` with protoc's own message when a contract does not compile.
    """
    from grpc_tools import protoc

    contracts = sorted(path.relative_to(root).as_posix() for path in (root / "protos").glob("*.proto"))
    include = str(resources.files("grpc_tools") / "_proto")
    status = protoc.main(
        ["protoc", f"-I{root}", f"-I{include}", f"--python_out={root}", f"--pyi_out={root}", *contracts]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")
    return contracts


if __name__ == "__main__":
    for name in generate(Path(__file__).resolve().parent.parent):
        sys.stdout.write(f"generated {name}\n")
