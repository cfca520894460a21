from __future__ import annotations

import json

from tokenizers import Tokenizer

from lit_sdpo.policies.exporting import write_policy
from lit_sdpo.policies.load import load_policy, load_tokenizer


def test_an_exported_tokenizer_cuts_no_text(tmp_path, tiny):
    policy, tokenizer = load_policy(tiny), load_tokenizer(tiny)
    text = "1 + 2 + 3 + 4 ="
    whole = tokenizer.encode(text, add_special_tokens=False)
    tokenizer([text, "1"], truncation=True, max_length=2, padding=True)
    write_policy(policy, tokenizer, tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["truncation"] is None
    assert written["padding"] is None
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids == whole


def test_a_given_state_is_left_as_it_was(tmp_path, tiny):
    policy = load_policy(tiny)
    state = policy.state_dict()
    names = set(state)
    write_policy(policy, load_tokenizer(tiny), tmp_path, state=state)
    assert set(state) == names
