"""Workflow documents in and out: TOML, YAML, JSON, WfFormat."""
