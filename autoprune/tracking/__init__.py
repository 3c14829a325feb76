"""Where a search is written down beside its ledger: MLflow, on a background thread that the search never waits for."""
