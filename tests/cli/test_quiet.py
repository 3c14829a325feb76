from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, warnings
from autoprune.cli.quiet import hush_libraries
hush_libraries()
logging.getLogger("autoprune.data.voc").warning("2 boxes are left out")
logging.getLogger("a.library").warning("chatter")
warnings.warn("chatter")
"""


def test_our_own_warnings_are_heard_and_those_of_libraries_are_not():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr == "autoprune: WARNING: 2 boxes are left out\n"
