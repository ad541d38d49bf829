"""Run directories: written, sealed, and opened again. No torch until weights are asked for."""
