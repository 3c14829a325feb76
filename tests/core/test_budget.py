import pytest

from autoprune.core.budget import Budget, Limit, parse_budgets
from autoprune.core.cost import Cost
from autoprune.errors import BudgetError

DENSE = Cost(macs=1_000_000, params=40_000, others={"weights": 160_000, "peak": 12_000, "latency": 2_000_000})


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
        ("20MB", Limit("20MB", "weights", 20_000_000, 20_000_000)),
        ("500 KB", Limit("500 KB", "weights", 500_000, 500_000)),
        ("0.5GB", Limit("0.5GB", "weights", 500_000_000, 500_000_000)),
        ("2MiB", Limit("2MiB", "weights", 2**21, 2**21)),
        ("50%MB", Limit("50%MB", "weights", 80_000, 80_000)),
        ("50%weights", Limit("50%weights", "weights", 80_000, 80_000)),
        ("peak 300MB", Limit("peak 300MB", "peak", 300_000_000, 300_000_000)),
        ("peak 50%", Limit("peak 50%", "peak", 6_000, 6_000)),
        ("50%peak", Limit("50%peak", "peak", 6_000, 6_000)),
        ("peak 25..75%", Limit("peak 25..75%", "peak", 3_000, 9_000)),
        ("5ms", Limit("5ms", "latency", 5_000_000, 5_000_000)),
        ("800us", Limit("800us", "latency", 800_000, 800_000)),
        ("0.1s", Limit("0.1s", "latency", 100_000_000, 100_000_000)),
        ("60%latency", Limit("60%latency", "latency", 1_200_000, 1_200_000)),
        ("50%ms", Limit("50%ms", "latency", 1_000_000, 1_000_000)),
    ],
)
def test_what_may_remain_is_read_as_written(text: str, limit: Limit) -> None:
    assert Budget.parse(text).resolve(DENSE) == limit


@pytest.mark.parametrize("share", range(1, 101))
def test_every_whole_percentage_of_a_round_cost_is_exact(share: int) -> None:
    assert Budget.parse(f"{share}%flops").resolve(Cost(100, 100)).ceiling == share


@pytest.mark.parametrize(
    "text", ["", "50", "50%", "abc", "-5%flops", "5 0%flops", "%flops", "50%%flops", "1e3macs", "peak 300", "peak MB"]
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BudgetError, match='"50%flops"'):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("20-80%flops", r"Write a range as 20\.\.80%flops\."),
        ("20%..80%flops", r"Write a range as 20\.\.80%flops\."),
        ("2 to 8ms", r"Write a range as 2\.\.8ms\."),
        ("50%flops,40%params", "Give each of several limits as a budget of its own"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(BudgetError, match=hint):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["9" * 400 + "flops", "1.." + "9" * 400 + "Gflops"])
def test_a_number_without_end_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(BudgetError, match="is larger than any network") as raised:
        Budget.parse(text)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("text", ["0%flops", "130%flops", "0macs", "0.0Mparams"])
def test_shares_outside_of_zero_to_a_hundred_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="must lie above 0"):
        Budget.parse(text)


def test_an_unknown_resource_is_answered_with_the_nearest() -> None:
    with pytest.raises(BudgetError, match="Did you mean 'flops'"):
        Budget.parse("50%flop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20MBit", "Unknown resource 'mbit'"),
        ("5msec", "Did you mean 'ms'"),
        ("peek 300MB", "Unknown word 'peek'.*Did you mean 'peak'"),
        ("peak 5ms", "Unknown resource 'ms'.*in the budget 'peak 5ms'"),
        ("20latency", "Unknown resource 'latency'"),
    ],
)
def test_words_and_units_that_do_not_go_together_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message) as raised:
        Budget.parse(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "amount", "shown"),
    [
        ("20MB", 18_234_567, "18.3 MB"),
        ("500KB", 18_234_567, "18,235 KB"),
        ("50%weights", 18_234_567, "18.3 MB"),
        ("peak 2MiB", 2**20 + 1, "1.01 MiB"),
        ("5ms", 1_234_567, "1.24 ms"),
        ("50%flops", 1_234_567, "2,469,134 flops"),
        ("50%macs", 1_234_567, "1,234,567 macs"),
        ("1.2Mflops", 1_234_567, "2.47 Mflops"),
    ],
)
def test_amounts_are_shown_in_the_unit_of_the_user_and_never_too_small(text: str, amount: int, shown: str) -> None:
    limit = Budget.parse(text).resolve(DENSE)
    assert limit.shown(amount) == shown
    reachable = Budget.parse(shown.replace(",", "")) if text[0] != "p" else Budget.parse("peak " + shown)
    assert reachable.resolve(DENSE).ceiling >= amount


def test_a_share_of_what_is_not_known_is_one_clear_line() -> None:
    with pytest.raises(BudgetError, match="latency is not known"):
        Budget.parse("50%ms").resolve(Cost(100, 100))


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


@pytest.mark.parametrize(
    ("text", "end"), [("20..40%flops", "40%flops"), ("peak 1.5..3MB", "peak 3MB"), (" 2..5 ms", "5 ms")]
)
def test_a_range_is_no_limit_and_its_end_is_proposed_as_one(text, end):
    with pytest.raises(BudgetError, match=rf"is a range\. Write one limit, for example '{end}'"):
        Budget.parse_limit(text)
    assert Budget.parse_limit(end) == Budget.parse(end)
