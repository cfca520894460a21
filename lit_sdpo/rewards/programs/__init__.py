"""Programs: what a row asks of them, and the verifier that runs it in the sandbox."""
