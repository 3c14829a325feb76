"""Coverage as a Markdown page: which networks of which family can be pruned, beside what other tools make of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

KIND, PEERS = "coverage", "coverage-peers"
PASSED = "pass"

_INTRODUCTION = """# Coverage

Every network of a family, with random weights, on its way through autoprune: traced, cut to a random structure that
keeps half of the FLOPs (a random one where half is out of reach), run, compared in float64 with the dense network in
which the removed channels are zero, counted and compared with the computed cost to the last MAC and parameter, saved,
and loaded and run in a fresh process. `pass` means that all of it held. *Reachable* is the share of the MACs that is
gone when every group is at one channel. What is never cut is frozen; outputs, which nobody may cut, are not listed.
"""


def coverage_page(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of coverage files, those of peers among them."""
    peers = [content for content in contents if content.get("kind") == PEERS]
    sections = [_section(content, peers) for content in contents if content.get("kind") == KIND]
    return "\n".join([_INTRODUCTION, *sections])


def summary_line(content: Mapping[str, Any]) -> str:
    """Returns how many networks of a coverage file pass, and how many reach half of their FLOPs."""
    rows = content["rows"]
    passed, half = sum(row["outcome"] == PASSED for row in rows), sum(bool(row["half"]) for row in rows)
    return f"{passed} of {len(rows)} networks pass, {half} can reach 50 % of their FLOPs"


def _section(content: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]) -> str:
    versions = content["versions"]
    stack = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm") if versions.get(name))
    rows = [row for item in peers for row in item["rows"]]
    tools = list(dict.fromkeys(tool for item in peers for tool in item["tools"] if _about(item, content)))
    found = {(row["model"], row["tool"]): row for row in rows}
    lines = [
        f"## {content['family']}",
        "",
        f"{summary_line(content)}{'' if content['complete'] else ' (stopped before its end)'}.",
        *(_peer_line(tool, content["rows"], found) for tool in tools),
        "",
        f"`{content['command']}`, commit {str(content['commit'])[:12]}, {content['date']}, "
        f"{content['hardware']['processor']}, {stack}.",
        "",
        "| " + " | ".join(["network", "groups", "reachable", "half", "autoprune", *tools, "s", "never cut"]) + " |",
        "| " + " | ".join(["---"] * (7 + len(tools))) + " |",
    ]
    for row in content["rows"]:
        others = [_peer_cell(found.get((row["model"], tool))) for tool in tools]
        cells = [
            row["model"].partition("/")[2],
            str(row["groups"]),
            f"{100 * row['reachable']:.1f} %",
            "yes" if row["half"] else "no",
            _plain(row["outcome"]),
            *others,
            f"{row['seconds']:.0f}",
            _plain(_never_cut(row["frozen"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _about(peer: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    return bool({row["model"] for row in peer["rows"]} & {row["model"] for row in content["rows"]})


def _peer_line(tool: str, rows: Sequence[Mapping[str, Any]], found: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    tried = [found[row["model"], tool] for row in rows if (row["model"], tool) in found]
    # Numbers are those of one network; without them the same failure of several is the same text.
    failures = Counter(re.sub(r"\d+", "N", item["outcome"]) for item in tried if item["outcome"] != PASSED)
    passed = len(tried) - failures.total()
    reasons = "".join(f"; {count}: {_plain(reason)}" for reason, count in failures.most_common())
    return f"{tool}: {passed} of {len(tried)} are cut to half of their FLOPs and run{reasons}."


def _peer_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    kept = "" if row.get("retained") is None else f" ({100 * row['retained']:.0f} % kept)"
    return _plain(row["outcome"]) + kept


def _never_cut(frozen: Sequence[Mapping[str, Any]]) -> str:
    """Returns the reasons for frozen layers but those of the outputs, each with how many layers it holds for."""
    return "; ".join(
        f"{item['reason'].partition(':')[0]} ({item['layers']})"
        for item in frozen
        if not item["reason"].startswith("network output")
    )


def _plain(text: str) -> str:
    """Returns a text that can stand in a cell."""
    return text.replace("|", "/").replace("\n", " ")
