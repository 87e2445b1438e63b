"""`python -m appo.data TRAIN.parquet [BENCHMARK_DIR]`: see `rl_sets.py`."""

import sys

from appo.data.rl_sets import main

if __name__ == "__main__":
    main(sys.argv[1:])
