"""The report: a run's records as one HTML page (`appo report`). Read in order: run, credit, atlas, pack, write."""
