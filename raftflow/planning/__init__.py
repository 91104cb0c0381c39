"""The parts of planning that need optional libraries: the exact solver, and charts as images."""
