"""Scores candidates: cut, reconstruct, perhaps finetune, measure on the hold-out."""
