"""Scout: who sees what, how it is won, and that a hunter who is told can always win."""

import torch

from palmette.marl.envs.scout import STRIKE, Scout, ScoutConfig


def test_exactly_one_scout_sees_the_target_and_says_where():
    game = Scout(ScoutConfig(scouts=4), batch=512, seed=0)
    frame = game.reset()
    sees_BS = frame.obs_BNO[:, :4, 2]
    assert bool((sees_BS.sum(1) == 1).all())
    assert bool((sees_BS.sum(0) > 60).all()), "each watches a part"
    where_B2 = frame.obs_BNO[:, :4, 3:].sum(1) * 9
    assert torch.allclose(where_B2, frame.state_BS[:, -2:] * 9)
    assert frame.news_BNN is not None
    assert torch.equal(frame.news_BNN[:, :4, 4:].all(-1), sees_BS.bool())
    assert int(frame.news_BNN.sum()) == 512 * 2


def test_hunters_see_only_what_is_beside_them():
    game = Scout(ScoutConfig(), batch=1)
    frame = game.place(torch.tensor([[[2, 2], [5, 5]]]), torch.tensor([[3, 1]]))
    assert frame.obs_BNO[0, 3].tolist() == [torch.tensor(2 / 9), torch.tensor(2 / 9), 1, 1, -1]
    assert frame.obs_BNO[0, 4, 2:].tolist() == [0, 0, 0]


def test_only_striking_together_wins():
    game = Scout(ScoutConfig(), batch=1)
    game.place(torch.tensor([[[2, 2], [3, 3]]]), torch.tensor([[3, 2]]))
    frame = game.step(torch.tensor([[0, 0, 0, STRIKE, 0]]))
    assert float(frame.reward_B) == 1.0, "two first sightings"
    assert not frame.won_B
    frame = game.step(torch.tensor([[0, 0, 0, STRIKE, STRIKE]]))
    assert float(frame.reward_B) == 5.0
    assert frame.won_B
    assert frame.terminated_B


def test_scouts_only_stay():
    frame = Scout(ScoutConfig(), batch=2).reset()
    assert frame.avail_BNA[:, :3].sum() == 6
    assert bool(frame.avail_BNA[:, 3:].all())


def test_who_knows_where_can_always_win_and_who_does_not_cannot():
    for scouts, hunters in ((3, 2), (5, 3)):
        game = Scout(ScoutConfig(scouts=scouts, hunters=hunters), batch=512, seed=1)
        frame = game.reset()
        for _ in range(20):
            apart_BH2 = game._target_B2[:, None] - game._hunters_BH2
            axis_BH = apart_BH2.abs().argmax(-1)
            ahead_BH = apart_BH2.gather(-1, axis_BH[..., None]).squeeze(-1) > 0
            walk_BH = 1 + 2 * axis_BH + (~ahead_BH).long()
            all_there_B1 = (apart_BH2.abs().amax(-1) <= 1).all(1, keepdim=True)
            hunting_BH = torch.where(all_there_B1, STRIKE, torch.where(apart_BH2.abs().amax(-1) <= 1, 0, walk_BH))
            frame = game.step(torch.cat([torch.zeros(512, scouts, dtype=torch.long), hunting_BH], 1))
        assert bool(frame.won_B.all())
        blind = Scout(ScoutConfig(scouts=scouts, hunters=hunters), batch=512, seed=1)
        blind.reset()
        for _ in range(20):
            frame = blind.step(
                torch.cat([torch.zeros(512, scouts, dtype=torch.long), torch.full((512, hunters), 5)], 1)
            )
        assert frame.won_B.float().mean() < 0.1
