"""What is kept on disk and read again: the cache of features, and checkpoints."""
