"""What a run would do and need, worked out from its configuration: nothing is loaded, downloaded or run."""
