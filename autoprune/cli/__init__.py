"""The command line: options in, one clear line out when something is wrong.

Nothing heavy is imported before the options are known to be right, so help and typing mistakes are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0 done, 1 a bug, 2 what the user can fix, 130 stopped by Ctrl-C."""
    from autoprune.cli.edge import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
