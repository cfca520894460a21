"""Puzzles of reasoning-gym, scored by its own scorers behind guards."""
