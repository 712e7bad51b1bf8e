"""What holds for every test: one thread for the small tensors of tests, which more only slow down."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
