"""How results files are read: the figures that an aim is held against, and whether they reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.benchmarks.peers.figures import standings

Content = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an aim is reached.

    Attributes:
        measured: the figures.
        reached: whether they do; None where nothing was aimed at but to know them.
    """

    measured: str
    reached: bool | None = None


def peers(view: str) -> Callable[[Content], Standing]:
    """Returns what counts wins, ties and losses against the peers, in one view of `peers.json`."""

    def judged(content: Content) -> Standing:
        counts = standings(content["networks"])[view]
        tied = f"{counts['tie']} tied, " if counts["tie"] else ""
        return Standing(f"{counts['win']} won, {tied}{counts['loss']} lost", counts["loss"] == 0)

    return judged


def trusted(network: str) -> Callable[[Content], Standing]:
    """Returns what looks for the score that ranks structures best among those of at most 1 % of a finetune's cost."""

    def judged(content: Content) -> Standing:
        figures = content["figures"][network]
        cheap = [proxy for proxy in figures["proxies"] if proxy["share"] <= 0.01 and proxy["tau"] is not None]
        best = max(cheap, key=lambda proxy: proxy["tau"])
        interval = f"{best['low']:.2f} to {best['high']:.2f}"
        cost = f"{100 * best['share']:.2f} % of {figures['finetune']['epochs']:g} epochs"
        return Standing(f"{best['name'].split()[0]}: {best['tau']:.2f} ({interval}) at {cost}", best["tau"] >= 0.8)

    return judged


def untrained(network: str, least_squares: Mapping[str, float]) -> Callable[[Content], Standing]:
    """Returns what compares accuracies without training, by retained share, with those of plain least squares."""

    def judged(content: Content) -> Standing:
        found = {
            share: content["figures"][network][f"retain {share}"]["sequential, channels by elimination damped by 0.1"]
            for share in least_squares
        }
        measured = " / ".join(f"{row['test']:.1f}" for row in found.values())
        return Standing(f"{measured} %", all(found[share]["test"] > old for share, old in least_squares.items()))

    return judged


def faster(key: str) -> Callable[[Content], Standing]:
    """Returns what reads the median ratio of every network of a file."""

    def judged(content: Content) -> Standing:
        ratios = {name: figures[key]["median"] for name, figures in content["figures"].items()}
        said = ", ".join(f"{name} {ratio:g} times" for name, ratio in ratios.items())
        return Standing(said, min(ratios.values()) > 1)

    return judged


def cut(content: Content) -> Standing:
    """Compares the time of a cut with Torch-Pruning's, of a network that may be changed and of one that may not."""
    ratios = {name: figures["ratio"]["median"] for name, figures in content["figures"].items()}
    said = [f"{name} {row['pruning alone']:g} and {row['copy and pruning']:g} times" for name, row in ratios.items()]
    return Standing(", ".join(said), all(row["pruning alone"] > 1 for row in ratios.values()))


def counted(content: Content) -> Standing:
    """Reads how many structures have their cost counted in a second."""
    speed = content["figures"]["structures_per_second"]["macs"]["median"]
    return Standing(f"{speed:,} a second for {content['figures']['network']}")


def proposed(names: tuple[str, ...]) -> Callable[[Content], Standing]:
    """Returns what reads the mean time of a proposal of some strategies."""

    def judged(content: Content) -> Standing:
        found, limit = content["figures"]["found"], content["figures"]["target_ms"]
        rows = {name: [each["mean_ms"] for each in found[name].values()] for name in names}
        said = ", ".join(f"`{name}` {' / '.join(f'{value:g}' for value in row)} ms" for name, row in rows.items())
        return Standing(said, all(value < limit for row in rows.values() for value in row))

    return judged


def simulated(content: Content) -> Standing:
    """Reads how soon simulated searches of many workers find what one finds with 100 candidates."""
    rows = content["figures"]["found"]["auto"]
    minutes = {workers: rows[workers]["seconds_to_target"] / 60 for workers in ("1", "64", "1024")}
    said = ", ".join(f"{workers} worker{'s' * (workers != '1')} {spent:.1f} min" for workers, spent in minutes.items())
    busy = min(row["utilisation"] for row in rows.values())
    return Standing(f"{said}; workers busy for {100 * busy:.1f} % or more")


def in_seconds(content: Content) -> Standing:
    """Reads how long EPruner takes, as published and within a budget."""
    rows = {
        name: [figures[way]["seconds"]["median"] for way in ("as published", "50 % of the FLOPs")]
        for name, figures in content["figures"].items()
    }
    said = ", ".join(f"{name} {row[0]:.2g} s, within a budget {row[1]:.2g} s" for name, row in rows.items())
    return Standing(said, max(max(row) for row in rows.values()) < 10)


def independent(content: Content) -> Standing:
    """Compares the time of channel independences with that of the published loop, and their values."""
    ratios, deviations = [], []
    for row in content["figures"]["shapes"].values():
        times = row["milliseconds_an_image"]
        ratios.append(times["published loop"]["median"] / times["autoprune"]["median"])
        deviations.append(row["largest_deviation_from_the_loop"]["autoprune"])
    said = f"{min(ratios):.0f} to {max(ratios):.0f} times as fast, by the layer's shape"
    return Standing(f"{said}; largest deviation {max(deviations):.0e}", min(ratios) > 1 and max(deviations) < 1e-3)


def published(method: str) -> Callable[[Content], Standing]:
    """Returns what compares a long finetune with the figure of a paper."""

    def judged(content: Content) -> Standing:
        [theirs] = [row["accuracy"] for row in content["published"] if row["method"] == method]
        ours = 100 * content["finetuned"]["accuracy"]
        return Standing(f"{ours:.2f} %, {ours - theirs:+.2f} points", ours >= theirs)

    return judged


def first(content: Content) -> Standing:
    """Compares the search with every other method of a comparison, finetuned, at each of its budgets."""
    behind = []
    for budget in dict.fromkeys(row["budget"] for row in content["rows"]):
        rows = {row["method"]: row["finetuned"] for row in content["rows"] if row["budget"] == budget}
        behind.append(100 * (rows["search"] - max(value for name, value in rows.items() if name != "search")))
    return Standing(", ".join(f"{lead:+.2f}" for lead in behind) + " points", min(behind) >= 0)


def regretted(content: Content) -> Standing:
    """Compares what the default misses of the best known structures with what the next best strategy does."""
    said, least = [], []
    for table, budgets in content["figures"]["found"].items():
        for rows in budgets.values():
            missed = {name: row["regret"][0] for name, row in rows.items() if name != "best_known"}
            ours = missed.pop("auto")
            other = min(missed, key=lambda name: missed[name])
            said.append(f"{table} {ours:.2f} points (`{other}` {missed[other]:.2f})")
            least.append(ours <= missed[other])
    return Standing(", ".join(said), all(least))
