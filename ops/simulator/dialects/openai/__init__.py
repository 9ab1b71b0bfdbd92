"""The OpenAI-compatible surfaces, as Ollama's converters read and write them.

They do not know `max_completion_tokens`, `n`, `best_of`, `echo`, `tool_choice`, `logit_bias` and `options`.
"""
