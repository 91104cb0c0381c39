"""Which ready task goes to which agent: pure functions of a view of both. `apply` checks every answer again."""
