"""Documents of other systems."""
