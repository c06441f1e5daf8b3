"""NeMo's, Lightning's and OneLogger's output into a file instead of the terminal; errors stay on both."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

# nv_one_logger warns at NeMo's import that nothing is configured to receive its telemetry (nemo 3.0.0 with nv-one-logger 2).
ONE_LOGGER = ("nv_one_logger.api.config", "nv_one_logger.training_telemetry.api.training_telemetry_provider")
# Loggers that get the handlers, and descendants that put handlers of their own on when imported. NeMo uses `lightning`, but something
# that it imports brings `pytorch_lightning`, to whose logger both then write.
ROOTS = ("nemo_logger", "lightning", "pytorch_lightning", "lightning_fabric", "lhotse", "numba", "nv_one_logger")
CHILDREN = ("lightning.pytorch", "lightning.fabric")


def silence_nemo(log_path: Path | None) -> None:
    """Send all that NeMo, Lightning and OneLogger log, and Python's warnings, to `log_path`, or nowhere; only errors reach stderr.

    Imports NeMo's ASR models (some 10 s), so call it before anything else does. Calling it again moves the output to another file.
    NeMo keeps all its messages in memory until it gets a file, and its `setLevel` is undone by `transcribe`: hence handlers, not levels
    (nemo/utils/nemo_logging.py, 3.0.0).
    """
    for name in ONE_LOGGER:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import nemo.collections.asr.models  # noqa: F401  # everything that puts up handlers when imported
    from nemo.utils import logging as nemo_logging

    if log_path:
        log_path.parent.mkdir(parents=True, exist_ok=True)
    for name in (*ROOTS, *CHILDREN):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = name in CHILDREN
        if name in ROOTS:
            _attach(logger, log_path)
    # Otherwise it would look for the handlers that are gone.
    nemo_logging._handlers.clear()


def _attach(logger: logging.Logger, log_path: Path | None) -> None:
    errors = logging.StreamHandler(sys.stderr)
    errors.addFilter(lambda record: record.levelno >= logging.ERROR)
    errors.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(errors)
    if log_path:
        file = logging.FileHandler(log_path, delay=True, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)
