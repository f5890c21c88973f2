"""Checks a machine and says what is missing: python -m vid2act_jax.doctor."""
