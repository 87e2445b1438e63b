"""Other trainers that methods run in. Nothing of `appo` imports these; each has an environment of its own."""
