"""The declaration of the table of rate limits."""
