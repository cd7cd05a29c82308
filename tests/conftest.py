"""What every test relies on: no display, and one thread a process, as two pytest workers share two cores."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
