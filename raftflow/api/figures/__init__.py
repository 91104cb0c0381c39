"""Figures of the API and of the process, and their form as Prometheus text."""
