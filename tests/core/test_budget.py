import pytest

from autoprune.core.budget import Budget, Limit, parse_budgets
from autoprune.core.cost import Cost
from autoprune.errors import BudgetError

DENSE = Cost(macs=1_000_000, params=40_000)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("50%flops", Limit("50%flops", "macs", 500_000, 500_000)),
        ("50%macs", Limit("50%macs", "macs", 500_000, 500_000)),
        ("12.5%params", Limit("12.5%params", "params", 5_000, 5_000)),
        ("100%flops", Limit("100%flops", "macs", 1_000_000, 1_000_000)),
        ("57%flops", Limit("57%flops", "macs", 570_000, 570_000)),
        ("29%flops", Limit("29%flops", "macs", 290_000, 290_000)),
        ("600000macs", Limit("600000macs", "macs", 600_000, 600_000)),
        ("600kmacs", Limit("600kmacs", "macs", 600_000, 600_000)),
        ("0.6Mmacs", Limit("0.6Mmacs", "macs", 600_000, 600_000)),
        ("1.2Mflops", Limit("1.2Mflops", "macs", 600_000, 600_000)),
        ("1.2MFLOPs", Limit("1.2MFLOPs", "macs", 600_000, 600_000)),
        ("1.2Gflops", Limit("1.2Gflops", "macs", 600_000_000, 600_000_000)),
        ("0.001Tmacs", Limit("0.001Tmacs", "macs", 1_000_000_000, 1_000_000_000)),
        ("1.5Kparams", Limit("1.5Kparams", "params", 1_500, 1_500)),
        (" 50 %flops ", Limit("50 %flops", "macs", 500_000, 500_000)),
        ("20..80%flops", Limit("20..80%flops", "macs", 200_000, 800_000)),
        ("0.1..0.2Mmacs", Limit("0.1..0.2Mmacs", "macs", 100_000, 200_000)),
    ],
)
def test_what_may_remain_is_read_as_written(text: str, limit: Limit) -> None:
    assert Budget.parse(text).resolve(DENSE) == limit


@pytest.mark.parametrize("share", range(1, 101))
def test_every_whole_percentage_of_a_round_cost_is_exact(share: int) -> None:
    assert Budget.parse(f"{share}%flops").resolve(Cost(100, 100)).ceiling == share


@pytest.mark.parametrize("text", ["", "50", "50%", "abc", "-5%flops", "5 0%flops", "%flops", "50%%flops", "1e3macs"])
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BudgetError, match='"50%flops"'):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["0%flops", "130%flops", "0macs", "0.0Mparams"])
def test_shares_outside_of_zero_to_a_hundred_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="must lie above 0"):
        Budget.parse(text)


def test_an_unknown_resource_is_answered_with_the_nearest() -> None:
    with pytest.raises(BudgetError, match="Did you mean 'flops'"):
        Budget.parse("50%flop")


def test_a_band_starts_with_its_smaller_end() -> None:
    with pytest.raises(BudgetError, match="smaller number first"):
        Budget.parse("80..20%flops")
    assert Budget.parse("20..80%flops").is_band
    assert not Budget.parse("50%flops").is_band


def test_several_budgets_must_speak_of_different_resources() -> None:
    assert [budget.resource for budget in parse_budgets(["50%flops", "40%params"])] == ["macs", "params"]
    assert parse_budgets(Budget.parse("50%flops"))[0].limit == 0.5
    with pytest.raises(BudgetError, match="'50%flops', '60Mmacs' limit the same resource twice"):
        parse_budgets(["50%flops", "60Mmacs"])
    with pytest.raises(BudgetError, match="No budget"):
        parse_budgets([])
