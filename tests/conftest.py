"One thread a process, set before torch is imported: `make test` runs two processes side by side"
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
