"""Text from a model: the KV cache, samplers, prompts, stop strings."""
