"""Reading the state: queries, explanations, invariants. Nothing here changes it."""
