"""An OpenAI-compatible server for a model and its adapters. `luthier.serve(...)` and `luthier serve` start it."""
