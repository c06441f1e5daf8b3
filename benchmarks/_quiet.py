"""One thread for torch, and NeMo without its messages. Imported first."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for name in (
    "nv_one_logger.api.config",
    "nv_one_logger.training_telemetry.api.training_telemetry_provider",
):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def silence_nemo() -> None:
    """Import NeMo's models; from now on only its errors are printed. A filter, since transcribe()
    undoes setLevel (nemo 3.0.0).
    """
    import nemo.collections.asr.models  # noqa: F401
    from nemo.utils import logging as nemo_logging

    nemo_logging._logger.addFilter(lambda record: record.levelno >= logging.ERROR)
