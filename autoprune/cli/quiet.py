"""Keeps libraries from talking over the progress display; our own warnings still show."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def hush_libraries() -> None:
    """Silences Python warnings and library loggers, and sends autoprune's own warnings to stderr.

    `AUTOPRUNE_DEBUG=1` leaves everything audible.
    """
    logger = logging.getLogger("autoprune")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("autoprune: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        # Its own level: that of the root, which silences the libraries, would silence it, too.
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    if os.environ.get("AUTOPRUNE_DEBUG", "") in ("", "0"):
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
