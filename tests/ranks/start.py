"Starts a script as one process, or as two that talk to each other on the CPU, and kills it"
import os, signal, subprocess, sys, time
from pathlib import Path

tests = Path(__file__).resolve().parent.parent

def command(script, *args, ranks=1):
    "With `ranks` above 1 torchrun starts it, on a port that is free"
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(ranks)] if ranks>1 else []
    return [sys.executable, '-W', 'ignore', *launch, str(script), *map(str, args)]

def environment():
    left_out = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'
    env = {k:v for k,v in os.environ.items() if k not in left_out}
    path = os.pathsep.join([str(tests.parent), str(tests), *[p for p in [env.get('PYTHONPATH')] if p]])
    return {**env, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':'', 'PYTHONPATH':path}

def start(script, *args, ranks=1, timeout=300, fails=False):
    "All that `script` says"
    done = subprocess.run(command(script, *args, ranks=ranks), env=environment(), capture_output=True, text=True,
                          timeout=timeout)
    said = done.stdout+done.stderr
    assert bool(done.returncode)==fails, f'ended with {done.returncode}: {said[-4000:]}'
    return said

def killed(script, *args, when, ranks=1, timeout=240):
    "Start `script`, and kill it and all that it has started once `when()` is true"
    p = subprocess.Popen(command(script, *args, ranks=ranks), env=environment(), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.time()+timeout
    try:
        while not when():
            assert p.poll() is None, f'it ended by itself with {p.returncode}'
            assert time.time()<until, 'nothing happened'
            time.sleep(.02)
    finally:
        for pid in (p.pid, *children(p.pid)):
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
        p.wait()

def children(pid):
    "Processes that a process has started: torchrun gives each a session of its own"
    import psutil
    try: return [c.pid for c in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess: return []
