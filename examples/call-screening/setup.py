"""Build hook: compile the contract, so that an installed package has its code."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithContract(build_py):
    """Generate the message code beside the contract, then build as usual."""

    def run(self) -> None:
        """Compile; ``include`` holds the options of imslab that the contract imports."""
        contracts = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("call_screening/*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "-Iinclude", "--python_out=.", "--pyi_out=."]
        subprocess.run([*command, *contracts], cwd=ROOT, check=True)  # noqa: S603 - the interpreter that builds
        super().run()


setup(cmdclass={"build_py": BuildWithContract})
