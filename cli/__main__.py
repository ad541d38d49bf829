"""`python -m cli`: what `crosstax` does, where scripts are not installed."""

from cli import main

main()
