"""`concept-encoder plan run` with the fake command, as a process that the storm can kill: PLAN STORE SLOTS."""

import sys
from pathlib import Path

from concept_encoder.lab.engines.local import LocalEngine
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.scheduler import Scheduler
from concept_encoder.lab.store import Store

plan, folder, slots = sys.argv[1:]
fake = (sys.executable, "-S", "-E", str(Path(__file__).with_name("fake.py")))
store = Store(folder)
with store.lock():
    Scheduler(expand(load_plan(plan)), store, LocalEngine(int(slots), []), program=fake).run(every=0.02)
