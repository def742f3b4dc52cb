"""Search: the arguments of a run that are best on the validation split, found by trials and trained anew."""

from hfft.searching.running import SearchResult, search

__all__ = ["SearchResult", "search"]
