"""Training loops of the stages: the only place with side effects."""
