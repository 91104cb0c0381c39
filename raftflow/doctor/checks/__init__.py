"""The checks of the doctor, by subject. Each takes what was gathered and returns findings. Pure."""
