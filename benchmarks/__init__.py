"""Benchmarks for the project's figures; see README.md in this folder."""
