"""Studies: grids of runs. Entry point: `python -m experiments.grid`."""
