"""Vid2Act in JAX and Flax."""
