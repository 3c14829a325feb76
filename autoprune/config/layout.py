"""What lies where in the folders that autoprune writes: known here alone, and imported in no time."""

from __future__ import annotations

from pathlib import Path

from autoprune.errors import ConfigError, RunError

#: Of a run folder that holds a search; the ledger is there first, the summary last.
LEDGER, SUMMARY, FRONT_CSV, FRONT_HTML = "ledger.jsonl", "summary.json", "front.csv", "front.html"
#: Of one that holds a training.
TRAINING = "training.json"
#: The folder of the checkpoints of what is trained in a run folder; gone when that is done.
CHECKPOINTS = "checkpoints"
#: The folder of the network that a search or a pruning found, inside its run folder.
INCUMBENT = "incumbent"
#: Of the folder of a saved network.
STRUCTURE, WEIGHTS = "structure.json", "model.safetensors"


def saved_folder(directory: Path) -> Path:
    """Returns the folder of the saved network: the named one, or the incumbent in a run folder.

    Raises:
        RunError: there is none.
    """
    for folder in (directory, directory / INCUMBENT):
        if (folder / STRUCTURE).is_file():
            return folder
    missing = f"neither {STRUCTURE} nor {INCUMBENT}/{STRUCTURE}"
    raise RunError(f"{str(directory)!r} holds no saved network: {missing}.{found_instead(directory)}")


def found_instead(directory: Path) -> str:
    """Returns a sentence on what is there instead of what was looked for, to end a message with; empty if nothing."""
    if not directory.is_dir():
        return " It is a file." if directory.exists() else " There is no such folder."
    kinds = ((LEDGER, "a search"), (TRAINING, "a training"), (SUMMARY, "a pruning"))
    return next((f" It holds {kind}." for name, kind in kinds if (directory / name).is_file()), "")


def require_folder_place(out: Path | None) -> None:
    """Checks that an output folder, if one was named, is a folder or can become one; on the way there may be none yet.

    Raises:
        ConfigError: it is a file, or lies below one.
    """
    for place in () if out is None else (out, *out.parents):
        if place.exists() and not place.is_dir():
            what = "is" if place == out else f"lies below {str(place)!r}, which is"
            raise ConfigError(f"The output folder {str(out)!r} {what} a file. Name another one with --out.")
