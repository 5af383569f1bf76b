"""docs/trust.md from results/trust.jsonl, the tables of tests/errors and the template pages/trust.md

`make trust` leaves the rows: kills, processes, steps; `TRUST=write make test` and `TRUST=write make test-oldest` leave
one about the suite. The newest row of each kind counts.

python benchmarks/trust_report.py
"""
import importlib, sys
from common import results, root, rows
from report import Page, made, table

page = Page('trust')
NOTED = rows(results/'trust.jsonl')

def newest(what, *keys):
    "The last row of each kind: rows are in the order in which they were made"
    return [*{tuple(r.get(k) for k in keys): r for r in NOTED if r['what']==what}.values()]

KILLS, RANKS, STEPS = newest('kills','kind'), newest('ranks','fit'), newest('steps','kind')
SUITES = newest('suite','torch','python','machine')
NOT_YET = 'Not run yet.'

@page.place
def kills():
    if not KILLS: return NOT_YET
    body = [[r['kind'], r['kills'], r['while_writing'], r['fits'], 'equal to the bit'] for r in KILLS]
    total = [sum(r[k] for r in KILLS) for k in ('kills','while_writing','fits')]
    return table(['fit','kills','of them while a file was written','fits that were killed','weights in the end'],
                 [*body, ['**all**', *total, '']])

@page.place
def ranks():
    if not RANKS: return NOT_YET
    head = ['fit','processes','steps','all-reduces a step','largest difference of a gradient from one process']
    return table(head, [[r['fit'], r['ranks'], r['steps'], r['messages'], f"{r['gap']:.1g}"] for r in RANKS])

@page.place
def steps():
    if not STEPS: return NOT_YET
    body = [[r['kind'], f"{r['steps']:,}", f"{100*r['growth']:+.2f} %"] for r in STEPS]
    return table(['callbacks','steps','memory at the end against a quarter of the fit'], body)

def error_tables():
    "Room -> its rows of bad calls, as the tests read them"
    folder = root/'tests/errors'
    for path in (root/'tests', root): # helpers of the tests, the library
        if str(path) not in sys.path: sys.path.append(str(path))
    names = sorted(p.stem for p in folder.glob('[!_]*.py'))
    return {name: importlib.import_module(f'errors.{name}').ERRORS for name in names}

@page.place
def bad_calls():
    about = {name: sys.modules[f'errors.{name}'].__doc__.split(';')[0] for name in TABLES}
    body = [[about[name], len(rows_of)] for name,rows_of in TABLES.items()]
    return table(['about','bad calls'], [*body, ['**all**', n_bad_calls()]])

TABLES = error_tables()

@page.place
def n_bad_calls(): return sum(map(len, TABLES.values()))

@page.place
def suites():
    if not SUITES: return NOT_YET
    body = [[r['torch'], r['fastai'], r['python'], r['passed'], r['failed']+r['error'], r['skipped'], r['commit']]
            for r in SUITES]
    return table(['torch','fastai','Python','passed','failed','skipped','commit'], body)

@page.place
def where():
    if not NOTED: return NOT_YET
    return made(kills=KILLS, processes=RANKS, steps=STEPS, suites=SUITES)

if __name__=='__main__': page.write()
