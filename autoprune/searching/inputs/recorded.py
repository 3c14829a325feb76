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
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.strategies.registry import strategy_names
from autoprune.tracking.uris import MASK, named_store, place_on_disk

#: What searches did before an option existed, where that is not its default: their candidates are cut as they were.
BEFORE: Mapping[str, Any] = {"channels": "norm"}


def resumed_options(out: Path, changes: Mapping[str, Any] | None = None) -> SearchOptions:
    """Returns the options that the search in a run folder goes on with; its ledger is read once.

    Args:
        out: the folder.
        changes: checked options that are to differ.

    Raises:
        RunError: the folder holds no search, one that only Python can go on with, or one that nobody can have asked
            for.
    """
    folder = RunFolder(out)
    folder.require_search("search to continue")
    header = folder.header()
    objects = header.get("objects") or []
    if objects and isinstance(objects, list) and all(isinstance(name, str) for name in objects):
        raise RunError(
            f"The search in {str(out)!r} was started in Python with its own {' and '.join(objects)}. Continue it "
            f"there: call autoprune.search again as before, with out={str(out)!r}."
        )
    return recorded_options(header, out, changes)


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
    read = without_other_store({**BEFORE, **read}, changes)
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


def without_other_store(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded options without the store, or the wish for none, that is given up for what is asked now."""
    if changes.get("tracking_uri") or changes.get("no_mlflow"):
        given_up = {"tracking_uri", "no_mlflow"}
    else:
        given_up = {"tracking_uri"} if recorded.get("no_mlflow") else set()
    return {name: value for name, value in recorded.items() if name not in given_up}


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
