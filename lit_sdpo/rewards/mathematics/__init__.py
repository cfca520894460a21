"""Mathematical answers: reading, and comparing by kind and value."""
