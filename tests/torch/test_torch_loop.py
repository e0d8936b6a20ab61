"""The parts of the training loop against torch's own, and against their definitions."""

from typing import Any

import numpy as np
import pytest

from tests.factories.small_series import Recorded, hyper_of, series_data, train
from training.trainer.models import Context, NoSession, module_of

torch = pytest.importorskip("torch", reason="torch is not installed; scripts/setup.sh all brings it")

pytestmark = pytest.mark.torch


def quadratic(seed: int) -> tuple[list[Any], Any]:
    """Parameters of one, two and three dimensions, and a function of them whose gradients differ by step."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4,), (3, 4), (2, 3, 2))
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return parameters, lambda step: sum(((p - step) ** 2).sum() * p.ndim for p in parameters)


def test_adam_takes_the_steps_of_torchs_adamw() -> None:
    from training.trainer.models.torch_adam import AdamW

    ours, loss = quadratic(0)
    theirs, their_loss = quadratic(0)
    adam = AdamW(ours, weight_decay=0.1)
    groups = [{"params": theirs[:1], "weight_decay": 0.0}, {"params": theirs[1:], "weight_decay": 0.1}]
    reference = torch.optim.AdamW(groups, lr=0.05)
    for step in range(1, 30):
        loss(step).backward()
        adam.step(step, 0.05)
        reference.zero_grad()
        their_loss(step).backward()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_step_of_adam_lets_the_gradients_go() -> None:
    from training.trainer.models.torch_adam import AdamW

    parameters, loss = quadratic(0)
    loss(1).backward()
    AdamW(parameters, weight_decay=0).step(1, 0.1)
    assert [p.grad for p in parameters] == [None, None, None]


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_gradients_are_clipped_as_torch_clips_them(largest: float) -> None:
    from training.trainer.models.torch_adam import clip_gradients

    ours, loss = quadratic(1)
    theirs, their_loss = quadratic(1)
    loss(3).backward()
    their_loss(3).backward()
    clip_gradients(ours, largest)
    torch.nn.utils.clip_grad_norm_(theirs, largest)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_largest_norm_of_0_clips_nothing() -> None:
    from training.trainer.models.torch_adam import clip_gradients

    parameters, loss = quadratic(1)
    loss(3).backward()
    before = [p.grad.clone() for p in parameters]
    clip_gradients(parameters, 0)
    for parameter, grad in zip(parameters, before, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_cosine_schedule_of_a_very_short_training_still_learns(total: int) -> None:
    from training.trainer.models.schedule import learning_rate_at

    assert learning_rate_at(1, total, 1.0, "cosine") == 1.0


def test_the_loss_is_torchs_cross_entropy_with_label_smoothing() -> None:
    from training.trainer.models import torch_training

    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels = np.array([0, 1, 2, 2, 1, 0, 0])
    targets = torch.from_numpy(torch_training._targets(labels, 3, 0.2))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.2)
    torch.testing.assert_close(torch_training._cross_entropy(logits, targets), expected)


def test_every_window_is_seen_once_in_an_epoch_in_batches_of_nearly_one_size() -> None:
    from training.trainer.models import cnn, torch_training

    context = Context(1, NoSession())
    training = torch_training._Training(cnn.KIND, series_data(train=41), hyper_of("cnn"), context)
    first, second = training._order(0), training._order(1)
    assert [len(rows) for rows in first] == [11, 10, 10, 10]
    assert sorted(np.concatenate(first).tolist()) == list(range(41))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_patience_ends_the_training_and_gives_the_best_epoch_back() -> None:
    data, seen = series_data(), Recorded()
    wild: dict[str, Any] = {"learning_rate": 0.3, "epochs": 40, "schedule": "constant"}
    trained = train("cnn", data, session=seen, patience=3, **wild)
    losses = [step.validation_loss or 0.0 for step in seen.steps]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 40
    probabilities = trained.predict(data.validation_x)
    loss = -np.log(probabilities[np.arange(len(probabilities)), data.validation_y]).mean()
    assert loss == pytest.approx(losses[best], rel=1e-4)


def test_without_patience_the_last_epoch_counts() -> None:
    data, seen = series_data(), Recorded()
    trained = train("cnn", data, session=seen, learning_rate=0.3, epochs=8, schedule="constant")
    probabilities = trained.predict(data.validation_x)
    loss = -np.log(probabilities[np.arange(len(probabilities)), data.validation_y]).mean()
    assert len(seen.steps) == 8
    assert loss == pytest.approx(seen.steps[-1].validation_loss, rel=1e-4)


def network(model: str, samples: int = 32, **options: Any) -> Any:
    from training.trainer.models.torch_artifact import SeriesShape

    torch.manual_seed(0)
    kind: Any = module_of(model).KIND  # type: ignore[attr-defined]
    return kind.build(SeriesShape(2, samples, 3), hyper_of(model, **options)).eval()


def test_the_tcn_is_causal() -> None:
    """What comes later changes nothing of what was computed before."""
    blocks = network("tcn", blocks=3).blocks
    x = torch.randn(1, 2, 32)
    changed = x.clone()
    changed[:, :, 20:] += 1
    same = (blocks(x) == blocks(changed)).all(1).flatten()
    assert same[:20].all()
    assert not same[20:].any()


@pytest.mark.parametrize(("kernels", "reach"), [([5], (2, 2)), ([8], (3, 4)), ([5, 3], (3, 3))])
def test_the_cnn_keeps_the_length_and_looks_to_both_sides(kernels: list[int], reach: tuple[int, int]) -> None:
    blocks = network("cnn", kernels=kernels, channels=[4] * len(kernels)).blocks
    x = torch.randn(1, 2, 32)
    changed = x.clone()
    changed[:, :, 16] += 100
    moved = (blocks(x) != blocks(changed)).any(1).flatten().nonzero().flatten().tolist()
    assert blocks(x).shape == (1, 4, 32)
    # An output at t reads t - back .. t + ahead, so a change at 16 shows from 16 - ahead to 16 + back.
    back, ahead = reach
    assert set(moved) <= set(range(16 - ahead, 16 + back + 1))
    assert len(moved) > 1


def test_the_attention_is_torchs_multi_head_attention() -> None:
    from training.trainer.models.transformer import _Attention

    torch.manual_seed(1)
    ours = _Attention(8, 2)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.inputs.weight,
            "in_proj_bias": ours.inputs.bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("patch", [1, 2, 4, 5, 7, 32, 50])
@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_every_sample_is_in_a_patch(model: str, patch: int) -> None:
    """Also where the patches do not divide the window."""
    net = network(model, patch=patch)
    x = torch.randn(1, 2, 32, requires_grad=True)
    net(x)[0, 0].backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("pool", ["all", "mean", "last"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_gru_trains_in_each_form(pool: str, bidirectional: bool, layers: int) -> None:
    trained = train("gru", epochs=1, pool=pool, bidirectional=bidirectional, layers=layers)
    assert trained.predict(series_data().validation_x).shape == (20, 2)


def test_the_last_state_of_a_backward_gru_has_seen_the_whole_window() -> None:
    net = network("gru", pool="last", bidirectional=True, patch=1, hidden=4)
    x = torch.randn(1, 2, 32)
    changed = x.clone()
    changed[:, :, -1] += 1

    def last(series: Any) -> Any:
        return net._last(net.layers[0](series.transpose(1, 2))[0])[0]

    assert (last(x) != last(changed)).all()
