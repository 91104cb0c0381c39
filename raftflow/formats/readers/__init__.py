"""Reading TOML, YAML and JSON with the line of every fault."""
