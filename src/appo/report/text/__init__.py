"""A run's rollouts as text for a terminal (`appo show`)."""
