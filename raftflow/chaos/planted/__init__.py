"""Planted bugs in the processes of a chaos cluster: the checker must find each of them."""
