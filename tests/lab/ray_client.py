"""`concept-encoder plan run --on ray` with the fake command, as a process that a test can kill: PLAN STORE FOLDER."""

import os
import sys
from pathlib import Path

from concept_encoder.lab.engines.ray_jobs import Places, RayEngine
from concept_encoder.lab.engines.ray_server import RayServer
from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.runs import expand
from concept_encoder.lab.scheduler import Scheduler
from concept_encoder.lab.store import Store

plan, folder, hosts = sys.argv[1:]
fake = (sys.executable, "-S", "-E", str(Path(__file__).with_name("fake.py")))
engine = RayEngine(RayServer(lambda: os.environ["RAY_API_SERVER_ADDRESS"]), Places(Path(hosts), shared=False))
store = Store(folder)
with store.lock():
    Scheduler(expand(load_plan(plan)), store, engine, program=fake).run(every=0.2)
