"""Decoding steps of small Llama-like models on a CPU, in few operations.

At a million parameters a decoding step spends most of its time between the products: on modules, norms, rotations and
copies. Here a layer is four products, the attention and a handful of operations. It serves models whose layers are
root-mean-square norm, attention with rotary positions (with or without norms of queries and keys), and a gated SiLU
layer, which covers Llama, Mistral, Qwen2 and Qwen3. What a model is made of is not believed: its first use compares a
step with the model's own forward, and anything that differs is decoded with that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lit_sdpo.policies.attention import UnsupportedModelError, attending
from lit_sdpo.policies.scoring import decoder, finish, head
from lit_sdpo.rollouts.decoders import SharedPrompts

MOST_PARAMETERS = 50_000_000
"""Beyond this the products take nearly all of the time, and a copy of the weights is no longer small."""

TOLERANCE = 1e-4
"""Largest difference of log-probabilities to the model's own forward."""

_verdicts: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def fusible(model: PreTrainedModel) -> bool:
    """Whether :class:`FusedPrompts` decodes this model, and as the model itself does."""
    if not _eligible(model):
        return False
    if model not in _verdicts:
        _verdicts[model] = _agrees(model)
    return _verdicts[model]


class FusedPrompts(SharedPrompts):
    """Decodes as :class:`SharedPrompts` does, with prompts forwarded by the model and steps written out."""

    def start(self) -> Tensor:
        """Forward the prompts, then take the weights."""
        logits = super().start()
        model = self.forward.model
        self.model, self.part = model, decoder(model)
        layers: Any = self.part.layers
        self.layers = [_Layer.of(layer) for layer in layers]
        order = _interleaved(self.layers[0].size, logits.device)
        for number, keys in self.cache.prompt_keys.items():
            self.cache.prompt_keys[number] = keys[..., order].contiguous()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Forward one token per slot."""
        part: Any = self.part
        x = part.embed_tokens(tokens)
        cos, sin = (t[:, 0, : t.shape[-1] // 2] for t in part.rotary_emb(x, self.positions))
        turn = torch.complex(cos, sin)[:, None]
        for number, layer in enumerate(self.layers):
            x = self._layer(number, layer, x, turn)
        norm = part.norm
        x = F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
        self.cache.advance()
        self.positions = self.positions + 1
        return finish(self.model, head(self.model)(x))

    def _layer(self, number: int, layer: _Layer, x: Tensor, turn: Tensor) -> Tensor:
        normed = F.rms_norm(x, layer.norm.shape, layer.norm, layer.eps)
        mixed = torch.addmm(layer.bias, normed, layer.qkv) if layer.bias is not None else normed @ layer.qkv
        turned, value = mixed.view(len(x), -1, layer.size).split([layer.queries + layer.keys, layer.keys], 1)
        if layer.qk_norm is not None:
            turned = F.rms_norm(turned, (layer.size,), None, layer.eps) * layer.qk_norm
        pairs = torch.view_as_complex(turned.unflatten(-1, (-1, 2)))
        query, key = torch.view_as_real(pairs * turn).flatten(-2).split([layer.queries, layer.keys], 1)
        self.cache.update(key[:, :, None], value[:, :, None], number)
        attended = self.cache.attend(query[:, :, None], key, value, layer.scaling).view(len(x), -1)
        x = torch.addmm(x, attended, layer.output)
        normed = F.rms_norm(x, layer.mlp_norm.shape, layer.mlp_norm, layer.eps)
        gate, up = (normed @ layer.gate_up).chunk(2, -1)
        return torch.addmm(x, F.silu(gate).mul_(up), layer.down)


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer, laid out for the step; queries and keys with the two halves of a rotation side by side."""

    norm: Tensor
    mlp_norm: Tensor
    eps: float
    qkv: Tensor
    bias: Tensor | None
    qk_norm: Tensor | None
    output: Tensor
    gate_up: Tensor
    down: Tensor
    scaling: float
    size: int
    queries: int
    keys: int

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        size = attention.head_dim
        queries, keys = (p.weight.shape[0] // size for p in (attention.q_proj, attention.k_proj))
        order = _interleaved(size, attention.q_proj.weight.device)

        def turned(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (-1, size))[:, order].flatten(0, 1)

        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = [turned(p.weight) if p is not attention.v_proj else p.weight for p in projections]
        bias = None
        if attention.q_proj.bias is not None:
            bias = torch.cat([turned(p.bias) if p is not attention.v_proj else p.bias for p in projections])
        qk_norm = None
        if hasattr(attention, "q_norm"):
            qk_norm = torch.cat(
                [
                    n.weight[order].expand(count, -1)
                    for n, count in ((attention.q_norm, queries), (attention.k_norm, keys))
                ]
            )
        return cls(
            norm=layer.input_layernorm.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
            eps=layer.input_layernorm.variance_epsilon,
            qkv=torch.cat(weights).t().contiguous(),
            bias=bias,
            qk_norm=qk_norm,
            output=attention.o_proj.weight.t(),
            gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).t().contiguous(),
            down=mlp.down_proj.weight.t(),
            scaling=attention.scaling,
            size=size,
            queries=queries,
            keys=keys,
        )


def _interleaved(size: int, device: torch.device) -> Tensor:
    """Places of a head's entries such that the two that are rotated together stand side by side."""
    return torch.arange(size, device=device).view(2, -1).t().flatten()


def _eligible(model: PreTrainedModel) -> bool:
    """A small float32 model on a CPU, made of plain layers that nobody looks into."""
    if torch.is_autocast_enabled("cpu"):
        return False
    parameters = list(model.parameters())
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in parameters):
        return False
    if sum(p.numel() for p in parameters) > MOST_PARAMETERS:
        return False
    last = head(model)
    if any((m._forward_hooks or m._forward_pre_hooks) and m is not last for m in model.modules()):
        return False
    try:
        layers: Any = decoder(model).layers
        projections = [
            getattr(part, f"{name}_proj")
            for layer in layers
            for part, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down")))
            for name in names
        ]
    except AttributeError:
        return False
    return all(type(p) is nn.Linear for p in projections)


@torch.inference_mode()
def _agrees(model: PreTrainedModel) -> bool:
    """Whether two steps after two prompts give the model's own log-probabilities."""
    vocabulary = model.config.get_text_config().vocab_size
    prompts = [[n % vocabulary for n in row] for row in ((3, 5, 7, 11), (2, 9))]
    tokens = [
        torch.tensor([n % vocabulary for n in row], device=model.device) for row in ((4, 6, 8, 1), (10, 0, 12, 13))
    ]

    def run(kind: type[SharedPrompts]) -> Tensor:
        decoding = kind(model, prompts, 2, max_new_tokens=4, prefill_tokens=64, fullness=0.0)
        with attending(model, decoding.cache):
            decoding.start()
            found = [decoding.step(some) for some in tokens]
        return torch.stack(found).log_softmax(-1)

    try:
        return bool(torch.allclose(run(SharedPrompts), run(FusedPrompts), rtol=TOLERANCE, atol=TOLERANCE))
    except (AttributeError, RuntimeError, TypeError, UnsupportedModelError):
        return False
