"""The engine: device, optimizer, checkpoints and the one training loop."""
