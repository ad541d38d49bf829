"""What `crosstax` does, one file for each stage: functions that chain the rooms; `cli.py` makes a command of each."""
