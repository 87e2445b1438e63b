"""Comparisons of methods over testbeds, cold starts and seeds: the runs, the statistics and the report."""
