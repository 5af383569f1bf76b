"One thread a process, set before torch is imported: `make test` runs two processes side by side"
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest # noqa: E402
import torch # noqa: E402
import elastic_nets.all # noqa: E402, F401, every room adds its methods to the classes of the rooms before it
from noted import note_suite # noqa: E402

pytest.register_assert_rewrite('helpers', 'notebooks', 'supernets', 'zoo')

@pytest.fixture(autouse=True)
def nothing_is_left_on():
    "No test leaves mixed precision or a function mode on: the next one would compute something else"
    yield
    on = [device for device in ('cpu','cuda') if torch.is_autocast_enabled(device)]
    for device in on: torch.set_autocast_enabled(device, False)
    torch.clear_autocast_cache()
    assert not on, f'autocast is still on for {on}'

def pytest_terminal_summary(terminalreporter): # of the process that tells the others what to run
    note_suite(terminalreporter.stats)
