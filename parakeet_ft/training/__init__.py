"""What learns and how: from adaptation to the choice of weights."""
