"""Keeps libraries from talking over the progress display; our own warnings still show."""

from __future__ import annotations

import logging
import os
import sys
import warnings

DEBUG_VARIABLE = "AUTOPRUNE_DEBUG"


def debugging() -> bool:
    """Returns whether the environment asks to see where errors were raised."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def hush_libraries() -> None:
    """Silences Python warnings and library loggers, and sends autoprune's own warnings to stderr.

    `AUTOPRUNE_DEBUG=1` leaves everything audible, and lets autoprune say where candidates failed, too.
    """
    logger = logging.getLogger("autoprune")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("autoprune: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        # Its own level: that of the root, which silences the libraries, would silence it, too.
        logger.setLevel(logging.DEBUG if debugging() else logging.WARNING)
        logger.propagate = False
    if not debugging():
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
