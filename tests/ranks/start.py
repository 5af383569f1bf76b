"Starts a script as one process, or as two that talk to each other on the CPU"
import os, subprocess, sys
from pathlib import Path

tests = Path(__file__).resolve().parent.parent

def start(script, *args, ranks=1, timeout=240, fails=False):
    "All that `script` says; with `ranks` above 1 torchrun starts it on a port that is free"
    left_out = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'
    env = {k:v for k,v in os.environ.items() if k not in left_out}
    path = os.pathsep.join([str(tests.parent), str(tests), *[p for p in [env.get('PYTHONPATH')] if p]])
    env.update(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONPATH=path)
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(ranks)] if ranks>1 else []
    done = subprocess.run([sys.executable, '-W', 'ignore', *launch, str(script), *map(str, args)], env=env,
                          capture_output=True, text=True, timeout=timeout)
    said = done.stdout+done.stderr
    assert bool(done.returncode)==fails, f'ended with {done.returncode}: {said[-4000:]}'
    return said
