"""Run a function in two processes that form a group, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import traceback

import torch
from torch.multiprocessing import get_context


def _free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def _enter(function, rank, port, folder, arguments):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    try:
        result = function(*arguments)
        if rank == 0:
            torch.save(result, folder / "result")
    except BaseException:
        (folder / f"error_{rank}").write_text(traceback.format_exc())
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def in_two_processes(folder, function, *arguments, timeout=120):
    """What the function returns in the first of two processes forked from this one."""
    folder.mkdir(parents=True, exist_ok=True)
    context, port = get_context("fork"), _free_port()
    started = [context.Process(target=_enter, args=(function, rank, port, folder, arguments)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise TimeoutError("a process waits for the other")
    errors = [path.read_text() for path in sorted(folder.glob("error_*"))]
    assert not errors, "\n".join(errors)
    return torch.load(folder / "result", weights_only=False)
