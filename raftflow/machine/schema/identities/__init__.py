"""The declaration of the table of tokens."""
