"""Offline worlds made from a seed, in the formats of the real thing: images, encoder, language models."""
