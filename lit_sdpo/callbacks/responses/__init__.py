"""What the policy answers: drift from the base, formatting artifacts, the gain of repetition, collapse."""
