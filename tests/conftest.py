import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from hypothesis import settings
from transformers.utils import logging

torch.set_num_threads(2)
logging.disable_progress_bar()
logging.set_verbosity_error()
settings.register_profile("any machine", deadline=None)  # a busy one is no mistake of ours
settings.load_profile("any machine")
