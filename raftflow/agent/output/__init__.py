"""Captured output of attempts: kept on disk within limits, read for logs, brought to the log store."""
