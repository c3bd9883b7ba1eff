import pytest
import torch
from torch import Tensor, nn

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.modes import accepts_channels_last, device_of, predict, training_flags_kept


class Viewing(nn.Module):
    """Flattens feature maps with ``view``, which only works in one memory order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        logits: Tensor = self.linear(x.view(len(x), -1))
        return logits


class WithAuxiliary(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))


def test_flags_of_every_submodule_come_back_even_after_an_error() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm, nn.Dropout()))
    norm.eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), training_flags_kept(model):
        model.eval()(torch.zeros(1, 5, 8, 8))
    assert [m.training for m in model.modules()] == before
    assert before.count(False) == 1


def test_bfloat16_runs_under_autocast_and_still_gives_float32_scores() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    images = torch.rand(2, 3, 4, 4)
    exact, rough = predict(model, images, "float32"), predict(model, images, "bfloat16")
    assert exact.dtype == rough.dtype == torch.float32
    assert torch.equal(rough, rough.bfloat16().float())
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0.05, atol=0.05)


def test_the_first_of_several_outputs_counts() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(predict(WithAuxiliary(), images, "float32"), images.mean((2, 3)))


@pytest.mark.parametrize("model", [nn.Identity(), nn.Flatten(0)])
def test_an_output_that_is_no_row_per_image_is_refused(model: nn.Module) -> None:
    with pytest.raises(EvaluationError, match="for 2 images"):
        predict(model, torch.rand(2, 3, 4, 4), "float32")


def test_a_model_without_tensors_is_on_the_cpu() -> None:
    assert device_of(nn.Identity()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


def test_networks_that_view_their_feature_maps_do_not_take_channels_last() -> None:
    flattening = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    flattening.train()
    assert accepts_channels_last(flattening, (3, 8, 8))
    assert flattening.training
    assert not accepts_channels_last(Viewing(), (3, 8, 8))
    assert not accepts_channels_last(nn.Linear(6, 2), (6,))
