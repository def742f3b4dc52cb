"""The steps of one run: what is settled before it, prepared for it, and gathered and written after it."""
