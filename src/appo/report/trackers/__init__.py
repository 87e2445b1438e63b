"""Rollouts as traces for trackio and W&B."""
