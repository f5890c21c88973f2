"""Tuned forms of plain operations, in JAX alone; tested against those."""
