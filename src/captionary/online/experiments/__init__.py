"""Online experiments: who sees which arm, what it did, and whether that can be believed (paper §4.3)."""
