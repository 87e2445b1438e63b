"""What is here and what would fail: `appo doctor`, or `python -m appo.doctor`."""
