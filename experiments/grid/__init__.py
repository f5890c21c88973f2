"""Grids of runs. Entry point: `python -m experiments.grid`."""
