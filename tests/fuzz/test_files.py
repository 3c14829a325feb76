"""Files that the program reads, mutated: ledgers, structures, weights. Never a traceback, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=6),
        st.sampled_from(["../../x", "/etc/passwd", "os:abort", "NaN", 10**400]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """Returns the folder of a small search, and what was prepared for it."""
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.inputs.problems import load_problem
    from autoprune.searching.search.api import run_search
    from autoprune.searching.search.preparation import prepare

    out = tmp_path_factory.mktemp("search") / "run"
    options = SearchOptions(
        model="toy_problem:network",
        data="toy_problem:sets",
        candidates=4,
        strategy="random",
        finetune_epochs=0.0,
        backend="serial",
        no_mlflow=True,
        out=out,
    )
    run_search(options, observer=NullObserver())
    return out, prepare(load_problem(options, NullObserver()), options, NullObserver())


@pytest.fixture
def kept(searched, folder, monkeypatch):
    """Copies the folder of the search here, and lets whatever takes long come from the search that was prepared."""
    out, prepared = searched
    shutil.copytree(out, "run")

    def concluded(prepared, study, report, observer, **others):
        from autoprune.errors import RunError

        raise RunError("The search would be finished here.")

    for module in ("search.running", "delivery.picking"):
        monkeypatch.setattr(
            f"autoprune.searching.{module}.prepare",
            lambda problem, options, observer, **_: replace(prepared, options=options),
        )
    monkeypatch.setattr("autoprune.searching.search.running._conclude", concluded)
    monkeypatch.setattr("autoprune.searching.search.running._evaluate", lambda *arguments: (None, False))
    monkeypatch.setattr("autoprune.searching.search.api.load_problem", lambda options, observer: prepared.problem)
    monkeypatch.setattr("autoprune.searching.delivery.picking.load_problem", lambda options, observer: prepared.problem)
    monkeypatch.setattr("autoprune.searching.delivery.picking.Finisher", lambda *a, **n: concluded(*[None] * 4))
    monkeypatch.setattr("autoprune.searching.inspection.networks.load_data", lambda *a, **n: prepared.problem.data)
    return Path("run")


def original(path):
    """Returns the bytes of a file as the search wrote it, whatever an earlier case has made of it."""
    whole = path.with_name(f"{path.name}.kept")
    if not whole.exists():
        shutil.copy(path, whole)
    return whole.read_bytes()


def checked(event):
    """Returns a line of a ledger with its right checksum, as whoever forges one would write it."""
    text = json.dumps(event, separators=(",", ":"))
    return f'{text[:-1]},"check":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


@st.composite
def mutated(draw, value):
    """Returns a JSON value with one thing in it replaced, taken away or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(mutated(value[key]))}
    if isinstance(value, dict) and draw(st.booleans()):
        keys = sorted(value)
        return {key: value[key] for key in keys if not keys or key != draw(st.sampled_from(keys))}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], *draw(st.sampled_from([[], [value[at]] * 2])), *value[at + 1 :]]
    return draw(JSON)


@given(data=st.data())
@pytest.mark.parametrize("command", [("search", "--resume", "run"), ("pick", "run", "--budget", "90%flops")])
def test_ledgers_with_right_checksums(sound, kept, command, data):
    lines = original(kept / "ledger.jsonl").splitlines()
    events = [{key: value for key, value in json.loads(line).items() if key != "check"} for line in lines]
    at = data.draw(st.integers(0, len(events) - 1))
    events[at] = data.draw(mutated(events[at]))
    (kept / "ledger.jsonl").write_bytes(
        b"".join(checked(event) if isinstance(event, dict) and event else b"[]\n" for event in events)
    )
    sound(*command)
    assert {path.name for path in Path().iterdir()} == {"run"}


@given(data=st.data())
def test_ledgers_with_other_bytes(sound, kept, data):
    content = original(kept / "ledger.jsonl")
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 60)))
    (kept / "ledger.jsonl").write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[end:])
    sound("search", "--resume", "run")


@given(data=st.data())
@pytest.mark.parametrize(
    "command",
    [("evaluate", "run"), ("cost", "toy_problem:network", "--widths", "run/incumbent/structure.json")],
    ids=["evaluate", "cost"],
)
def test_structures(sound, kept, command, data):
    path = kept / "incumbent" / "structure.json"
    path.write_text(json.dumps(data.draw(mutated(json.loads(original(path))))))
    sound(*command)
    assert {item.name for item in Path().iterdir()} == {"run"}


@given(content=st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)))
def test_widths_files(sound, kept, content):
    Path("run/w.json").write_bytes(content)
    sound("cost", "toy_problem:network", "--widths", "run/w.json")


@given(data=st.data())
def test_headers_of_safetensors(sound, kept, data):
    path = kept / "incumbent" / "model.safetensors"
    content = original(path)
    size = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(data.draw(mutated(json.loads(content[8 : 8 + size])))).encode()
    length = data.draw(st.sampled_from([len(header), 0, 1 << 62, len(header) + 9]))
    path.write_bytes(struct.pack("<Q", length) + header + content[8 + size : data.draw(st.sampled_from([None, -5]))])
    sound("evaluate", "run")


class _Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, call, *arguments):
        self._call, self._arguments = call, arguments

    def __reduce__(self):
        return (self._call, self._arguments)


def hostile(protocol):
    marks = [(os.system, "touch ran"), (exec, "open('ran', 'w')"), (open, "ran", "w"), (eval, "open('ran', 'w')")]
    return [pickle.dumps({"a": _Hostile(*mark)}, protocol=protocol) for mark in marks]


def zipped(data):
    """Returns a pickle in the archive that torch.save writes."""
    with zipfile.ZipFile("made.zip", "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/../../escaped", "x")
    content = Path("made.zip").read_bytes()
    Path("made.zip").unlink()
    return content


@given(data=st.data())
def test_weights_files(sound, kept, data):
    import torch

    buffer = io.BytesIO()
    torch.save({"stem.weight": torch.zeros(8, 1, 3, 3)}, buffer)
    sane = buffer.getvalue()
    evil = data.draw(st.sampled_from(hostile(data.draw(st.sampled_from([0, 2, 4])))))
    at = data.draw(st.integers(0, len(sane)))
    content = data.draw(
        st.sampled_from(
            [sane, sane[:at], sane[:at] + b"\xff" + sane[at + 1 :], evil, evil[: at % len(evil)], zipped(evil)]
        )
    )
    name = data.draw(st.sampled_from(["run/w.pt", "run/w.pth", "run/w.safetensors", "run/w"]))
    Path(name).write_bytes(data.draw(st.one_of(st.just(content), st.binary(max_size=200))))
    sound("trace", "toy_problem:network", "--weights", name)
    assert {item.name for item in Path().iterdir()} == {"run"}


DEEP = [b"[" * 100_000, b'{"a":' * 50_000, b"1" * 6000, b'{"format": ' + b"9" * 5000 + b"}", b"\xff\xfe{}", b"null"]


@given(data=st.data())
@pytest.mark.parametrize(
    "command", [("report", "run"), ("compare", "run", "run"), ("ui", "run")], ids=["report", "compare", "ui"]
)
def test_summaries(sound, kept, monkeypatch, command, data):
    monkeypatch.setattr("autoprune.cli.commands.serve", lambda command, environment: None)
    monkeypatch.setattr("autoprune.cli.commands._require_free", lambda port: None)
    monkeypatch.setattr("autoprune.searching.inspection.reporting.png", lambda drawing: b"")
    path = kept / "summary.json"
    content = json.dumps(data.draw(mutated(json.loads(original(path))))).encode()
    path.write_bytes(data.draw(st.sampled_from([content] * 9 + DEEP)))
    sound(*command)
    assert {item.name for item in Path().iterdir()} <= {"run", "compare.html"}


@given(data=st.data())
def test_saved_networks_that_are_finetuned(sound, kept, monkeypatch, data):
    monkeypatch.setattr("autoprune.searching.trainings.finetuning.carry_out", lambda task, observer: {})
    monkeypatch.setattr("autoprune.cli.render.show_training", lambda report: None)
    path = kept / "incumbent" / "structure.json"
    content = json.dumps(data.draw(mutated(json.loads(original(path))))).encode()
    path.write_bytes(data.draw(st.sampled_from([content] * 9 + DEEP)))
    sound("finetune", "run", "--no-distillation", "--no-mlflow", "--epochs", "1")


@given(content=st.sampled_from(DEEP))
@pytest.mark.parametrize(
    "name", ["ledger.jsonl", "incumbent/structure.json", "summary.json", "incumbent/model.safetensors"]
)
def test_files_that_are_deep_or_long(sound, kept, name, content):
    (kept / name).write_bytes(content)
    sound("search", "--resume", "run")
    sound("evaluate", "run")
    sound("cost", "toy_problem:network", "--widths", f"run/{name}")
