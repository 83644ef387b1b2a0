"""What every test shares: no network, no hub, few threads."""

import os

# Before torch, transformers or datasets are imported by any test, and for child processes too.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What is printed must not depend on how fast the machine is.
os.environ.setdefault("LATENTDIFF_HEARTBEAT", "0")
# Two workers of one thread each: two of two would wait for one another on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
