"""``imslab compose-file``: the compose file of a lab description."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lab.cli_base import config_option, fail, writable_file


@click.command("compose-file")
@config_option
@click.option(
    "--with",
    "packages",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A package of others whose nodes are to be in the lab; repeat for several.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File instead of the screen.")
def compose_file(config: Path | None, packages: tuple[Path, ...], output: Path | None) -> None:
    """Write a compose file that runs a lab description in containers.

    With -o also the folders of secrets beside it, which the service `init` fills.
    """
    from lab.compose_file import compose_file as text_of
    from lab.compose_file import secret_folders
    from lab.compose_packages import mounted
    from lab.config import load
    from lab.config_problems import ConfigError
    from lab.launch import default_config
    from lab.layout import ResolveError
    from sba.packages import PackageError

    source = config or default_config()
    here = (output.absolute() if output is not None else Path("compose/compose.yaml").absolute()).parent
    try:
        described, mounts = mounted(load(source), packages, here)
        text = text_of(
            described, _shown(source), source_here=_from(source, here), context=_context(here), packages=mounts
        )
    except ConfigError as error:
        count = len(error.problems)
        fail(f"the lab description has {count} fault{'' if count == 1 else 's'}\n{error}", 2)
    except (ResolveError, PackageError, OSError) as error:
        fail(str(error), 2)
    if output is None:
        click.echo(text, nl=False)
        return
    writable_file(output)
    output.write_text(text, "utf-8")
    made = secret_folders(text, here / "secrets")
    click.echo(f"{output} written, {made} folders of secrets beside it", err=True)


def _shown(source: Path) -> str:
    try:
        return str(source.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(source)


def _from(path: Path, here: Path) -> str:
    """The path as the compose file has to write it: relative, and never taken for the name of a volume."""
    relative = os.path.relpath(path.absolute(), here)
    return relative if relative.startswith("..") else f"./{relative}"


def _context(here: Path) -> str:
    """The checkout, out of which the image is built."""
    return _from(Path(__file__).resolve().parent.parent, here).removesuffix("/.")
