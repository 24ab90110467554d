"""Ways of communicating: what a closed link keeps out, labels against a plain loop, and gates that keep their word."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from palmette.errors import UserError
from palmette.evidence import discount, fuse_cumulative, fuse_one_by_one, uncertainty
from palmette.marl.comm.api import Scene, Sizes
from palmette.marl.comm.full import FullConfig
from palmette.marl.comm.gate import Gate
from palmette.marl.comm.letters import Rounds
from palmette.marl.comm.maic import MaicConfig
from palmette.marl.comm.names import METHODS, open_method
from palmette.marl.comm.random import RandomConfig
from palmette.marl.comm.t2mac import T2macConfig
from palmette.marl.comm.t2mac_plus import T2macPlusConfig
from palmette.marl.live import Live

ROWS, SIZES = 7, Sizes(agents=4, actions=5, hidden=16, state=6)
THREE = Live.of(torch.tensor([[True, True, False], [True, True, True], [True, True, False]]))  # episodes, of 7 steps
BEFORE = (None, None, None, 0, 1, 2, 3)  # the row of each row's step before
VARIANTS = {
    **{name: (name, None) for name in METHODS},
    "full/attention": ("full", FullConfig(aggregate="attention")),
    "t2mac/received": ("t2mac", T2macConfig(reading="received")),
    "t2mac/log": ("t2mac", T2macConfig(head="log_evidence")),
    "t2mac/warm": ("t2mac", T2macConfig(budget=2)),
    "t2mac_plus/sigmoid": ("t2mac_plus", T2macPlusConfig(confidence="sigmoid")),
    "t2mac_plus/sum": ("t2mac_plus", T2macPlusConfig(mix="sum")),
    "t2mac_plus/forgets": ("t2mac_plus", T2macPlusConfig(keep=False)),
    "t2mac_plus/class": ("t2mac_plus", T2macPlusConfig(label="regret")),
    "t2mac_plus/none": ("t2mac_plus", T2macPlusConfig(confidence="none", gate="random")),
    "t2mac_plus/all": ("t2mac_plus", T2macPlusConfig(gate="all", label="uncertainty")),
}


def built(variant):
    torch.manual_seed(3)
    name, config = VARIANTS[variant]
    return open_method(name, SIZES, config)


def scene(**changes):
    generator = torch.Generator().manual_seed(5)
    avail_MNA = torch.rand(ROWS, 4, 5, generator=generator) < 0.7
    avail_MNA[..., 2] = True
    avail_MNA[0, 1] = torch.arange(5) == 2  # one who has no choice
    news_MNN = (torch.rand(ROWS, 4, 4, generator=generator) < 0.4) & ~torch.eye(4, dtype=torch.bool)
    plain = Scene(
        avail_MNA=avail_MNA,
        generator=generator,
        state_MS=torch.randn(ROWS, 6, generator=generator),
        news_MNN=news_MNN,
    )
    return replace(plain, **changes)


def hidden(seed=1):
    return torch.randn(ROWS, 4, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_and_nothing_to_oneself(variant):
    comm = built(variant)
    for learning in (False, True):
        talk = comm(hidden(), scene(learning=learning))
        assert talk.q_MNA.shape == (ROWS, 4, 5)
        assert talk.links_MNN.shape == (ROWS, 4, 4)
        assert set(talk.links_MNN.unique().tolist()) <= {0.0, 1.0}
        assert not talk.links_MNN.diagonal(dim1=1, dim2=2).any()
        assert talk.loss_M is None or talk.loss_M.shape == (ROWS,)
        assert learning or (talk.loss_M is None and talk.labels_MNN is None and talk.prices_MNN is None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_does_not_arrive_changes_nothing(variant):
    """Neither over a closed link nor over one that the channel cut: the defect of T2MAC's published code."""
    comm = built(variant)
    silence = torch.zeros(ROWS, 4, 4)
    changed = hidden().index_copy(1, torch.tensor([1]), hidden(2)[:, 1:2])
    for arrives in (silence, None):
        before, after = (comm(h, scene(arrives_MNN=arrives)) for h in (hidden(), changed))
        others = [0, 2, 3]
        told_MR = torch.maximum(before.links_MNN, after.links_MNN)[:, 1, others].bool()
        if arrives is not None:
            told_MR = torch.zeros_like(told_MR)
        same_MR = (before.q_MNA == after.q_MNA)[:, others].all(-1)
        assert bool(same_MR[~told_MR].all())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "none"])
def test_what_arrives_changes_something(variant):
    comm = built(variant)
    changed = hidden().index_copy(1, torch.tensor([1]), hidden(2)[:, 1:2])
    before, after = (comm(h, scene(open_all=True)) for h in (hidden(), changed))
    both_MR = (before.links_MNN * after.links_MNN)[:, 1, [0, 2, 3]].bool()
    assert bool(both_MR.any())
    assert bool((before.q_MNA != after.q_MNA).any(-1)[:, [0, 2, 3]][both_MR].all())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_parameter_learns_when_links_are_open(variant):
    comm = built(variant)
    selector = {id(each) for each in comm.selector_parameters()}
    talk = comm(hidden(), scene(open_all=True, learning=True))
    loss = talk.q_MNA.square().sum() + (0 if talk.loss_M is None else talk.loss_M.sum())
    loss.backward()
    unused = {"scale", "bias", "sure.weight", "sure.bias"}  # of switches that are off
    for name, parameter in comm.named_parameters():
        if id(parameter) in selector:
            assert parameter.grad is None, f"the gate learned {name} from the values"
        elif name not in unused:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("t2mac")])
def test_the_selector_gets_a_gradient_and_sends_none_back(variant):
    comm = built(variant)
    hidden_MNH = hidden().requires_grad_()
    talk = comm(hidden_MNH, scene(learning=True, letters=Rounds(THREE)))
    talk.selector_MNN.sum().backward()
    assert hidden_MNH.grad is None
    for parameter in comm.selector_parameters():
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("reading", ["all", "received"])
def test_t2mac_is_the_pairwise_rule_over_open_links(reading):
    comm = open_method("t2mac", SIZES, T2macConfig(reading=reading)).double()
    hidden_MNH = hidden().double() * 3
    talk = comm(hidden_MNH, scene())
    assert 0 < talk.links_MNN.mean() < 0.75
    own_MNK, sent_MNNK = softplus(comm.own(hidden_MNH)), softplus(comm.send(hidden_MNH) - 1)
    for row in range(ROWS):
        for receiver in range(4):
            heard = [sent_MNNK[row, i, receiver] for i in range(4) if talk.links_MNN[row, i, receiver]]
            own = own_MNK[row, receiver]
            if reading == "all":
                expected = fuse_one_by_one(torch.stack([own, *heard]))
            else:
                expected = own + (fuse_one_by_one(torch.stack(heard)) if heard else 0)
            torch.testing.assert_close(talk.q_MNA[row, receiver], expected, rtol=1e-10, atol=1e-10)


def test_t2mac_labels_are_the_fall_of_uncertainty():
    comm = open_method("t2mac", SIZES, T2macConfig(least=0.12)).double()
    hidden_MNH = hidden().double() * 3
    labels_MNN = comm(hidden_MNH, scene(learning=True)).labels_MNN
    own_MNK, sent_MNNK = softplus(comm.own(hidden_MNH)), softplus(comm.send(hidden_MNH) - 1)
    assert 0 < labels_MNN.mean() < 1
    for row in range(ROWS):
        for i in range(4):
            for j in range(4):
                fused = fuse_one_by_one(torch.stack([own_MNK[row, j], sent_MNNK[row, i, j]]))
                assert bool(labels_MNN[row, i, j]) == bool(uncertainty(own_MNK[row, j]) - uncertainty(fused) > 0.12)


@pytest.mark.parametrize("beside", ["open", "all"])
@pytest.mark.parametrize("mix", ["share", "sum"])
@pytest.mark.parametrize("confidence", ["sigmoid", "evidence", "none"])
@pytest.mark.parametrize("keep", [True, False])
def test_plus_prices_are_the_regret_of_not_hearing_one(confidence, mix, beside, keep):
    torch.manual_seed(3)
    config = T2macPlusConfig(confidence=confidence, mix=mix, beside=beside, keep=keep)
    comm = open_method("t2mac_plus", SIZES, config).double()
    hidden_MNH = hidden().double() * 3
    setting = scene(learning=True, letters=Rounds(THREE))
    talk = comm(hidden_MNH, setting)
    avail_MNA = setting.avail_MNA
    spread_MN = talk.q_MNA.masked_fill(~avail_MNA, -1e9).amax(-1) - talk.q_MNA.masked_fill(~avail_MNA, 1e9).amin(-1)
    price = config.price * spread_MN[avail_MNA.sum(-1) > 1].mean()
    assert 0 < (talk.prices_MNN > 0).double().mean() < 1
    classes = open_method("t2mac_plus", SIZES, config.model_copy(update={"label": "regret", "least": 0.0}))
    classes.double().load_state_dict(comm.state_dict())
    labels_MNN = classes(hidden_MNH, setting).labels_MNN
    assert 0 < labels_MNN.mean() < 1
    assert 0 < talk.links_MNN.mean() < 0.75
    weight_MN = comm.confidence(hidden_MNH)
    loud_MN = weight_MN / 3 if mix == "sum" else (weight_MN / (1 - weight_MN)).clamp(max=999)
    said_MNH = comm.features.value(hidden_MNH) * loud_MN[..., None]

    def last_sent(row, i, j):
        """The row in which i told j what j has before this row's round; None if it never did."""
        row = BEFORE[row] if keep else None
        while row is not None and not talk.links_MNN[row, i, j]:
            row = BEFORE[row]
        return row

    held = 0
    for row in range(ROWS):
        for j in range(4):
            avail_A = setting.avail_MNA[row, j]

            def values(heard_from, row=row, j=j):
                """Values where these (row, sender) are what j has."""
                heard = sum(said_MNH[at] for at in heard_from) if heard_from else torch.zeros(16).double()
                if mix == "share":
                    heard = heard / (1 + sum(loud_MN[at] for at in heard_from))
                return comm.features.decide(comm.features.seen(hidden_MNH[row, j]) + comm.features.heard(heard))

            for i in set(range(4)) - {j}:
                others = []
                for k in set(range(4)) - {i, j}:
                    at = row if beside == "all" or talk.links_MNN[row, k, j] else last_sent(row, k, j)
                    others += [] if at is None else [(at, k)]
                old = last_sent(row, i, j)
                held += old is not None
                knowing = values([*others, (row, i)]).masked_fill(~avail_A, -torch.inf)
                poorer = values(others if old is None else [*others, (old, i)])
                regret = knowing.max() - knowing[poorer.masked_fill(~avail_A, -torch.inf).argmax()]
                torch.testing.assert_close(talk.prices_MNN[row, i, j], regret / price, rtol=1e-6, atol=1e-9)
                assert bool(labels_MNN[row, i, j]) == bool(regret > 1e-12)
    assert (held > 5) == keep


def test_plus_rehearses_what_actions_are_worth_with_all_links_open():
    torch.manual_seed(3)
    comm = open_method("t2mac_plus", SIZES, T2macPlusConfig())
    hidden_MNH = hidden() * 3
    talk = comm(hidden_MNH, scene(learning=True))
    everything = comm(hidden_MNH, replace(scene(learning=True), open_all=True))
    assert talk.links_MNN.mean() < 0.75
    torch.testing.assert_close(talk.all_open_MNA, everything.q_MNA)
    assert everything.all_open_MNA is None  # it is what acts
    without = open_method("t2mac_plus", SIZES, T2macPlusConfig(rehearse=False))
    assert without(hidden_MNH, scene(learning=True)).all_open_MNA is None


def test_plus_hears_each_sender_by_its_share_of_fused_belief():
    comm = open_method("t2mac_plus", SIZES, T2macPlusConfig(gate="all")).double()
    hidden_MNH = hidden().double() * 3
    evidence_MNK = softplus(comm.sure(hidden_MNH))
    for trust_MN in (None, torch.linspace(0, 1, 4 * ROWS, dtype=torch.float64).view(ROWS, 4)):
        trusted_MNK = evidence_MNK if trust_MN is None else discount(evidence_MNK, trust_MN)
        q_MNA = comm(hidden_MNH, scene(trust_MN=trust_MN)).q_MNA
        for j in range(4):
            others = [i for i in range(4) if i != j]
            fused_MK = fuse_cumulative(trusted_MNK[:, others])
            share_MN = trusted_MNK[:, others].sum(-1) / (fused_MK.shape[-1] + fused_MK.sum(-1, keepdim=True))
            torch.testing.assert_close(share_MN.sum(-1), 1 - uncertainty(fused_MK))
            heard_MH = (share_MN[..., None] * comm.features.value(hidden_MNH[:, others])).sum(1)
            expected_MA = comm.features(hidden_MNH[:, j], heard_MH)
            torch.testing.assert_close(q_MNA[:, j], expected_MA)


def test_a_budget_is_kept_by_the_best_links():
    torch.manual_seed(0)
    gate = Gate(SIZES, threshold=0.4, budget=2)
    logits_MNN, links_MNN = gate(hidden() * 3)
    free_MNN = Gate(SIZES, threshold=0.4)
    free_MNN.load_state_dict(gate.state_dict())
    wanted_MNN = free_MNN(hidden() * 3)[1]
    assert links_MNN.sum(-1).max() == 2
    assert wanted_MNN.sum(-1).max() == 3
    assert bool((links_MNN <= wanted_MNN).all())
    assert torch.equal(links_MNN.sum(-1), wanted_MNN.sum(-1).clamp(max=2))
    dropped_MNN = (wanted_MNN - links_MNN).bool()
    least_kept_MN = logits_MNN.masked_fill(links_MNN == 0, torch.inf).amin(-1, keepdim=True)
    assert bool((logits_MNN <= least_kept_MN)[dropped_MNN].all())


def test_random_links_come_at_their_rate():
    comm = open_method("random", SIZES, RandomConfig(rate=0.3))
    wide = replace(scene(), avail_MNA=torch.ones(4000, 4, 5, dtype=torch.bool), news_MNN=None)
    links_MNN = comm(torch.randn(4000, 4, 16), wide).links_MNN
    assert abs(links_MNN.sum() / (4000 * 12) - 0.3) < 0.01


def test_the_oracle_opens_what_carries_news_and_nothing_else():
    setting = scene()
    assert torch.equal(built("oracle")(hidden(), setting).links_MNN.bool(), setting.news_MNN)
    with pytest.raises(UserError, match="cannot tell who has news"):
        built("oracle")(hidden(), replace(setting, news_MNN=None))


def test_maic_cuts_links_of_little_attention_at_test_time_only():
    comm = open_method("maic", SIZES, MaicConfig(cut=1.0))
    assert comm(hidden() * 10, scene(learning=True)).links_MNN.sum() == ROWS * 12
    assert 0 < comm(hidden() * 10, scene()).links_MNN.sum() < ROWS * 12


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("t2mca", None, "no method 't2mca'; did you mean 't2mac'"),
        ("t2mac", T2macConfig(budget=4), "t2mac.budget is 4, but a sender has 3 others to tell"),
        ("t2mac_plus", T2macPlusConfig(budget=9), "t2mac_plus.budget is 9"),
    ],
)
def test_odd_methods_are_one_line(name, config, said):
    with pytest.raises(UserError, match=said) as caught:
        open_method(name, SIZES, config)
    assert "\n" not in str(caught.value)
