"docs/coverage.md: what its table says of a model, and the row of each"
import re
from pathlib import Path
from elastic_nets.grow.deepen import depths_at
from zoo import all_macs, zoo

page = Path(__file__).resolve().parent.parent/'docs/coverage.md'

outs = ("the network's output",)

def frozen_groups(graph):
    "Reason -> names of the groups that keep their number for it; the network's output always does"
    res = {}
    for g in graph.groups.values():
        if not g.why or g.why in outs: continue
        reason = re.sub(r' in (the network|[\w.]+)( \([^)]*\))?', '', g.why)
        res.setdefault(reason, []).append(g.name)
    return res

def facts(case, sn):
    "What the table says of one model"
    graph, space = sn.graph, sn.space
    frozen, xb = frozen_groups(graph), case.xb(1)
    subs = dict(small=space.min, narrow=space.uniform(width=.25), full=space.max)
    macs = {name: all_macs(sn.extract(s), xb) for name,s in subs.items()}
    n, half = sn.n_params(space.max), sn.n_params(space.uniform(width=.5))
    blocks = sum(map(len, graph.stages.values()))
    return dict(
        pixels=case.size, elastic=len(graph.elastic), groups=len(graph.elastic)+sum(map(len, frozen.values())),
        units=sum(g.unit>1 for g in graph.elastic.values()), **graph.share(sn.model), grown=(n-half)/n,
        blocks=blocks, add=blocks-sum(depths_at(sn.extract(space.max), graph, .01).values()), # one of each kind is left
        small=macs['small']/macs['full'], narrow=macs['narrow']/macs['full'], frozen=frozen)

def coverage_row(case, f):
    "`facts` as a row of the table"
    def named(names): return f'`{names[0]}`'+(f' and {len(names)-1} more' if names[1:] else '')
    why = '; '.join(f'{reason}: {named(names)}' for reason,names in f['frozen'].items())
    columns = [
        case.name, f['pixels'], f"{f['elastic']} of {f['groups']}", f['units'] or '',
        f"{f['params']:.2f}", f"{f['macs']:.2f}", f"{f['grown']:.2f}",
        f"{f['add']} of {f['blocks']}" if f['blocks'] else '',
        f"{f['narrow']:.3f}", f"{f['small']:.3f}", '. '.join(s for s in (case.note, why) if s)]
    return f"| {' | '.join(map(str, columns))} |"

def model_of(row): return row.split('|')[1].strip()

def is_row(line): return line.startswith('| ') and model_of(line)!='model'

def rows(): return [l for l in page.read_text(encoding='utf-8').splitlines() if is_row(l)]

def write_row(row):
    "Put `row` in its place in the table; what stands above the table stays"
    head = [l for l in page.read_text(encoding='utf-8').splitlines() if not is_row(l)]
    by_model = {model_of(r):r for r in [*rows(), row]}
    page.write_text('\n'.join([*head, *[by_model[n] for n in zoo if n in by_model]])+'\n', encoding='utf-8')
