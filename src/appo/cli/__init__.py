"""The command line: recipes, the plan of a run, and the commands."""
