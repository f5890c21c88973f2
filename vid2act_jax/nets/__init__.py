"""Networks: flax.linen modules for one step each, without losses."""
