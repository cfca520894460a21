"""Chat messages as rows hold them: checked, with everything that a template may read and nothing else."""

from __future__ import annotations

from typing import Any

from lit_sdpo.data.records import BadRowError, kind

ROLES = ("system", "user", "assistant", "tool")
#: What a message may say beside role and content, and how.
_FURTHER: dict[str, type] = {"tool_calls": list, "tool_call_id": str, "name": str, "reasoning_content": str}
_FIX = f'write [{{"role": "user", "content": "..."}}] with roles among {", ".join(ROLES)}'


def checked(messages: Any, column: str) -> list[dict[str, Any]]:
    """The messages of a prompt; a turn without text, such as one that only calls tools, has an empty one.

    Args:
        messages: What stands in the row.
        column: Where.

    Raises:
        BadRowError: They are none, or say something that would be lost.
    """
    if messages is None:
        raise BadRowError(column, "the field is missing", f"{_FIX}, or name the column of a plain prompt in columns")
    if not isinstance(messages, list) or not messages:
        raise BadRowError(column, f"a list of messages is needed, not {kind(messages)}", _FIX)
    found = [_checked(message, f"{column}[{index}]") for index, message in enumerate(messages)]
    if found[-1]["role"] == "assistant" or not found[-1]["content"].strip():
        raise BadRowError(f"{column}[{len(messages) - 1}]", "the prompt has no question at its end", _FIX)
    return found


def _checked(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise BadRowError(place, "this is not a message with role and content", _FIX)
    further = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    for key, value in further.items():
        if key not in _FURTHER:
            known = ", ".join(("role", "content", *_FURTHER))
            raise BadRowError(f"{place}.{key}", "a message has no such field", f"leave it out; there are {known}")
        if not isinstance(value, _FURTHER[key]):
            raise BadRowError(f"{place}.{key}", f"{_FURTHER[key].__name__} is needed, not {kind(value)}", _FIX)
    for index, call in enumerate(further.get("tool_calls", ())):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            fix = 'write {"type": "function", "function": {"name": "...", "arguments": {...}}}'
            raise BadRowError(f"{place}.tool_calls[{index}]", "this is not the call of a function", fix)
    content = message.get("content")
    if content is None and further.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadRowError(place, "this is not a message with role and content", _FIX)
    return {"role": message["role"], "content": content, **further}
