"""Whole trainings on a Scout so small that they take seconds: with words it is won, without it is not."""

import pytest
import torch

from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Training

SMALL = {
    "kind": "marl",
    "game": "scout",
    "steps": 26_000,
    "scout": {"size": 4, "limit": 6, "scouts": 2, "hunters": 1, "sight": 0},
    "learn": {"update_every": 40, "epsilon_steps": 8000, "lr": 0.003, "target_every": 40, "hidden": 32},
}


def trained(**changes):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training = Training(MarlRecipe.model_validate({**SMALL, **changes}), 0)
        while not training.finished:
            training.advance()
        return training.measure()
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["qmix", "vdn"])
def test_who_is_told_learns_to_win(mixer):
    measured = trained(method="oracle", mixer=mixer)
    assert measured.score > 0.55
    assert abs(measured.comm_rate - 1 / 6) < 1e-6


@pytest.mark.slow
def test_who_is_not_told_does_not():
    assert trained(method="none", steps=15_000).score < 0.4


@pytest.mark.slow
def test_t2mac_plus_learns_to_win_with_few_links():
    measured = trained(method="t2mac_plus")
    assert measured.score > 0.5
    assert 0.05 < measured.comm_rate < 0.7
