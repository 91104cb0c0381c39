"""A replica that lost or damaged its data, and what peers remember of it."""
