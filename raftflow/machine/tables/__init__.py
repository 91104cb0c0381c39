"""The tables: data, and nothing that decides."""
