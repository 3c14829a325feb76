"""Searches in the files of other people's viewers.

`optuna_study` writes what optuna-dashboard reads, `tensorboard` what TensorBoard reads.
"""
