"""Runs command lines twice in one process, on a pretended GPU and on the CPU, and tells how they ended.

Reads {name: arguments} as JSON from stdin: `DEVICE` in an argument becomes `pretend` or `cpu`, `OUT` `DEVICE/NAME`.
Writes {device: {name: exit code}} to the file that is its only argument; what commands say goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

from autoprune.cli.edge import run
from autoprune.config import options
from tests.pretend import gpu


def main() -> None:
    """Runs all of them."""
    commands = json.load(sys.stdin)
    options._DEVICE = re.compile(rf"cpu|{gpu.NAME}")
    with gpu.pretended_gpu():
        found = {gpu.NAME: _all(commands, gpu.NAME)}
    # Half precision is not pretended, so that the CPU must not have it either.
    with patch.object(torch.cpu, "get_capabilities", dict):
        found["cpu"] = _all(commands, "cpu")
    Path(sys.argv[1]).write_text(json.dumps(found))


def _all(commands: Mapping[str, Sequence[str]], device: str) -> dict[str, int]:
    codes = {}
    for name, arguments in commands.items():
        print(f"--- {device}: {name}", file=sys.stderr, flush=True)
        places = {"OUT": f"{device}/{name}", "DEVICE": device}
        named = [_replaced(argument, places) for argument in arguments]
        torch.manual_seed(0)
        codes[name] = run([*named, "--device", device])
    return codes


def _replaced(argument: str, places: Mapping[str, str]) -> str:
    for word, place in places.items():
        argument = argument.replace(word, place)
    return argument


if __name__ == "__main__":
    os.environ["AUTOPRUNE_DEBUG"] = "1"
    main()
