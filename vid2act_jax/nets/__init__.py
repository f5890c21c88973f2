"""Networks: flax.linen modules that do one step each, and no losses."""
