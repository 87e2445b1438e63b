"""An endpoint that speaks OpenAI's API on the package's engines: for agents that are programs of their own.

`appo serve MODEL` serves a trained model to whatever speaks the API; a training gives each rollout a key of its own
and reads what it wrote from its book, token by token. `replay.py` branches a rollout of an agent that knows nothing of
it. Nothing here imports the trainer. docs/serve.md shows how it is used.
"""
