"""A finished run in the formats of others. `llava`: a directory that transformers loads by itself."""
