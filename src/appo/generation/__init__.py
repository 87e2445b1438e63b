"""Engines that write turns: transformers, embedded."""
