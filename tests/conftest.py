"""Run every test with one torch thread, because more threads slow down small tensors."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
