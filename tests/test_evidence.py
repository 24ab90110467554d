"""The evidence calculus: the laws of fusion, and the closed form against the rule as it is printed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palmette.evidence import (
    FUSIONS,
    READINGS,
    discount,
    evidence_of,
    from_log_evidence,
    fuse,
    fuse_averaging,
    fuse_cumulative,
    fuse_discounted,
    fuse_links,
    fuse_one_by_one,
    fuse_pair,
    log_evidence,
    opinion,
    uncertainty,
    uncertainty_reduction,
)

AMOUNT = st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.floats(1.0, 1e6))
SHARE = st.floats(0.0, 1.0)


@st.composite
def sources(draw, least=1, most=5):
    """Evidence of J sources over K alternatives, float64."""
    size, count = draw(st.integers(2, 6)), draw(st.integers(least, most))
    row = st.lists(AMOUNT, min_size=size, max_size=size)
    return torch.tensor(draw(st.lists(row, min_size=count, max_size=count)), dtype=torch.float64)


def near(left, right, tolerance=1e-12):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_the_numbers_of_a_small_example():
    belief_K, uncertainty_1 = opinion(torch.tensor([3.0, 1.0]))
    near(belief_K, torch.tensor([0.5, 1 / 6]), 1e-6)
    near(uncertainty_1, torch.tensor([1 / 3]), 1e-6)
    # two sources, K = 2: e1 + e2 + e1 e2 / K
    near(fuse(torch.tensor([[3.0, 1.0], [2.0, 0.0]])), torch.tensor([8.0, 1.0]), 1e-6)


@pytest.mark.parametrize(("count", "total"), [(1, 3.0), (2, 7.5), (5, 39.5625), (10, 339.990234375)])
def test_agreeing_sources_multiply(count, total):
    agreeing_JK = torch.zeros(count, 6, dtype=torch.float64)
    agreeing_JK[:, 2] = 3.0
    near(fuse(agreeing_JK)[2], torch.tensor(total, dtype=torch.float64))


@given(sources())
def test_belief_and_uncertainty_sum_to_one(evidence_JK):
    for fused_K in (evidence_JK[0], fuse(evidence_JK), fuse_one_by_one(evidence_JK)):
        belief_K, uncertainty_1 = opinion(fused_K)
        near(belief_K.sum(-1, keepdim=True) + uncertainty_1, torch.ones(1, dtype=torch.float64))


@given(sources())
def test_an_opinion_keeps_its_evidence(evidence_JK):
    near(evidence_of(*opinion(evidence_JK)), evidence_JK)
    near(from_log_evidence(log_evidence(evidence_JK)), evidence_JK)


@given(sources(), st.data())
def test_the_closed_form_is_the_pairwise_rule(evidence_JK, data):
    near(fuse(evidence_JK), fuse_one_by_one(evidence_JK))
    open_J = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(evidence_JK), max_size=len(evidence_JK))))
    near(fuse(evidence_JK, open_J.double()), fuse_one_by_one(evidence_JK, open_J.double()))
    near(fuse(evidence_JK, open_J.double()), fuse(evidence_JK[open_J]))


@given(sources(least=2, most=2))
def test_the_pairwise_rule_is_the_printed_formula(evidence_JK):
    (one_K, one), (two_K, two) = (opinion(each) for each in evidence_JK)
    conflict = sum(a * b for k, a in enumerate(one_K) for other, b in enumerate(two_K) if k != other)
    belief_K, uncertainty_1 = fuse_pair(one_K, one, two_K, two)
    near(belief_K * (1 - conflict), one_K * two_K + one_K * two + two_K * one, 1e-9)
    near(uncertainty_1 * (1 - conflict), one * two, 1e-9)


@given(sources(), st.randoms())
def test_order_and_grouping_do_not_matter(evidence_JK, random):
    order = list(range(len(evidence_JK)))
    random.shuffle(order)
    for fusion in (*FUSIONS.values(), lambda e, gate: fuse_one_by_one(e, gate)):
        near(fusion(evidence_JK[order], None), fusion(evidence_JK, None))
    for fusion in (fuse, fuse_one_by_one, fuse_cumulative):
        cut = len(evidence_JK) // 2
        if cut:
            halves_JK = torch.stack([fusion(evidence_JK[:cut]), fusion(evidence_JK[cut:])])
            near(fusion(halves_JK), fusion(evidence_JK), 1e-11)


@given(sources())
def test_the_vacuous_opinion_is_neutral(evidence_JK):
    padded_JK = torch.cat([evidence_JK, torch.zeros_like(evidence_JK[:1])])
    for fusion in (fuse, fuse_one_by_one, fuse_cumulative):
        near(fusion(padded_JK), fusion(evidence_JK))
    closed_J = torch.zeros(len(evidence_JK), dtype=torch.float64)
    for fusion in FUSIONS.values():
        assert not fusion(evidence_JK, closed_J).any()


@given(sources(), SHARE)
def test_uncertainty_never_rises_under_dempster(evidence_JK, gate):
    fused_K = fuse(evidence_JK, torch.full((len(evidence_JK),), gate, dtype=torch.float64))
    assert uncertainty(fuse(evidence_JK)) <= uncertainty(evidence_JK).min() * (1 + 1e-12)
    assert uncertainty(fuse(evidence_JK)) <= uncertainty(fused_K) * (1 + 1e-12)


@given(sources(least=2, most=2))
def test_the_value_of_a_link_is_the_fall_of_uncertainty(evidence_JK):
    own_K, message_K = evidence_JK
    value = uncertainty_reduction(own_K, message_K)
    assert value >= 0
    near(value, uncertainty(own_K) - uncertainty(fuse(evidence_JK)))


@given(sources())
def test_a_repeated_source_changes_the_average_not_at_all_and_the_others_much(evidence_JK):
    twice_JK = torch.cat([evidence_JK, evidence_JK])
    near(fuse_averaging(twice_JK), fuse_averaging(evidence_JK))
    near(fuse_cumulative(twice_JK), 2 * fuse_cumulative(evidence_JK))


@given(sources(), SHARE)
def test_discounting_scales_belief_by_trust(evidence_JK, trust):
    trust_J = torch.full((len(evidence_JK),), trust, dtype=torch.float64)
    before_JK, _ = opinion(evidence_JK)
    after_JK, uncertainty_J1 = opinion(discount(evidence_JK, trust_J))
    near(after_JK, trust * before_JK)
    assert (uncertainty_J1 >= (1 - trust) - 1e-12).all()
    near(discount(evidence_JK, torch.ones_like(trust_J)), evidence_JK)
    assert not discount(evidence_JK, torch.zeros_like(trust_J)).any()
    near(fuse_discounted(evidence_JK, trust_J), fuse_one_by_one(discount(evidence_JK, trust_J)))


@given(sources(least=3, most=3))
def test_the_two_readings_differ_by_the_cross_terms(evidence_JK):
    size = evidence_JK.shape[-1]
    sent_NNK = evidence_JK[:, None].expand(3, 3, size)
    gate_NN = 1 - torch.eye(3, dtype=torch.float64)
    fused = {reading: fuse_links(evidence_JK, sent_NNK, gate_NN, reading) for reading in READINGS}
    for receiver in range(3):
        others_K = fuse(evidence_JK[[i for i in range(3) if i != receiver]])
        near(fused["received"][receiver], evidence_JK[receiver] + others_K)
        near(fused["all"][receiver], fuse(evidence_JK))
        cross_K = evidence_JK[receiver] * others_K / size
        near(fused["all"][receiver], fused["received"][receiver] + cross_K, 1e-11)


def test_links_point_from_sender_to_receiver():
    own_NK, sent_NNK = torch.zeros(2, 3), torch.full((2, 2, 3), 2.0)
    gate_NN = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    fused_NK = fuse_links(own_NK, sent_NNK, gate_NN)
    assert not fused_NK[0].any()
    near(fused_NK[1], torch.full((3,), 2.0), 1e-6)
    with pytest.raises(ValueError, match="unknown reading 'al'"):
        fuse_links(own_NK, sent_NNK, gate_NN, "al")


@pytest.mark.parametrize("amount", [0.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_nothing_and_at_a_million(amount, dtype):
    functions = {
        "opinion": lambda e: opinion(e)[0][:, 0].sum(),
        "value": lambda e: uncertainty_reduction(e[0], e[1]).sum(),
        "discounted": lambda e: fuse_discounted(e, torch.full((len(e),), 0.7, dtype=dtype)).sum(),
        "one by one": lambda e: fuse_one_by_one(e).sum(),
        **{
            name: lambda e, fusion=fusion: fusion(e, torch.ones(len(e), dtype=dtype)).sum()
            for name, fusion in FUSIONS.items()
        },
    }
    for name, function in functions.items():
        evidence_JK = torch.full((3, 4), amount, dtype=dtype, requires_grad=True)
        function(evidence_JK).backward()
        assert evidence_JK.grad is not None
        assert evidence_JK.grad.isfinite().all(), name
        assert evidence_JK.grad.any(), name


def test_a_crowd_that_agrees_saturates_instead_of_overflowing():
    fused_K = fuse(torch.full((64, 4), 1e6))
    assert fused_K.isfinite().all()
    assert fused_K.min() > 1e34
