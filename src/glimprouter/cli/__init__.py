"""The command line: one file per verb; only the chosen verb is imported."""
