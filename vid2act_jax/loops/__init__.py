"""What runs a stage: the only place with side effects."""
