"One thread a process, set before torch is imported: `make test` runs two processes side by side"
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest # noqa: E402
import elastic_nets.all # noqa: E402, F401, every room adds its methods to the classes of the rooms before it

pytest.register_assert_rewrite('helpers', 'notebooks', 'supernets', 'zoo')
