"One thread a process, set before torch is imported: `make test` runs two processes side by side"
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest # noqa: E402, after the threads
pytest.register_assert_rewrite('helpers', 'zoo')
