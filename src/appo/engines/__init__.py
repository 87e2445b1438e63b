"""Engines that write turns: where text comes from."""
