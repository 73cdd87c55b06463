"""Training: data, loops and evaluation."""
