"""The command line: all commands, in the order of the help. The work is in modules that import what is heavy late."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli import commands, looking, making
from autoprune.cli.parameters import flag

app = typer.Typer(
    name="autoprune",
    help="Finds how many channels each layer of a trained convolutional network should keep under a budget.",
    epilog="Start with: autoprune search --budget 50%flops",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        commands.print_version(as_json=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        flag("--version", "Print the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Finds how many channels each layer of a trained convolutional network should keep under a budget."""


for command in (
    making.search,
    making.prune,
    making.experiment,
    making.train,
    making.finetune,
    looking.trace,
    looking.check_proxy,
    looking.cost,
    looking.evaluate,
    looking.pick,
    looking.export,
    looking.report,
    looking.compare,
    looking.ui,
    looking.version,
):
    app.command(command.__name__.replace("_", "-"))(command)
