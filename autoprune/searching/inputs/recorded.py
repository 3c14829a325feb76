"""Options read back from a run folder: checked like those that a person writes, for the folder may come from others.

A folder cannot make the program run code that came with it, nor write beside it: names of code that lies in the
folder, and MLflow stores elsewhere on the disk, are refused until a person names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from autoprune.config.options import CODE_OPTIONS, OPTIONS, check_options
from autoprune.errors import AutopruneError, RunError
from autoprune.plugins import require_foreign
from autoprune.searching.inputs.options import SearchOptions
from autoprune.strategies.registry import strategy_names
from autoprune.tracking.uris import MASK, named_store, place_on_disk

#: What searches did before an option existed, where that is not its default: their candidates are cut as they were.
BEFORE: Mapping[str, Any] = {"channels": "norm"}


def recorded_options(
    header: Mapping[str, Any], folder: Path, changes: Mapping[str, Any] | None = None, *, tracks: bool = True
) -> SearchOptions:
    """Returns the options of the search in a folder.

    Args:
        header: what its ledger says of the run.
        folder: the run folder, which becomes `out`.
        changes: checked options that are to differ.
        tracks: whether anything will be written to the MLflow store.

    Raises:
        RunError: the ledger does not say how the search was started, or says what nobody can have asked for.
    """
    changes = dict(changes or {})
    values = header.get("options")
    if not isinstance(values, Mapping):
        raise RunError(f"The ledger in {str(folder)!r} does not say how the search was started. Start it anew.")
    known = {field.name for field in fields(SearchOptions)} & set(OPTIONS)
    read = {name: value for name, value in values.items() if name in known and value is not None and name != "out"}
    read = {**BEFORE, **read}
    if tracks and not (changes.get("no_mlflow") or changes.get("tracking_uri")) and not read.get("no_mlflow"):
        read["tracking_uri"] = recorded_store(read.get("tracking_uri"), folder)
    if changes.get("backend") == "serial":
        read.pop("evaluation_timeout", None)  # it cannot give up on itself
    given = {name: value for name, value in {**read, **changes}.items() if value is not None}
    try:
        options = SearchOptions(
            **{**check_options(given, strategies=strategy_names(), flags=False, resumes=True), "out": folder}
        )
        for name in CODE_OPTIONS:
            require_foreign(getattr(options, name), folder)
    except (AutopruneError, TypeError) as error:
        raise RunError(f"The search in {str(folder)!r} cannot go on with what its ledger says: {error}") from error
    return options


def recorded_store(uri: Any, folder: Path) -> str | None:
    """Returns the MLflow store that a folder names, None where it names none, or none that is used without asking.

    Raises:
        RunError: its secrets were not written down, or it lies elsewhere on the disk: a person has to name it again.
    """
    if uri is None:
        return None
    text = uri if isinstance(uri, str) else ""
    place = place_on_disk(text) if text.isprintable() and text else folder.parent.parent
    if MASK not in text and (place is None or place.resolve().is_relative_to(folder.resolve().parent)):
        return text
    if named_store(None):
        return None
    again = "Name the store again with --tracking-uri, or leave it out with --no-mlflow."
    if MASK in text:
        raise RunError(f"The MLflow store of {str(folder)!r} has a secret, which is not written down. {again}")
    raise RunError(f"The MLflow store of {str(folder)!r}, {uri!r}, lies outside the folder of runs. {again}")
