"""Experiment configs and the entry point `python -m experiments.run`."""
