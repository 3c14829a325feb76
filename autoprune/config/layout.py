"""What lies where in the folders that autoprune writes: known here alone, and imported in no time."""

from __future__ import annotations

from pathlib import Path

from autoprune.errors import RunError

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
    raise RunError(f"{str(directory)!r} holds no saved network: neither {STRUCTURE} nor {INCUMBENT}/{STRUCTURE}.")
