"""Tests of vid2act_jax/loops."""
