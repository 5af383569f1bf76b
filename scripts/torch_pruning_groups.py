"""Which layers Torch-Pruning cuts together, for the tests' classifiers of torchvision; writes tests/torch_pruning.json

pip install --target build/torch_pruning --no-deps torch-pruning==1.6.1
python scripts/torch_pruning_groups.py [--packages build/torch_pruning] [model ...]
"""
import argparse, json, sys
from pathlib import Path
import torch
from torch import nn
from torchvision import models

root = Path(__file__).resolve().parent.parent
path = root/'tests/torch_pruning.json'
LAYERS = nn.Conv2d, nn.Linear # those whose outputs it cuts; norms follow
LONG = 'maxvit_t', 'swin_t', 'swin_v2_t' # windows: minutes and gigabytes there

def groups_of(tp, model, xb):
    "Lists of the layers whose output channels it would cut together, in the order of the network"
    order = {m:i for i,m in enumerate(model.modules())}
    found = tp.DependencyGraph().build_dependency(model, example_inputs=xb)
    names, res = {m:n for n,m in model.named_modules()}, []
    for group in found.get_all_groups(root_module_types=LAYERS):
        cut = {d.target.module for d,_ in group if found.is_out_channel_pruning_fn(d.handler)}
        res.append([names[m] for m in sorted((m for m in cut if isinstance(m, LAYERS)), key=order.get)])
    return sorted(res, key=lambda layers: order[model.get_submodule(layers[0])])

def answer(tp, case):
    "The groups, or what it says where it stops"
    try: return groups_of(tp, case.model().requires_grad_(True), case.xb(1))
    except Exception as e: return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'

def classifiers(zoo): return [n for n in zoo if n in models.list_models(models) and n not in LONG]

def write(tp, groups):
    "A line for each network"
    lines = ',\n'.join(f'{json.dumps(n)}: {json.dumps(g)}' for n,g in groups.items())
    head = json.dumps(dict(torch_pruning=tp.__version__, torch=torch.__version__.partition('+')[0]))
    path.write_text(f'{head[:-1]}, "groups": {{\n{lines}\n}}}}\n', encoding='utf-8')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--packages', default='build/torch_pruning', help='folder that it was installed into')
    p.add_argument('models', nargs='*', help='of tests/zoo.py; none: all classifiers of torchvision')
    a = p.parse_args()
    sys.path += [str(root/'tests'), a.packages]
    import torch_pruning as tp
    from zoo import zoo
    known = json.loads(path.read_text(encoding='utf-8'))['groups'] if path.exists() else {}
    for name in a.models or classifiers(zoo):
        known[name] = answer(tp, zoo[name])
        print(name, known[name] if isinstance(known[name], str) else len(known[name]), flush=True)
        write(tp, {n:known[n] for n in zoo if n in known})

if __name__ == '__main__': main()
