"What the benchmarks share: rows on disk, one per finished run, and where they were made"
import argparse, datetime, fcntl, hashlib, json, os, platform, random, subprocess, time
from collections import namedtuple
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
import numpy as np, torch
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedNo, combine_scheds
from fastai.optimizer import OptimWrapper, SGD

root = Path(__file__).resolve().parent.parent
results = root/'benchmarks/results'

# Training

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

def set_seed(seed):
    "All random numbers of a run follow its seed"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

def wall_clock():
    "Seconds, after a GPU has done what it was asked for"
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()

def optimizer(c):
    """For a learner: fastai's SGD, or PyTorch's with one kernel for all tensors. The second adds the weight decay to
    the gradient, so that at momentum .9 the same number decays ten times as much there"""
    if c.get('opt')!='fused': return partial(SGD, mom=c['mom'])
    return partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=c['mom'], fused=True))

def schedule_fit(learn, c, cbs):
    "One cycle, or with schedule='flat' a short warm-up, then flat, and a cosine in the last quarter"
    with learn.no_bar(), learn.no_logging():
        if c.get('schedule', 'cycle')=='cycle': return learn.fit_one_cycle(c['epochs'], c['lr'], cbs=cbs)
        lr = c['lr']
        parts = [SchedCos(lr/25, lr), SchedNo(lr, lr), SchedCos(lr, lr/1e5)]
        learn.fit(c['epochs'], lr, cbs=[*cbs, ParamScheduler({'lr': combine_scheds([.05,.7,.25], parts)})])

def run_fit(learn, c, cbs):
    "Train as `c` says, with at most one growing callback: accuracy on validation and test, and what the training took"
    wall,processor = time.perf_counter(), time.process_time()
    schedule_fit(learn, c, cbs)
    wall,processor = time.perf_counter()-wall, time.process_time()-processor
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, (Lean, CPUMixed))])
    with learn.no_bar():
        valid_loss,valid = learn.validate(dl=learn.dls.valid)
        _,test = learn.validate(dl=learn.dls.test)
    grower = cbs[0] if cbs else None
    stages = [{k:v for k,v in r.items() if k not in ('epoch','seconds')} for r in grower.rows] if grower else []
    overhead = round(grower.overhead,2) if grower else 0.
    return dict(valid=round(100*valid,2), test=round(100*test,2), valid_loss=round(valid_loss,4),
                seconds=round(wall,1), cpu_seconds=round(processor,1), overhead=overhead,
                steps=c['epochs']*len(learn.dls.train), stages=stages)

# Where a row was made

def processor():
    "Name of the processor"
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((l.split(':')[1].strip() for l in lines if l.startswith('model name')), '')
    return name or platform.processor() or platform.machine()

def machine():
    "Processor, cores, torch"
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    return f'{processor()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__.split("+")[0]}'

def git(*args):
    "What git says of this checkout; empty where there is no git, or no checkout"
    try: return subprocess.run(['git','-C',str(root),*args], capture_output=True, text=True).stdout.strip()
    except OSError: return ''

def sources():
    "A name for library and benchmarks as they are here, for a copy without git"
    files = sorted(p for folder in ('elastic_nets','benchmarks') for p in (root/folder).rglob('*.py'))
    return 'files '+hashlib.sha1(b''.join(p.read_bytes() for p in files)).hexdigest()[:7]

def find_commit():
    """Short commit of this checkout, with a + where library or benchmarks have changes. ELASTIC_NETS_COMMIT in the
    environment says it for a copy, or without git the file COMMIT; else it is unknown, with what `sources` says"""
    told = root/'COMMIT'
    if given := os.environ.get('ELASTIC_NETS_COMMIT'): return given
    top = git('rev-parse','--show-toplevel') # a repository around the copy has commits of something else
    if not top or Path(top).resolve()!=root:
        return told.read_text().strip() if told.exists() else f'unknown, {sources()}'
    changed = git('status','--porcelain','-uno','--','elastic_nets',':(glob)benchmarks/*.py')
    return git('rev-parse','--short','HEAD')+('+' if changed else '')

COMMIT = find_commit() # where this process began, whatever is committed meanwhile

def stamp(): return dict(machine=machine(), commit=COMMIT, date=datetime.date.today().isoformat())

# Rows

def rows(path):
    "Finished runs"
    return _read(path, os.stat(path).st_mtime_ns) if Path(path).exists() else []

@lru_cache
def _read(path, changed):
    "Whole lines: another process may be writing the last one"
    with open(path, encoding='utf-8') as f: return [json.loads(l) for l in f if l.endswith('\n')]

def append(path, row):
    "At once, so that rows of several processes do not mix"
    Path(path).parent.mkdir(exist_ok=True)
    with open(path, 'ab', buffering=0) as f: f.write((json.dumps(row)+'\n').encode())

def by_seed(rs, keep=lambda row: True): return {r['config']['seed']:r for r in rs if keep(r)}

@contextmanager
def write_row(path, name, config):
    "A dict to fill, written as a row where the block ends well; None where the run is done or another process is at it"
    key = hashlib.sha1(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    lock = open(Path(os.environ.get('TMPDIR','/tmp'))/f'elastic_nets-{Path(path).stem}-{key}.lock', 'w')
    try: fcntl.flock(lock, fcntl.LOCK_EX|fcntl.LOCK_NB)
    except OSError:
        yield None
        return
    if any(r['config']==config for r in rows(path)):
        yield None
        return
    row = {}
    print(f'{name}: {config}', flush=True)
    yield row
    append(path, dict(name=name, config=config, **row, **stamp()))
    print('  ', row, flush=True)

# Runs

# the file of rows; seeds -> (name, configuration) in order; configuration -> row
Job = namedtuple('Job', 'path configs train')

def main(doc, **jobs):
    "Run what is not yet a row, job by job"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(jobs)>1: p.add_argument('--parts', nargs='*', choices=[*jobs], default=[*jobs], help='what to run of it')
    p.add_argument('--only', nargs='*', help='names of runs')
    p.add_argument('--seeds', nargs='*', type=int, default=[0,1,2])
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--list', action='store_true', help='run nothing, say what there is')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    for part in getattr(a, 'parts', jobs):
        job = jobs[part]
        if a.list: show_runs(job, a.seeds)
        while not a.list and run_next(job, a): pass

def show_runs(job, seeds):
    done = [r['config'] for r in rows(job.path)]
    for name,c in job.configs(seeds): print(name, c, 'done' if c in done else '')

def run_next(job, a):
    """The first run that is not yet a row; False where there is none.
    After it the configurations are asked anew: what is worth running may follow from rows"""
    for name,c in job.configs(a.seeds):
        if a.only and name not in a.only: continue
        with write_row(job.path, name, c) as row:
            if row is not None:
                row.update(job.train(c), threads=a.threads)
                return True
    return False
