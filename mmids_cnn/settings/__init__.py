"""A tree of settings with a rule at each leaf, and names that stand for parts of one's own."""
