"""Events in the contract."""
