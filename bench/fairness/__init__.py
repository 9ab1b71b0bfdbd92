"""Measures how the queue shares slots, on the real Envoy, Redis and PostgreSQL in front of a simulated Ollama.

A token of the simulated Ollama takes 20 ms, which it sleeps, so other programs on the machine hardly change the
shares. Tokens come from the audit rows, and the times of the slots from the records of the simulated Ollama.
"""
