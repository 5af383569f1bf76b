"The second table of docs/coverage.md: many networks of several libraries"
import os
import pytest, torch
from coverage import more_facts, more_row, model_of, rows, write_more
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.subnets.supernet import Supernet
from more_models import MODELS

everything = os.environ.get('COVERAGE') in ('write','all')
params = [pytest.param(m, id=m.name) for m in MODELS if everything or not m.slow]

@pytest.mark.parametrize('model', params)
@torch.no_grad()
def test_row(model):
    torch.manual_seed(0)
    net, x = model.build().eval(), model.inputs()
    try: found = more_facts(model, Supernet(net, x, depths=(0.,1.)))
    except NotElasticError as e: found = e
    row = more_row(model, found)
    for ours,counted in found['macs'].values() if isinstance(found, dict) else ():
        assert abs(ours-counted) <= 1e-3*counted, 'MACs are those that PyTorch counts'
    if os.environ.get('COVERAGE')=='write': write_more(row)
    assert row in rows(1), 'run make coverage-all'

def test_table_is_whole():
    names = [model_of(r) for r in rows(1)]
    assert names==sorted(m.name for m in MODELS), 'run make coverage-all'
    every = [*rows(), *rows(1)]
    assert len(every)>=110 and sum('| refused |' in r for r in every) <= .05*len(every)
