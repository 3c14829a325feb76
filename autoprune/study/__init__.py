"""The search as a passive object: it is asked for candidates and told outcomes, and keeps the ledger of both."""

from autoprune.study.ledger import Ledger, read_header, read_ledger, run_of
from autoprune.study.replay import Replayed, replay
from autoprune.study.study import Study

__all__ = ["Ledger", "Replayed", "Study", "read_header", "read_ledger", "replay", "run_of"]
