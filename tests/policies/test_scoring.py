from __future__ import annotations

import pytest
import torch
import transformers

from lit_sdpo.policies.scoring import completion_hidden, logits, scorer, weighted_loss

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
COMMON = {name: SHAPE[name] for name in SHAPE if name.endswith("_id") or name in ("vocab_size", "initializer_range")}
MODELS = {
    "qwen3": ("Qwen3", "ForCausalLM", SHAPE),
    "llama-tied": ("Llama", "ForCausalLM", SHAPE | {"tie_word_embeddings": True}),
    "mistral-sliding": ("Mistral", "ForCausalLM", SHAPE | {"sliding_window": 6}),
    "gemma2": ("Gemma2", "ForCausalLM", SHAPE | {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "granite": ("Granite", "ForCausalLM", SHAPE | {"logits_scaling": 0.5, "attention_multiplier": 0.2}),
    "cohere": ("Cohere", "ForCausalLM", {k: v for k, v in SHAPE.items() if k != "head_dim"} | {"logit_scale": 0.3}),
    "gpt2": ("GPT2", "LMHeadModel", COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bloom": ("Bloom", "ForCausalLM", COMMON | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
PROMPTS = [[5, 9, 11, 2, 30], [7], list(range(20, 43)), [50, 51]]
LENGTHS = [7, 1, 4, 9]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    family, suffix, options = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = getattr(transformers, family + suffix)(getattr(transformers, f"{family}Config")(**options))
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() == 1:  # random norms and biases, so that a forgotten one shows
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(0, 61, mask.shape, generator=generator), mask


@torch.no_grad()
def plain(model, ids):
    """One forward per row without padding."""
    found = []
    for prompt, row, length in zip(PROMPTS, ids, LENGTHS, strict=True):
        out = model(torch.tensor([prompt + row[:length].tolist()]), use_cache=False).logits[0]
        found.append(out[len(prompt) - 1 : -1])
    return torch.cat(found)


def test_logits_equal_a_plain_forward(model, rows):
    ids, mask = rows
    with torch.no_grad():
        made = logits(model, completion_hidden(model, PROMPTS, ids, mask))
    torch.testing.assert_close(made, plain(model, ids), rtol=1e-4, atol=1e-5)
    score = scorer(model, PROMPTS, ids, mask)
    torch.testing.assert_close(torch.cat([score(slice(0, 5)), score(slice(5, sum(LENGTHS)))]), made)
    assert made.dtype == torch.float32


def test_tokens_at_padded_places_do_not_matter(model, rows):
    ids, mask = rows
    other = ids.masked_fill(~mask, 60)
    with torch.no_grad():
        a, b = (completion_hidden(model, PROMPTS, x, mask) for x in (ids, other))
    assert torch.equal(a, b)


def test_the_chunked_loss_has_the_plain_gradient(model, rows):
    ids, mask = rows
    targets, weight = ids[mask], torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(1))

    def losses(out, span):
        return weight[span] * torch.nn.functional.cross_entropy(out, targets[span], reduction="none")

    gradients = []
    for chunked in (True, False):
        model.zero_grad()
        hidden = completion_hidden(model, PROMPTS, ids, mask)
        whole = slice(None)
        loss = weighted_loss(model, hidden, losses) if chunked else losses(logits(model, hidden), whole).sum()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
