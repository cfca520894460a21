"""What samples completions: the base class of engines, the native one and vLLM's."""
