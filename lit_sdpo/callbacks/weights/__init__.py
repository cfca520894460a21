"""How far the weights have moved, and where the base's are kept."""
