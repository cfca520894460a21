"""The folder that a vLLM server needs on ``PYTHONPATH``."""
