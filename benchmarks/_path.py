"""Lets `python benchmarks/x.py` find the package in a checkout that is not installed, on one thread and without NeMo's chatter."""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for name in ("nv_one_logger.api.config", "nv_one_logger.training_telemetry.api.training_telemetry_provider"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def silence_nemo() -> None:
    from nemo.utils import logging as nemo_logging

    nemo_logging._logger.addFilter(lambda record: record.levelno >= logging.ERROR)
