"""Losses as free functions: arrays in, scalar loss and metrics out."""
