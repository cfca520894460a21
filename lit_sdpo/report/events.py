"""TensorBoard's event files, read without TensorBoard's own slow reader, while they are still being written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.tensor_pb2 import TensorProto

#: Before each event: its length (uint64) and a checksum of that; behind it another checksum. Neither is looked at.
HEADER = struct.Struct("<QI")
FOOTER = 4


def scalars(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run: tag to ``(step, value)`` in the order of steps.

    A step that was written twice, as a resumed run does, has its last value. A writer that was told to purge takes
    back what stood at its first step and later.

    Args:
        path: An event file, or a run's folder with one or more of them.

    Returns:
        Tags in the order of their first value; nothing for a folder without event files.
    """
    found: dict[str, dict[int, float]] = {}
    for event in events(path):
        if event.session_log.status == SessionLog.START:
            for tag, values in found.items():
                found[tag] = {step: value for step, value in values.items() if step < event.step}
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            elif value.metadata.plugin_data.plugin_name == "scalars":
                found.setdefault(value.tag, {})[event.step] = _number(value.tensor)
    return {tag: sorted(values.items()) for tag, values in found.items() if values}


def events(path: str | Path) -> Iterator[Event]:
    """The events of one file, or of a folder's files in the order of their names, which begin with their time.

    The end of a file that is being written, or was cut off, may hold part of an event: it is left out.

    Args:
        path: An event file or a folder.
    """
    path = Path(path)
    for file in sorted(path.glob("events.out.tfevents.*")) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while len(header := stream.read(HEADER.size)) == HEADER.size:
                size, _ = HEADER.unpack(header)
                record = stream.read(size + FOOTER)
                if len(record) < size + FOOTER:
                    break
                yield Event.FromString(record[:size])


def _number(tensor: TensorProto) -> float:
    if tensor.tensor_content:
        return struct.unpack("<f", tensor.tensor_content)[0]
    return [*tensor.float_val, *tensor.double_val][0]
