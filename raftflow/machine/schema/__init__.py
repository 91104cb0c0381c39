"""The declaration of each table: how it is saved and restored, what must hold, what bounds it, what goes from it."""
