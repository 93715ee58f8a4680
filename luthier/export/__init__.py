"""Tuned models as files that other programs run, each held against the model that was trained."""
