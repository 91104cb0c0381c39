"""Admission: which connections and how much work the API takes in at a time."""
