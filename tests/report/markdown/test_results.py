"""Markdown of results files: which comparisons stand in one table."""

import json

from autoprune.report.markdown.results import results_table

ROW = {"own": 0.5, "reconstructed": 0.6, "seconds": 1.0}


def comparison(budget, macs, accuracies, **changes):
    rows = [
        {**ROW, "budget": budget, "method": name, "macs": macs, "finetuned": value}
        for name, value in accuracies.items()
    ]
    return {
        "kind": "comparison",
        "experiment": f"at-{macs}.toml",
        "complete": True,
        "model": "net",
        "data": "digits",
        "weights": "1f",
        "dense": {"accuracy": 0.9},
        "images": {"test": 1000},
        "finetune_epochs": 1,
        "method_epochs": 0.5,
        "candidates": 20,
        "rows": rows,
        **changes,
    }


def written(folder, *contents):
    for index, content in enumerate(contents):
        (folder / f"{index}.json").write_text(json.dumps(content))
    return results_table(folder).split("\n\n")


def test_budgets_recorded_apart_stand_in_one_table_the_widest_first(tmp_path):
    caption, table = written(
        tmp_path,
        comparison("30%flops", 30, {"l1": 0.7, "uniform": 0.8}),
        comparison("50%flops", 50, {"l1": 0.875, "uniform": 0.85}),
    )
    assert "[at-30](experiments/at-30.toml), [at-50](experiments/at-50.toml)" in caption
    assert "0.5 epochs before" in caption
    assert "the finetune 1 epoch:" in caption
    head, _, first, second = table.splitlines()
    assert head.split(" | ")[1::4] == ["50%flops: its own way", "30%flops: its own way"]
    assert first == "| l1 | **50.00** | **60.00** | **87.50** | 1.0 | **50.00** | **60.00** | 70.00 | 1.0 |"
    assert second.startswith("| uniform |")


def test_comparisons_that_differ_in_more_than_the_budget_stand_apart(tmp_path):
    for change in ({"weights": "2e"}, {"finetune_epochs": 2}, {"dense": {"accuracy": 0.8}}, {"complete": False}):
        parts = written(
            tmp_path,
            comparison("50%flops", 50, {"l1": 0.8}),
            comparison("30%flops", 30, {"l1": 0.7}, **change),
        )
        assert len(parts) == 4, change
