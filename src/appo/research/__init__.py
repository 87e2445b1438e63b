"""Comparisons of methods over testbeds, cold starts and seeds, and the pilot study. Nothing imports this."""
