"""On a GPU a chapter runs on CIFAR-10 by changing one cell: here that cell is changed, and the pictures are noise

Down to that cell; with `make course`, to the end
"""
import ast, os, re, warnings
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
from fastai.torch_core import defaults
from notebooks import notebooks, parsed

matplotlib.use('Agg')
chapters = [nb for nb in notebooks if re.match(r'course/\d\d_', nb.name)]
LINE = re.compile(r'^# on a GPU: (data, ?epochs.* = .*)$', re.M)
NO_DATA = '07_four_choices' # four hidden units, on purpose
TWO_CARDS = '11_many_processes'
EPOCHS = {'04_delay_the_shrink': 24} # of two batches: it looks at the 22 steps from the middle on; others: 6

def cell_of(nb): return [s for s in nb.code if LINE.search(s)]

def at_full_size(src, epochs):
    "The cell with its line for a GPU in place of the one for digits, and fewer epochs"
    line = re.sub(r', \d+', f', {epochs}', LINE.search(src)[1], count=1)
    return re.sub(r'^data, ?epochs.* = .*$', lambda m: line, LINE.sub('', src), count=1, flags=re.M)

@pytest.fixture(scope='module')
def noise(tmp_path_factory):
    "`cifar_dls`, from a folder with some pictures of that form"
    from elastic_nets.zoo.data import cifar_dls
    folder, rng = tmp_path_factory.mktemp('cifar'), np.random.default_rng(0)
    for split,n in dict(train=2, test=1).items():
        for name in 'abcdefghij':
            (folder/split/name).mkdir(parents=True)
            for i in range(n):
                picture = PIL.Image.fromarray(rng.integers(256, size=(32,32,3), dtype=np.uint8))
                picture.save(folder/split/name/f'{i}.png')
    def dls(bs=2, **kw): return cifar_dls(bs=min(bs, 8), valid_pct=.2, path=folder, **kw)
    return dls

@pytest.mark.parametrize('nb', [nb for nb in chapters if nb.path.stem not in (NO_DATA, TWO_CARDS)], ids=repr)
def test_chapter_runs_on_cifar(nb, noise, monkeypatch, tmp_path):
    "Without its assertions, which are about digits"
    import elastic_nets.all
    monkeypatch.setattr(elastic_nets.all, 'cifar_dls', noise)
    monkeypatch.setattr(defaults, 'callbacks', [*defaults.callbacks]) # chapters change them, and how pictures look
    monkeypatch.chdir(tmp_path)
    here, ns = cell_of(nb)[0], {'__name__': '__main__'}
    end = len(nb.code) if os.getenv('COURSE') else nb.code.index(here)+1
    with plt.rc_context(), warnings.catch_warnings():
        for src in nb.code[:end]:
            if re.match(r'#\|\s*slow', src): continue
            src = ast.unparse(parsed(at_full_size(src, EPOCHS.get(nb.path.stem, 6)) if src==here else src))
            exec(compile(src, nb.name, 'exec', optimize=1), ns)
    data = ns['data']() if callable(ns['data']) else ns['data']
    assert tuple(data.one_batch()[0].shape[1:])==(3,32,32)

@pytest.mark.parametrize('nb', [nb for nb in chapters if nb.path.stem!=NO_DATA], ids=repr)
def test_one_cell_is_to_be_changed(nb): assert len(cell_of(nb))==1
