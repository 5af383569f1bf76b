"""docs/speed.md from results/supernet_speed.json and the template pages/speed.md

python benchmarks/speed_report.py
"""
import json
from report import Page, table
from supernet_speed import PASSES, SECONDS, path

page = Page('speed')

FOUND = json.loads(path.read_text(encoding='utf-8'))
RATIOS, TRACING = FOUND['pairs']['rows'], FOUND['tracing']['rows']

def kept(value, target): return 'yes' if value<=target else '**no**'

def kept_ratio(r):
    "By the median, and by the whole interval"
    if r['ratio']>r['target']: return '**no**'
    return 'yes' if r['high']<=r['target'] else 'by the median'

@page.place
def steps():
    def line(r):
        return [r['net'], r['what'], r['width'], f"{r['ratio']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}",
                f"{r['base_ms']:.1f}", r['target'], kept_ratio(r)]
    return table(['network','what','width','ratio','interval','plain, ms','target','kept'], map(line, RATIOS), left=2)

@page.place
def tracing():
    def line(r):
        return [r['model'], r['pixels'], *(f'{r[k]:.2f}' for k in ('traced','seconds','forward','limit')),
                kept(r['traced'], r['limit']), kept(r['seconds'], r['limit'])]
    heads = ['model','pixels','traced, s','supernet, s','one pass, s','limit, s','traced in time','supernet in time']
    return table(heads, map(line, TRACING))

def of_kind(what): return [r for r in RATIOS if r['what']==what]

def range_of(found):
    "Least to largest ratio"
    ratios = [r['ratio'] for r in found]
    return f'{min(ratios):.2f} to {max(ratios):.2f}'

def target_of(found):
    "The target, and by how many medians and intervals it is kept"
    medians, intervals = (sum(r[k]<=r['target'] for r in found) for k in ('ratio','high'))
    return f"target {found[0]['target']}, kept by {medians} of {len(found)} medians and {intervals} whole intervals"

@page.place
def full(): return range_of(of_kind('full / plain'))

@page.place
def full_target(): return target_of(of_kind('full / plain'))

@page.place
def active(): return range_of(of_kind('active / extracted'))

@page.place
def active_target(): return target_of(of_kind('active / extracted'))

@page.place
def slowest():
    r = max(TRACING, key=lambda r: r['seconds'])
    return f"{r['seconds']:.1f} seconds ({r['model']})"

@page.place
def n_models(): return len(TRACING)

@page.place
def pairs(): return FOUND['pairs']['pairs']

@page.place
def seconds(): return SECONDS

@page.place
def passes(): return PASSES

@page.place
def repeats():
    n = FOUND['tracing']['repeats']
    return 'once' if n==1 else f'{n} times, the median counts'

@page.place
def too_slow():
    def over(key): return sum(r[key]>r['limit'] for r in TRACING)
    return (f"Of {len(TRACING)} models, {over('traced')} take longer to trace, "
            f"and {over('seconds')} to become a supernet")

def where(part):
    "Machine, load and commit of a part"
    m, seed = FOUND[part]['machine'], FOUND[part]['seed']
    changes = ' with changes' if m['changed'] else ''
    return (f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, float32, torch {m['torch']}; "
            f"load {m['load']} before it began; commit {m['commit']}{changes}, seed {seed}, {m['date']}")

@page.place
def steps_where(): return where('pairs')

@page.place
def tracing_where(): return where('tracing')

if __name__=='__main__': page.write()
