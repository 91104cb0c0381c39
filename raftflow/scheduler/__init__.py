"""Which ready task goes to which agent: pure functions of a picture of both. `apply` checks every answer again."""
