"""Many runs from one file: configurations times seeds, each a process and a folder of its own."""
