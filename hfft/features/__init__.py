"""What frozen layers give for an example, computed once, and what is solved on it."""
