"""Weights for any JAX model: tracing's graphs, a hypernetwork that knows ops by name, and what the user gets back."""
