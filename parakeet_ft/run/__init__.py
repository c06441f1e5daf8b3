"""A run's directory, its record and what it prints."""
