"Numbers for docs/trust.md: with TRUST=write (see `make trust`), tests leave what they have counted as rows"
import os, platform, sys
from pathlib import Path

benchmarks = Path(__file__).resolve().parent.parent/'benchmarks'
WHOLE = 1000 # Tests of a run that stands for the whole suite

def note(
    what, # Kind of row: 'kills', 'ranks', 'steps' or 'suite'
    **found, # What was counted
):
    "A row of benchmarks/results/trust.jsonl, with machine, commit and versions; nothing without TRUST=write"
    if os.environ.get('TRUST')!='write': return
    import fastai, torch
    if str(benchmarks) not in sys.path: sys.path.append(str(benchmarks))
    from common import append, results, stamp
    versions = dict(torch=torch.__version__.split('+')[0], fastai=fastai.__version__, python=platform.python_version())
    append(results/'trust.jsonl', dict(what=what, **found, **versions, **stamp()))

def note_suite(
    stats:dict, # Outcome -> reports, as pytest's reporter has them
):
    "How the whole suite went; nothing where only some tests were run"
    counts = {k:len(stats.get(k, ())) for k in ('passed','failed','error','skipped')}
    if sum(counts.values())>=WHOLE: note('suite', **counts)
