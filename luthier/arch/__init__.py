"""Model architectures as data: `DecoderSpec` and one file per family. Imports no torch."""
