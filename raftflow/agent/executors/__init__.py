"""Running attempts: commands through the launcher, python callables in kept workers."""
