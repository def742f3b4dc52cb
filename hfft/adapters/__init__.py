"""Adapters of PEFT: small weights beside frozen layers, which are trained and in the end merged into them."""
