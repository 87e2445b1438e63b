"""A trained model at work: questions in, tools called, answers out, by the loop that training runs.

Left out on purpose: training, and an endpoint for others' agents, which will be a folder of its own.
"""
