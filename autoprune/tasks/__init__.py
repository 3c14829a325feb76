"""What networks are for: how a batch becomes a loss, and how what a network puts out becomes a metric."""
