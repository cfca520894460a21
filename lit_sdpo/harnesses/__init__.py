"""Results of other programs, in the terms of this package."""
