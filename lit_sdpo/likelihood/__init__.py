"""Tasks that are scored without generating: how likely a model holds given texts and options."""
