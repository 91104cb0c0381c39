"""Routes of effects."""
