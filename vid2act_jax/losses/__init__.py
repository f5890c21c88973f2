"""Losses as pure functions from arrays to a scalar loss and metrics."""
