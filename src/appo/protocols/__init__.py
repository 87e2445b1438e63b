"""How calls are written and read: tags, and chat templates."""
