"""What runs where: the planner, and the watch over what runs already."""
