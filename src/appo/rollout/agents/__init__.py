"""Rollouts that an agent writes which is a program of its own (`appo.environments.agents`), through `appo.serve`.

run -> runner -> rollouts -> writer: one run of the program, many at once, their books as rollouts, and the three verbs
that a trainer knows.
"""
