"Starts fits in processes of their own and kills them"
import multiprocessing, os, random, sys, time
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch
from faults import fits

class Lab:
    "Processes fork from one that has imported everything, trained nothing and seen no card: a card is not inherited"
    def __init__(self, folder):
        self.folder, self.kills, self.while_writing = Path(folder), 0, 0
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload(['faults.fits'])
        path = os.pathsep.join(p for p in sys.path if p) # it imports in silence, or not
        with patch.dict(os.environ, PYTHONPATH=path, CUDA_VISIBLE_DEVICES=''): forkserver.ensure_running()
        warm = self.context.Process(target=int)
        warm.start()
        warm.join() # all is imported now
        self.known = {} # kind -> (digest of a fit that nobody disturbs, its seconds)

    def process(self, *args):
        p = self.context.Process(target=fits.run, args=args)
        p.start()
        return p

    def undisturbed(self, kind):
        "Digest and seconds of a fit without checkpoints"
        if kind not in self.known:
            out, begin = self.folder/f'{kind}.txt', time.perf_counter()
            p = self.process(kind, None, out)
            p.join()
            assert p.exitcode==0, f'{kind} fails without being killed'
            self.known[kind] = out.read_text(), time.perf_counter()-begin
        return self.known[kind]

    def killed_at(self, kind, name, point, nth):
        "A process that dies while it writes; did it?"
        p = self.process(kind, self.folder/name, self.folder/f'{name}.txt', 3, point, nth)
        p.join()
        self.while_writing += p.exitcode==-9
        return self.count(p)

    def killed_after(self, kind, name, seconds):
        "A process that is killed after some time; was it?"
        p = self.process(kind, self.folder/name, self.folder/f'{name}.txt')
        p.join(seconds)
        p.kill()
        p.join()
        return self.count(p)

    def count(self, p):
        assert p.exitcode in (0,-9), f'a process ended with {p.exitcode}'
        self.kills += p.exitcode==-9
        return p.exitcode==-9

    def finish(self, kind, name):
        "The last process, which nobody kills: its digest"
        p = self.process(kind, self.folder/name, self.folder/f'{name}.txt')
        p.join()
        assert p.exitcode==0, f'{kind} does not go on'
        return (self.folder/f'{name}.txt').read_text()

def lives(lab, kind, seed, kills):
    "One fit, killed again and again at random moments, half of them while it writes; the digest at its end"
    rng, name = random.Random(f'{kind} {seed}'), f'{kind}_{seed}'
    _,seconds = lab.undisturbed(kind)
    for _ in range(kills):
        if rng.random()<.5: died = lab.killed_at(kind, name, rng.choice(fits.POINTS), rng.randint(1, 4))
        else: died = lab.killed_after(kind, name, rng.uniform(.05, seconds))
        if not died: break
    return lab.finish(kind, name)
