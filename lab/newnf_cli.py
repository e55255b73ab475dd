"""``imslab new-nf NAME [DIR]``."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli_base import fail


@click.command("new-nf")
@click.argument("name")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def new_nf(name: str, folder: Path | None) -> None:
    """Write a network function called NAME as a package of its own into DIR (default: ./NAME).

    It is complete: contract, settings, procedure, node, tests, README, compose file; `imslab up --with DIR` runs it.
    """
    from lab.newnf import NewNfError, module_of, write
    from sba.contract_build import compile_contracts
    from sba.errors import ContractError

    target = folder or Path(name)
    try:
        written = write(name, target)
    except NewNfError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{target} cannot be written: {error.strerror}", 2)
    for path in written:
        click.echo(f"  {path}")
    try:
        compile_contracts(target.resolve(), [module_of(name)])
    except ContractError as error:
        click.echo(f"the contract is not compiled yet: {error}", err=True)
    click.echo(f"{name} written; run it in a lab with: imslab up --with {target}")
