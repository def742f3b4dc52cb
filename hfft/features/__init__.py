"""What a frozen part of a model gives for an example, computed once."""
