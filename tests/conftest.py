"""What every test shares: no network, no hub, few threads."""

import os

# Before torch, transformers or datasets are imported by any test, and for child processes too.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
