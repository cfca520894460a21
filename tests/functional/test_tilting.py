from __future__ import annotations

import math

import pytest
import torch

from lit_sdpo.functional import largest_tilt, tilted_logprobs

F64 = torch.float64


def tables(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ((scale * torch.randn(*shape, generator=generator, dtype=F64)).log_softmax(-1) for _ in range(2))


def tilted(reference, teacher, s):
    """In plain numbers, from probabilities."""
    products = [0.0 if 0 in (r, t) else r ** (1 - s) * t**s for r, t in zip(reference, teacher, strict=True)]
    return [x / sum(products) for x in products]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def bisected(reference, teacher, epsilon):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = kl(tilted(reference, teacher, middle), reference) <= epsilon
        low, high = (middle, high) if inside else (low, middle)
    return low


@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_the_target_is_the_geometric_mean(s):
    reference, teacher = tables(7, scale=2.0)
    found = tilted_logprobs(reference, teacher, s).exp().tolist()
    assert found == pytest.approx(tilted(reference.exp().tolist(), teacher.exp().tolist(), s), rel=1e-12)


def test_one_share_for_each_position_and_the_ends_exactly():
    reference, teacher = tables(3, 4)
    reference[:, 0], teacher[:, 1] = -torch.inf, -torch.inf
    reference, teacher = reference.log_softmax(-1), teacher.log_softmax(-1)
    found = tilted_logprobs(reference, teacher, torch.tensor([0.0, 0.4, 1.0]))
    torch.testing.assert_close(found[0], reference[0], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found[2], teacher[2], rtol=1e-14, atol=1e-14)
    assert found[1, :2].tolist() == [-math.inf, -math.inf]
    assert found[1].exp().sum().item() == pytest.approx(1)


def test_what_no_token_satisfies_is_undefined():
    a, b = torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0])
    assert tilted_logprobs(a, b, 0.5).isnan().all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2, 0.5])
def test_the_largest_share_against_bisection(scale, epsilon):
    reference, teacher = tables(6, 9, scale=scale, seed=1)
    found = largest_tilt(reference, teacher, epsilon)
    for n in range(6):
        expected = bisected(reference[n].exp().tolist(), teacher[n].exp().tolist(), epsilon)
        assert float(found[n]) == pytest.approx(1.0 if expected > 1 - 1e-12 else expected, rel=1e-8)
        assert (
            kl(
                tilted(reference[n].exp().tolist(), teacher[n].exp().tolist(), float(found[n])),
                reference[n].exp().tolist(),
            )
            <= epsilon * (1 + 1e-9) + 1e-14
        )


def test_one_share_for_the_batch_bounds_the_token_mean():
    reference, teacher = tables(2, 5, 8, scale=1.5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    s = float(largest_tilt(reference, teacher, 0.05, mask, "batch"))

    def mean(s):
        pairs = [(r.exp().tolist(), t.exp().tolist()) for r, t in zip(reference[mask], teacher[mask], strict=True)]
        return sum(kl(tilted(r, t, s), r) for r, t in pairs) / len(pairs)

    assert 0 < s < 1
    assert mean(s) == pytest.approx(0.05, rel=1e-9)
    assert largest_tilt(reference, teacher, 5.0, mask, "batch") == 1


@pytest.mark.parametrize("level", ["token", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_no_room_and_room_for_all(level, dtype):
    reference, teacher = (x.to(dtype) for x in tables(4, 6))
    none, whole, equal = (
        largest_tilt(reference, other, epsilon, level=level)
        for other, epsilon in ((teacher, 0.0), (teacher, 100.0), (reference, 0.0))
    )
    assert bool((none == 0).all() and (whole == 1).all() and (equal == 1).all())
    assert none.dtype == dtype


def test_tokens_that_one_side_forbids():
    even, sure, half = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]).log()
    # The teacher forbids half of the reference's mass: log 2 at once.
    assert largest_tilt(even, sure, 0.5) == 0
    assert largest_tilt(even, sure, 0.7) == 1
    # The teacher allows what the reference forbids: any share below 1 is log 2 away, the teacher itself infinitely far.
    assert 1 - 1e-6 < largest_tilt(even.double(), half.double(), 0.7) < 1
    assert largest_tilt(even, half, math.inf) == 1


def test_masked_places_do_not_matter_and_nothing_active_has_all_room():
    reference, teacher = tables(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    clean = largest_tilt(reference, teacher, 0.01, mask)
    reference[~mask], teacher[~mask] = math.nan, math.inf
    assert torch.equal(largest_tilt(reference, teacher, 0.01, mask), clean)
    assert bool((clean[~mask] == 0).all())
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert largest_tilt(reference, teacher, 0.01, nothing, "batch") == 1
    assert largest_tilt(reference, teacher, 0.01, nothing).tolist() == [[0.0] * 3] * 2


def test_mistakes():
    reference, teacher = tables(3)
    for call, message in [
        (lambda: tilted_logprobs(reference, teacher, 1.1), "inverse_beta"),
        (lambda: tilted_logprobs(reference, teacher, math.nan), "inverse_beta"),
        (lambda: largest_tilt(reference, teacher, -0.1), "epsilon"),
        (lambda: largest_tilt(reference, teacher, math.nan), "epsilon"),
        (lambda: largest_tilt(reference, teacher, 0.1, level="row"), "level"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
