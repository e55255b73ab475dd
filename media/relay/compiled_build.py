"""Builds ``media.relay._packet_loop`` from ``packet_loop.c`` (cffi, API mode).

Loaded by ``setup.py`` by its path, so it imports nothing of the package.
"""

from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
PLACE = "media/relay"
"""Where the sources are, from the folder of ``setup.py``, in which it runs."""
MODULE = "media.relay._packet_loop"


def builder() -> cffi.FFI:
    """Return what compiles the extension; the interface is what ``packet_loop.h`` says between its marks."""
    ffi = cffi.FFI()
    header = (HERE / "packet_loop.h").read_text()
    ffi.cdef(header.partition("/* cffi begins */")[2].partition("/* cffi ends */")[0])
    ffi.set_source(
        MODULE,
        '#include "packet_loop.h"',
        sources=[f"{PLACE}/packet_loop.c"],
        include_dirs=[PLACE],
        libraries=["m"],
        extra_compile_args=["-O2", "-std=c11"],
    )
    return ffi
