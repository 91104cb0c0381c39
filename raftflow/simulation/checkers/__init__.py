"""What must hold: models that know nothing of the tables that they check."""
