"What the benchmarks share: rows on disk, one per finished run, and where they were made"
import argparse, datetime, fcntl, hashlib, json, os, platform, subprocess, time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.fp16 import MixedPrecision

root = Path(__file__).resolve().parent.parent
results = root/'benchmarks/results'

class CPUMixed(MixedPrecision):
    "bfloat16 on a CPU, where fastai's own mixed precision does nothing"
    def __init__(self): super().__init__('bf16')
    def before_fit(self):
        super().before_fit()
        if not torch.cuda.is_available(): self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

class Lean(Callback):
    "No validation in the fit: the training alone is timed"
    order = -100
    def before_validate(self): raise CancelValidException

def machine():
    "Processor, cores, torch"
    name = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.processor()) if os.path.exists('/proc/cpuinfo') else platform.processor()
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    return f'{name}, {os.cpu_count()} cores{gpu}, torch {torch.__version__.split("+")[0]}'

def _commit():
    "Short commit of this checkout, with a + where library or benchmarks have changes"
    git = lambda *a: subprocess.run(['git','-C',str(Path(__file__).parent),*a], capture_output=True, text=True).stdout.strip()
    return git('rev-parse','--short','HEAD')+('+' if git('status','--porcelain','-uno','--',str(root/'elastic_nets'),':(glob)*.py') else '')

COMMIT = _commit() # where this process began, whatever is committed meanwhile

def stamp(): return dict(machine=machine(), commit=COMMIT, date=datetime.date.today().isoformat())

def rows(path):
    "Finished runs"
    return _read(path, os.stat(path).st_mtime_ns) if Path(path).exists() else []

@lru_cache
def _read(path, changed): return [json.loads(l) for l in open(path)]

@contextmanager
def write_row(path, name, config):
    "A dict to fill, written as a row where the block ends well; None where the run is done or another process is at it"
    key = hashlib.sha1(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    lock = open(Path(os.environ.get('TMPDIR','/tmp'))/f'elastic_nets-{Path(path).stem}-{key}.lock', 'w')
    try: fcntl.flock(lock, fcntl.LOCK_EX|fcntl.LOCK_NB)
    except OSError: yield None; return
    if any(r['config']==config for r in rows(path)): yield None; return
    row = {}
    print(f'{name}: {config}', flush=True)
    yield row
    Path(path).parent.mkdir(exist_ok=True)
    with open(path, 'a') as f: f.write(json.dumps(dict(name=name, config=config, **row, **stamp()))+'\n')
    print('  ', row, flush=True)

def run_fit(learn, c, cbs):
    "Train as `c` says: accuracy on validation and test, and what the training took"
    t,cpu = time.perf_counter(), time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'], cbs=cbs)
    t,cpu = time.perf_counter()-t, time.process_time()-cpu
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Lean, CPUMixed))])
    with learn.no_bar(): (vl,va), (_,ta) = learn.validate(dl=learn.dls.valid), learn.validate(dl=learn.dls.test)
    stages = [{k:v for k,v in r.items() if k not in ('epoch','seconds')} for r in cbs[0].rows] if cbs else []
    return dict(valid=round(100*va,2), test=round(100*ta,2), valid_loss=round(vl,4), seconds=round(t,1), cpu_seconds=round(cpu,1),
                overhead=round(cbs[0].overhead,2) if cbs else 0., steps=c['epochs']*len(learn.dls.train), stages=stages)

def main(doc, path, configs, train):
    "Run what is not yet a row of `path`"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*'); p.add_argument('--seeds', nargs='*', type=int, default=[0,1,2])
    p.add_argument('--threads', type=int, default=1); p.add_argument('--list', action='store_true')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.list:
        for name,c in configs(a.seeds): print(name, c, 'done' if c in [r['config'] for r in rows(path)] else '')
    while not a.list and run_next(path, configs(a.seeds), train, a): pass

def run_next(path, configs, train, a):
    "The first run that is not yet a row; False where there is none. After it `configs` is asked anew: what is worth running may follow from rows"
    for name,c in configs:
        if a.only and name not in a.only: continue
        with write_row(path, name, c) as row:
            if row is not None: row.update(train(c), threads=a.threads); return True
    return False
