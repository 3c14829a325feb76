"""What `trace --all` does: every network of a family through the whole way, a line each, and a table of all."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.cli.answers import answer
from autoprune.config.layout import require_folder_place
from autoprune.config.options import OPTIONS
from autoprune.errors import ConfigError


def cover(families: Sequence[str], given: Mapping[str, Any], *, out: Path | None, as_json: bool) -> int:
    """Checks every network of the families; returns 1 where one does not pass.

    Args:
        families: names, several in one text between commas.
        given: other options, of which none makes sense here.
        out: folder of the results files and the page; None writes none.
        as_json: prints the results as JSON; progress goes to stderr.
    """
    if not families:
        raise ConfigError("--out is the folder of --all. Name a family, such as --all torchvision.")
    if given:
        name = next(iter(given))
        flag = OPTIONS[name].flag if name in OPTIONS else f"--{name.replace('_', '-')}"
        what = f"the network {given['model']!r}" if "model" in given else flag
        raise ConfigError(f"--all goes through whole families by itself. Leave {what} out.")
    require_folder_place(out)
    from autoprune.cli.quiet import hush_libraries
    from autoprune.report.markdown.coverage import PASSED, summary_line
    from autoprune.searching.coverage.covering import Coverage, cover, models_of
    from autoprune.searching.coverage.files import CoverageFile, write_page

    hush_libraries()
    names = [name.strip() for family in families for name in family.split(",")]
    listed = {name: models_of(name) for name in dict.fromkeys(names)}
    contents = []
    for family, models in listed.items():
        file = CoverageFile(family, _command(family, out), out)

        def tell(result: Coverage, file: CoverageFile = file) -> None:
            file.add(result)
            verdict = "pass" if result.outcome == PASSED else result.outcome
            print(
                f"{result.model:44} {result.groups:4} groups  {100 * result.reachable:5.1f} % reachable  "
                f"{result.seconds:5.0f} s  {verdict}",
                flush=True,
            )

        cover(models, tell=tell)
        contents.append(file.finish())
    written = write_page(out) if out is not None else None
    if as_json:
        answer(json.dumps(contents, indent=1))
    else:
        for content in contents:
            print(f"{content['family']}: {summary_line(content)}.")
        if written is not None:
            print(f"The table is in {written}.")
    return 0 if all(row["outcome"] == PASSED for content in contents for row in content["rows"]) else 1


def _command(family: str, out: Path | None) -> str:
    return f"autoprune trace --all {family}" + (f" --out {shlex.quote(str(out))}" if out is not None else "")
