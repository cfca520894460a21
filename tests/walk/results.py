"""What a run has produced, apart from its configuration, its environment and clocks: a digest of each part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lit_sdpo.report.events import events

#: Files that say what the run was made of, or hold sums of those that do.
RECORDS = re.compile(
    r"(config|environment)(_\d+)?\.(yaml|json)$|hparams\.yaml$|context\.yaml$|\.ckpt\.json$|\.lock$|input\.yaml$"
)
#: Tags and fields of clocks and of the machine's memory.
CLOCKS = re.compile(r"time|second|/s\b|_s\b|duration|memory|created|date|tokens_per")
#: Numbers in printed text that are measured.
MEASURED = re.compile(r"tokens/s\s+[\d.,]+|[\d.,]+\s*(?:ms|s|min|it/s)\b|\d\d:\d\d(?::\d\d)?|0x[0-9a-f]+")

#: Lines of progress that come where something takes long.
PROGRESS = re.compile(r"^.* goes on  \(.*\)\n", re.MULTILINE)


def digests(folder: Path, printed: str) -> dict[str, str]:
    """A digest of each file and of the printed text, by name.

    Args:
        folder: Where the run has written everything.
        printed: What it has printed.
    """
    found = {"printed text": _sha(MEASURED.sub("#", PROGRESS.sub("", printed).replace(str(folder), ".")))}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not RECORDS.search(path.name):
            name = re.sub(r"tfevents\.\d+\.[^/]*?\.\d+\.\d+", "tfevents", str(path.relative_to(folder)))
            found[name] = _sha("\n".join(_content(path)))
    return found


def _content(path: Path) -> Iterator[str]:
    if "tfevents" in path.name:
        for event in events(path):
            for value in event.summary.value:
                if not CLOCKS.search(value.tag) and "hparams" not in value.tag:
                    yield f"{value.tag} {event.step} {value.SerializeToString(deterministic=True)!r}"
    elif path.suffix == ".ckpt":
        saved = torch.load(path, map_location="cpu", weights_only=False)
        for key in ("state_dict", "optimizer_states"):
            yield from _tensors(saved.get(key), key)
    elif path.suffix == ".json":
        yield json.dumps(_without_clocks(json.loads(path.read_text())), sort_keys=True)
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            yield json.dumps(_without_clocks(json.loads(line)), sort_keys=True)
    else:
        yield hashlib.sha256(path.read_bytes()).hexdigest()


def _tensors(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, torch.Tensor):
        yield f"{where} {hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()}"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _tensors(part, f"{where}/{index}")


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(part) for key, part in value.items() if not CLOCKS.search(str(key))}
    if isinstance(value, list):
        return [_without_clocks(part) for part in value]
    return value


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
