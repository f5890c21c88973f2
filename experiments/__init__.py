"""Experiment files, and the entry point `python -m experiments.run`."""
