"""TODO front page."""
