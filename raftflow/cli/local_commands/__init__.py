"""Commands that work on this machine: configuration, programs, simulation, schema, help."""
