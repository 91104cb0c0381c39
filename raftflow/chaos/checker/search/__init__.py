"""Linearizability: the search for an order of calls, and what objects do when one call comes after the other."""
