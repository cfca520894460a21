"""Whether a model that is named as on the Hub can be had at all, asked once and briefly.

Transformers asks six times, half a minute for each file, before it says that it has found nothing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from lit_sdpo.errors import UserError

SECONDS = 5.0


def check_at_hand(source: str, where: str) -> None:
    """Whether a model is on this machine, or the Hub can be asked for it.

    Args:
        source: Folder, file or Hub name.
        where: Key or argument that names it.

    Raises:
        UserError: Neither.
    """
    if Path(source).exists() or _cached(source) or reachable():
        return
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
    raise UserError(
        f"there is no folder {source!r}, no model of that name has been downloaded to this machine, and {why}",
        where=where,
        fix=f"give the path of a model folder, or get it where there is a connection (hf download {source}) and copy"
        " the folder or the cache (HF_HOME)",
    )


def _cached(name: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(name, constants.CONFIG_NAME), str)
    except HFValidationError:  # no name of the Hub: Transformers says what is wrong with it
        return True


@cache
def reachable() -> bool:
    """Whether the Hub answers, whatever it says; asked once in a process, with the proxies of the environment."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of whichever HTTP library it is built on
        return False
    return True
