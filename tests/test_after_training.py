"What a fit leaves behind: the best model, an optimizer that can be saved, and what a resumed fit needs"
import tempfile
from copy import deepcopy
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback, CancelFitException
from elastic_nets.shrink.training import OnionTraining
from onion_fits import data, epochs, fit, lr, new_learner

def test_supernet_goes_with_the_best_model():
    "SaveModelCallback loads the best weights in the end: private batch norms are those of the same epoch"
    from fastai.callback.tracker import SaveModelCallback
    from elastic_nets.shrink.methods import slimmable

    class Ruin(Callback):
        "The last epoch goes wrong"

        order = 70

        def before_epoch(self):
            if self.epoch == epochs - 1:
                self.opt.set_hypers(lr=50.0)

    learn = new_learner(torch.float32, widths=(0.5, 1.0))
    with tempfile.TemporaryDirectory() as d:
        learn.path = Path(d)
        with learn.no_logging():
            learn.fit(
                epochs,
                lr,
                cbs=[OnionTraining(slimmable(k=2), estimate=False), SaveModelCallback(monitor='acc_min'), Ruin()],
            )
    names = learn.recorder.metric_names[1:-1]
    best = max(v[names.index('acc_min')] for v in learn.recorder.values)
    assert best > learn.recorder.values[-1][names.index('acc_min')]
    sn, (x, y) = learn.supernet, [t[600:664] for t in data(torch.float32)]
    assert (sn.extract(sn.space.min).eval()(x).argmax(1) == y).float().mean().item() == pytest.approx(best)

def test_best_supernet_of_a_fit_that_stops():
    "After a fit that was stopped, and one that is no better, the supernet's state is that of the best epoch"
    from fastai.callback.tracker import SaveModelCallback
    from elastic_nets.shrink.methods import slimmable

    class Stop(Callback):
        order = 70

        def before_batch(self):
            if self.training and self.epoch == 1 and self.iter == 3:
                raise CancelFitException

    learn = new_learner(torch.float32, widths=(0.5, 1.0))
    with tempfile.TemporaryDirectory() as d:
        learn.path, save, kept = Path(d), SaveModelCallback(reset_on_fit=False), []

        class Keep(Callback):
            order = 70

            def after_epoch(self):
                kept.append(deepcopy(self.learn.supernet.state_dict()))

        with learn.no_logging():
            learn.fit(epochs, lr, cbs=[OnionTraining(slimmable(k=2), estimate=False), save, Keep(), Stop()])
        now = lambda: [
            t for st in learn.supernet.state_dict()['stats'].values() for ts in st.values() for t in ts.values()
        ]
        want = [t for st in kept[0]['stats'].values() for ts in st.values() for t in ts.values()]
        assert len(kept) == 1 and all(map(torch.equal, now(), want))
        with learn.no_logging():
            learn.fit(1, 50.0, cbs=[OnionTraining(slimmable(k=2), estimate=False), save])
        assert all(map(torch.equal, now(), want))

def test_export_with_own_parameters():
    "What lives beside the model is not in the optimizer's groups after a fit, and in them during the next"
    from elastic_nets.shrink.methods import slimmable

    learn, seen = new_learner(torch.float32, widths=(0.5, 1.0)), []

    class Count(Callback):
        order = 20

        def before_step(self):
            seen.append(sum(map(len, self.opt.param_lists)))

    n = len(list(learn.model.parameters()))
    for _ in range(2):
        fit(learn, OnionTraining(slimmable(k=2), estimate=False), Count(), n=1)
    own = len(learn.supernet.held_params())
    assert own and set(seen) == {n + own} and sum(map(len, learn.opt.param_lists)) == n
    with tempfile.TemporaryDirectory() as d:
        learn.path = Path(d)
        learn.save('a', with_opt=True)
        learn.load('a', with_opt=True)

def test_teacher_and_resume_errors():
    from elastic_nets.shrink.methods import progressive_shrinking, slimmable

    learn = new_learner(torch.float32, widths=(0.5, 1.0))
    with pytest.raises(ValueError, match='the model that is trained; give a copy'):
        fit(learn, OnionTraining(progressive_shrinking(teacher=0), teacher=learn.model))
    with pytest.raises(TypeError, match='a model is expected'):
        fit(learn, OnionTraining(progressive_shrinking(teacher=0), teacher=learn))
    with pytest.raises(ValueError, match='private batch norms, and the supernet has none'):
        fit(learn, OnionTraining(slimmable(k=2)), start_epoch=1)
