"""Build hook: compile the contracts in ``protos/`` before the packages are collected."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithContracts(build_py):
    """Generate the gRPC message code, then build as usual."""

    def run(self) -> None:
        """Run ``protos/generate.py``, then the standard step."""
        runpy.run_path(str(ROOT / "protos" / "generate.py"))["generate"](ROOT)
        super().run()


setup(cmdclass={"build_py": BuildWithContracts})
