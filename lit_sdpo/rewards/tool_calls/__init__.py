"""Tool calls: their form in a completion, and whether they are the right ones."""
