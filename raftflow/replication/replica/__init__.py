"""One replica put together: its data, its parts, its turns, its messages, and how it ends."""
