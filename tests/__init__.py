"""Tests; `python -m tests.check_parity FILE.npz` compares golden files."""
