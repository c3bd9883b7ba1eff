import random

import numpy as np
import torch
from torch import nn

from automl_prune.steady import fresh, steady

CPU = torch.device("cpu")


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_every_block_draws_the_same_and_what_follows_is_as_without() -> None:
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    expected = drawn()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    with steady(CPU):
        first = drawn()
    with steady(CPU):
        assert drawn() == first
    assert drawn() == expected != first


def test_a_fresh_copy_shares_parameters_and_nothing_else() -> None:
    model = nn.BatchNorm1d(2)
    vars(model)["seen"] = [1]
    copied = fresh(model)
    copied(torch.randn(4, 2))
    copied.get_parameter("weight").detach().zero_()
    vars(copied)["seen"].append(2)
    assert vars(model)["seen"] == [1]
    assert not model.get_buffer("running_mean").any()
    assert copied.get_buffer("running_mean").any()
    assert not model.weight.any()
