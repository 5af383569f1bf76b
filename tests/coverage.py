"docs/coverage.md: what its table says of a model, and the row of each"
from pathlib import Path
from elastic_nets.channels.graph import kind_of
from elastic_nets.grow.deepen import depths_at
from helpers import counted_macs
from zoo import all_macs, zoo

page = Path(__file__).resolve().parent.parent/'docs/coverage.md'

outs = ("the network's output",)

def frozen_groups(graph):
    "Reason -> names of the groups that keep their number for it; the network's output always does"
    res = {}
    for g in graph.groups.values():
        if not g.why or g.why in outs: continue
        res.setdefault(kind_of(g.why), []).append(g.name)
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

def tables(): return page.read_text(encoding='utf-8').split('## More models')

def rows(table=0): return [l for l in tables()[table].splitlines() if is_row(l)]

def write_row(row):
    "Put `row` in its place in the table; what stands above the table stays"
    first, more = tables()
    head = [l for l in first.rstrip().splitlines() if not is_row(l)]
    by_model = {model_of(r):r for r in [*rows(), row]}
    first = '\n'.join([*head, *[by_model[n] for n in zoo if n in by_model]])
    page.write_text(f'{first}\n\n## More models{more}', encoding='utf-8')

# ---- the second table

def more_facts(model, sn):
    "What the second table says of one model"
    graph, space = sn.graph, sn.space
    def macs(m): return counted_macs(lambda: m.eval().requires_grad_(False)(*sn.xb))
    counted = {s: macs(sn.extract(s)) for s in (space.max, space.min)}
    frozen = frozen_groups(graph)
    return dict(elastic=len(graph.elastic), groups=len(graph.elastic)+sum(map(len, frozen.values())),
        params=graph.share(sn.model)['params'], blocks=sum(map(len, graph.stages.values())),
        small=(sn.n_params(space.min)/sn.n_params(space.max), counted[space.min]/max(1, counted[space.max])),
        macs={s: (sn.macs(s), n) for s,n in counted.items()}, frozen=frozen)

def more_row(model, f):
    "`more_facts` as a row; an exception where it was refused"
    if isinstance(f, Exception):
        reason = ' '.join(str(f).split()).replace('|', '/')[:200]
        return f'| {model.name} | {model.shown} | refused |  |  |  |  | {reason} |'
    why = '; '.join(f'{reason} ({len(names)})' for reason,names in f['frozen'].items()).replace('|', '/')
    left = [f'{x:.3f}' for x in f['small']]
    columns = [model.name, model.shown, f"{f['params']:.2f}", f"{f['elastic']} of {f['groups']}", f['blocks'] or '',
               *left, why]
    return f"| {' | '.join(map(str, columns))} |"

def write_more(row):
    "Put `row` in its place in the second table, which is in the order of names"
    head, title, rest = page.read_text(encoding='utf-8').partition('## More models')
    lines = rest.splitlines()
    by_model = {model_of(l):l for l in [*filter(is_row, lines), row]}
    kept = [l for l in lines if not is_row(l)]
    text = '\n'.join([head+title+'\n'.join(kept), *[by_model[n] for n in sorted(by_model)]])
    page.write_text(text+'\n', encoding='utf-8')
