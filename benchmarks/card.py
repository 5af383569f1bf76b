"""What was measured on a GPU, for the pages: results/h100.jsonl, a few minutes on one card, and gpu_evidence.jsonl,
what `make gpu-evidence` added. Rows of the first have their configuration at the top level"""
import re
from common import by_seed, results, rows
from grow import FIVE, HALF, UNIFORM
from report import interval, mean, paired, spread, table

FIRST, LATER = rows(results/'h100.jsonl'), rows(results/'gpu_evidence.jsonl')
ALL = [*FIRST, *LATER]

def card_of(r): return re.search(r'NVIDIA (\w+)', r['machine'])[1]

def pass_time(times_of, plan):
    "A pass over the data with this plan, in passes of the full size, by measured steps"
    plan = plan or [[1.,0.]]
    ends = [*[start for _,start in plan[1:]], 1.]
    return sum((end-start)*times_of[size] for (size,start),end in zip(plan, ends))/times_of[1.]

def described(r):
    "Network, batch and format of a row of steps"
    c = r.get('config', r)
    return c['net'], c.get('bs'), c.get('format', 'bf16 channels_last'), c.get('opt', 'fastai')

def step_rows(key): return [r for r in ALL if key in r and 'kind' in r or r.get('name')=='steps' and key in r]

SIZES, KINDS, PEAKS = (step_rows(key) for key in ('sizes','kinds','mb'))

# Network -> how the paper grows it: stages, plan, times faster there, and with what loss of accuracy in points
PUBLISHED = {
    'ResNet-50': [('3 stages', UNIFORM, 1.28, .3)],
    'ResNet-101': [('3 stages', UNIFORM, 1.42, .2)],
    'DeiT-B': [('2 stages', HALF, 1.34, .3)],
    'DeepLabV3+': [('2 stages', HALF, 1.30, .5), ('3 stages', UNIFORM, 1.30, 1.8)],
    'ResNet-56': [('5 stages', FIVE, 1.45, .13)],
}

def times_of(r): return {size:ms for size,ms,_ in r['sizes']}

def published_plans(r):
    "How the paper grows the network of a row of steps"
    of_net = [plans for net,plans in PUBLISHED.items() if described(r)[0].startswith(net)]
    return of_net[0] if of_net else []

def allowed(r): return [1/pass_time(times_of(r), plan) for _,plan,*_ in published_plans(r)]

def sizes_table():
    sizes = sorted({s for r in SIZES for s in times_of(r) if s*8==int(s*8)})
    def line(r):
        net, bs, fmt, opt = described(r)
        ms, plans = times_of(r), published_plans(r)
        parts = [f'{ms[s]/ms[1.]:.2f}' if s in ms else '' for s in sizes]
        ours = ', '.join(f'{x:.2f}x' for x in allowed(r))
        stages, theirs = (', '.join(cells) for cells in ([p[0] for p in plans], [f'{p[2]:.2f}x' for p in plans]))
        how = fmt if opt=='fastai' else f'{fmt}, {opt}'
        return [net, card_of(r), how, bs, *parts, f'{ms[1.]:.1f}', stages, ours, theirs]
    head = ['','card','format','batch',*[f'{s:g}' for s in sizes],'ms at 1','plan of the paper','allows here',
            'published']
    return table(head, map(line, SIZES), left=3)

# Growth

def growth_rows():
    kinds = 'grow','growth','small'
    return [r for r in ALL if r.get('kind') in kinds and r['name'] not in ('warm','lr')]

def is_dense(c): return c['plan'] is None and 'sizes' not in c
def setting(c): return c['epochs'], c['lr'], c.get('schedule', 'cycle')
def same_network(c): return c['net'], c['width'], c['bs'], c.get('opt', 'fastai'), c['n_train']
def title(c): return f"ResNet-{c['net']} of base {c['width']}, batch {c['bs']:,}, {c['n_train']:,} pictures"

def test(r): return r['test']

def growth_tables():
    "A table for each network: dense first"
    text = []
    for key in dict.fromkeys(same_network(r['config']) for r in growth_rows()):
        rs = [r for r in growth_rows() if same_network(r['config'])==key]
        body = []
        for name in dict.fromkeys(r['name'] for r in sorted(rs, key=lambda r: r['name']!='dense')):
            runs = by_seed(rs, lambda r: r['name']==name)
            c = next(iter(runs.values()))['config']
            dense = by_seed(rs, lambda r: is_dense(r['config']) and setting(r['config'])==setting(c))
            beside = interval(paired(runs, dense, test), count=True) if not is_dense(c) else ''
            body.append([name, c['epochs'], f"{c['lr']:g}", spread([*map(test, runs.values())], ' (one run)'), beside,
                         f"{mean([r['seconds'] for r in runs.values()]):.0f}"])
        head = ['','epochs','lr','test','difference to dense of the same setting (seeds)','seconds']
        text += [f"**{title(rs[0]['config'])}**", '', table(head, body), '']
    return '\n'.join(text)

def wide():
    "Dense and grown row of the network that did not come back"
    of = {r['name']:r for r in FIRST if r.get('kind')=='grow'}
    return of['dense'], of['plan']

def probes():
    "What was changed -> accuracy on test of the same network, of half as many epochs"
    return {r['name'].removeprefix('probe, '):r['test'] for r in LATER if r['name'].startswith('probe, ')}

# Families

def family_rows():
    return [r for r in ALL if r.get('kind') in ('shrink','family') and 'config' in r and r['name']!='lr']

def families():
    "name, batch, optimizer, pictures, epochs -> seed -> row"
    groups = {}
    for r in family_rows():
        c = r['config']
        key = r['name'], c['bs'], c['n_train'], c['epochs'], c['lr']
        groups.setdefault(key, {})[c['seed']] = r
    return groups

def family_table(names):
    def line(key, runs):
        name, bs, n_train, epochs, lr = key
        end = {k:spread([r[k][2] for r in runs.values() if k in r], ' (one run)') for k in ('smallest','largest')}
        if name in ('full','smallest'): end = {'largest' if name=='full' else 'smallest': end_alone(runs)}
        mean_of = '' if name in ('full','smallest') else spread([*map(test, runs.values())], ' (one run)')
        seconds = mean([r['seconds'] for r in runs.values()])
        label, ends = names.get(name, name.replace('_', ' ')), [end.get(k, '') for k in ('smallest','largest')]
        return [label, len(runs), epochs, f'{bs:,}', f'{lr:g}', *ends, mean_of, f'{seconds:.0f}']
    def end_alone(runs): return spread([*map(test, runs.values())], ' (one run)')
    return table(['','seeds','epochs','batch','lr','smallest','largest','mean Pareto','seconds'],
                 [line(*item) for item in families().items()])

def kinds_table():
    kinds = [k for k in KINDS[0]['kinds'] if k!='full']
    def line(r):
        net, bs, *_ = described(r) # the first rows, of batch 1,024, do not name it
        of = r['kinds']
        return [net, card_of(r), f'{bs or 1024:,}', f"{of['full'][0]:.1f}", *[f'{of[k][1]:.2f}' for k in kinds]]
    return table(['','card','batch','ms of the full network',*kinds], map(line, KINDS), left=2)

def peaks_table():
    def line(r): return [described(r)[0], *[f"{r['mb'][k]:.0f}" for k in ('2','4','8')]]
    return table(['','2','4','8'], map(line, PEAKS))
