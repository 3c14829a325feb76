"""Coverage files: one for each family, written anew after every network, and the page that shows them all."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from autoprune.core.files import cannot_write
from autoprune.errors import ConfigError
from autoprune.report.files import atomic_write_text
from autoprune.report.markdown.coverage import KIND, coverage_page
from autoprune.searching.coverage.covering import Coverage, as_entry
from autoprune.searching.experiments.provenance import circumstances

PAGE = "README.md"


class CoverageFile:
    """The results of one family; a run that is stopped leaves those it has.

    Args:
        family: its name, and that of the file.
        command: that makes it.
        folder: where it goes; None keeps the results in memory.
    """

    def __init__(self, family: str, command: str, folder: Path | None) -> None:
        """Writes nothing yet."""
        found = circumstances()
        versions = {
            **found.pop("versions"),
            **({"timm": importlib.metadata.version("timm")} if family == "timm" else {}),
        }
        self._folder = folder
        self._content: dict[str, Any] = {
            "kind": KIND, "family": family, "command": command, **found, "versions": versions, "complete": False,
            "rows": [],
        }  # fmt: skip

    def add(self, result: Coverage) -> None:
        """Adds a network.

        Raises:
            RunError: the file cannot be written.
        """
        self._content["rows"].append(as_entry(result))
        self._write()

    def finish(self) -> dict[str, Any]:
        """Says that all networks of the family are there; returns the content."""
        self._content["complete"] = True
        self._write()
        return self._content

    def _write(self) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        path = self._folder / f"{self._content['family']}.json"
        atomic_write_text(path, json.dumps(self._content, indent=1) + "\n")


def read_coverage(folder: Path) -> list[dict[str, Any]]:
    """Returns the contents of every coverage file in a folder, in the order of their names.

    Raises:
        ConfigError: one cannot be read.
    """
    contents = []
    for path in sorted(folder.glob("*.json")):
        try:
            contents.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot read the coverage file {str(path)!r}: {error}. Make it again.") from error
    return contents


def write_page(folder: Path) -> Path:
    """Writes the page of all coverage files in a folder; returns it."""
    path = folder / PAGE
    atomic_write_text(path, coverage_page(read_coverage(folder)))
    return path
