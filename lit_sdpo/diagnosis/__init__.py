"""What stands in the way of a run on this machine: one file for each kind of check."""
