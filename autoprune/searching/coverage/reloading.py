"""Loads saved networks in another process: `python -m autoprune.searching.coverage.reloading` reads folders from stdin.

A network that loads in the process that saved it may lean on what that process knows. One worker serves many folders,
for importing torch takes seconds. Beside the network, a folder holds images and the outputs that are expected of them.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.errors import RunError, one_line
from autoprune.models.storage.saved import load
from autoprune.models.verification.equivalence import largest_deviation, outputs

_EXAMPLE = "example.safetensors"


def keep_example(directory: Path, images: Tensor, expected: Sequence[Tensor]) -> None:
    """Writes images and what a saved network must say of them beside it."""
    # Cloned: a network may answer with one tensor twice, which a file of safetensors cannot hold.
    named = {f"output{index}": item.clone().contiguous() for index, item in enumerate(expected)}
    save_file({"images": images, **named}, directory / _EXAMPLE)


class Reloader:
    """The worker, started at its first folder, and started again if it died."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._worker: subprocess.Popen[str] | None = None

    def deviation(self, directory: Path) -> float:
        """Returns the largest deviation of the loaded network's outputs, relative to the largest output.

        Raises:
            RunError: the network does not load, or the worker died over it.
        """
        if self._worker is None or self._worker.poll() is not None:
            command = [sys.executable, "-m", "autoprune.searching.coverage.reloading"]
            self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(f"{directory}\n")
        self._worker.stdin.flush()
        answer = self._worker.stdout.readline()
        if not answer:
            raise RunError(f"the process that loaded it died (exit code {self._worker.wait()})")
        found = json.loads(answer)
        if "error" in found:
            raise RunError(found["error"])
        return float(found["deviation"])

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None and self._worker.stdin is not None:
            self._worker.stdin.close()
            self._worker.wait()
            self._worker = None


def _answer(directory: Path) -> dict[str, object]:
    from autoprune.searching.coverage.covering import reduce_detector

    example = load_file(directory / _EXAMPLE)
    expected = [example[f"output{index}"] for index in range(len(example) - 1)]
    model: nn.Module = load(directory)
    reduce_detector(model)
    with torch.no_grad():
        return {"deviation": largest_deviation(expected, outputs(model, example["images"]))}


def serve() -> None:
    """Answers every folder on stdin with a line of JSON on stdout."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a network prints
    for line in sys.stdin:
        try:
            answer = _answer(Path(line.strip()))
        except Exception as error:  # whatever it is, the next folder may load
            answer = {"error": one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        gc.collect()


if __name__ == "__main__":
    serve()
