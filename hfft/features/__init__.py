"""What is computed on frozen features once they are there."""
