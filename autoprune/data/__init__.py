"""Images with labels: what networks are calibrated, scored and trained on."""
