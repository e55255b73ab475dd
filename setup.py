"""Build hooks: compile the contracts in ``protos/``, the packet loop of the relay where there is a C compiler, and put
the default lab description beside the lab's code.
"""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithContracts(build_py):
    """Generate the gRPC message code, build as usual, add what lies outside the packages."""

    def run(self) -> None:
        """Run ``protos/generate.py``, the standard step, and copy ``config/lab.yaml`` (not for an editable install)."""
        runpy.run_path(str(ROOT / "protos" / "generate.py"))["generate"](ROOT)
        super().run()
        if not self.editable_mode:
            self.copy_file(str(ROOT / "config" / "lab.yaml"), str(Path(self.build_lib) / "lab" / "lab.yaml"))


def packet_loop() -> Extension:
    """Return the relay's extension; without a compiler it is left out, and the relay runs interpreted."""
    build = runpy.run_path(str(ROOT / "media" / "relay" / "compiled_build.py"))
    extension = build["builder"]().distutils_extension("build/packet_loop")
    extension.optional = True
    return extension


setup(cmdclass={"build_py": BuildWithContracts}, ext_modules=[packet_loop()])
