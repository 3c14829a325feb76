"""Lets the tests of this folder import `toy_search`: pytest's import mode `importlib` adds no folder to the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
