"""Keeps what is no news for the user off the terminal, and cleans what is."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from typing import Any

from lit_sdpo.text import said


def be_quiet() -> None:
    """Silence known warnings and advertisements of other libraries; whatever else is said acts on no terminal.

    All of it goes by name, so that none of the libraries is imported here.
    """
    logging.setLogRecordFactory(_clean_record)
    warnings.formatwarning = _clean_warning
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_failed
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.13
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT 0.21 with Transformers 5
    # Resuming is meant to go on in the same folder or a new one.
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty|The dirpath has changed")
    for name in ("lightning.pytorch", "pytorch_lightning"):  # whichever was imported last says it, for both
        logging.getLogger(f"{name}.utilities.rank_zero").addFilter(_no_advertisement)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own, and the run that finds its writer dead raises what that has met."""
    if type(failure.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
        threading.__excepthook__(failure)


def _clean_record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """A record whose text, which may come from data, acts on nothing."""
    record = logging.LogRecord(*arguments, **options)
    with contextlib.suppress(TypeError, ValueError):  # logging itself reports arguments that do not fit
        record.msg, record.args = said(record.getMessage()), ()
    return record


def _clean_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{filename}:{lineno}: {category.__name__}: {said(message)}\n"


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
