"""Evaluating 32 subnets together and one by one, in turn

python benchmarks/evaluate_speed.py
"""
import io, time
import numpy as np, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from PIL import Image
from torch.utils.data import Dataset
from elastic_nets.use.evaluate import evaluate_subnets
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from common import Job, main, results, set_seed

path = results/'evaluate_speed.jsonl'

class Decoded(Dataset):
    "Digits as PNG files of 128 pixels in memory, as a folder of pictures has them"
    def __init__(self, dl): self.files = [(self.encode(x), y) for xs,ys in dl for x,y in zip(xs, ys)]
    def encode(self, x):
        file = io.BytesIO()
        Image.fromarray((255*torch.Tensor(x)[0]/x.max()).numpy().astype('uint8')).resize((128,128)).save(file, 'png')
        return file.getvalue()
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        x = np.array(Image.open(io.BytesIO(self.files[i][0])).resize((8,8)))
        return torch.tensor(x)[None].float()/255, int(self.files[i][1])

def loaders(c):
    dls = digits_dls(device='cpu')
    if not c['decode']: return dls
    return DataLoaders(*[DataLoader(Decoded(dl), bs=64) for dl in (dls.valid, dls.test)], device='cpu')

def train(c):
    "Median seconds of either, and of the ratios"
    set_seed(c['seed'])
    learn = Learner(loaders(c), resnet_cifar(8, n_in=1), loss_func=torch.nn.CrossEntropyLoss(), metrics=accuracy)
    sn = learn.to_supernet(depths=(0,1))
    subnets = [sn.space.sample(i) for i in range(c['n'])]
    groups = {'one by one':[[s] for s in subnets], 'together':[subnets]}
    found = {name:[] for name in groups}
    with learn.no_bar():
        for _ in range(c['rounds']):
            for name,parts in groups.items():
                start = time.perf_counter()
                for part in parts: evaluate_subnets(learn, part, calibrate=256, cache=False)
                found[name].append(time.perf_counter()-start)
    one, together = found.values()
    return dict(one_by_one=round(float(np.median(one)), 2), together=round(float(np.median(together)), 2),
                ratio=round(float(np.median(np.divide(one, together))), 2))

def configs(seeds):
    for decode in (True, False): yield 'evaluate', dict(n=32, decode=decode, rounds=3, seed=0)

if __name__ == '__main__': main(__doc__, evaluate=Job(path, configs, train))
