import numpy as np
import pytest
from recorded_table import recorded_table

from autoprune.core.candidate import Candidate
from autoprune.errors import ConfigError, RunError
from autoprune.report.records.progress import kendall_tau
from autoprune.testing import resnet_landscape, table_names, tabular_landscape
from autoprune.testing.landscape import SyntheticLandscape
from autoprune.testing.table import Table


@pytest.fixture(scope="module")
def truth() -> SyntheticLandscape:
    return resnet_landscape(seed=5, blocks=1, rungs=2, budget="20..80%flops", coupled=True)


@pytest.fixture(scope="module")
def table(truth: SyntheticLandscape) -> Table:
    return recorded_table(truth, structures=200, failed=(3, 7))


def test_a_table_comes_back_from_its_file_as_it_was(table: Table, tmp_path) -> None:
    table.save(tmp_path / "a.npz")
    again = Table.load(tmp_path / "a.npz")
    assert (again.groups, again.ladder, again.phases) == (table.groups, table.ladder, table.phases)
    assert (again.cost_model.terms, again.failures) == (table.cost_model.terms, table.failures)
    assert again.provenance == table.provenance
    np.testing.assert_array_equal(again.widths, table.widths)
    np.testing.assert_allclose(again.scores, table.scores, atol=1e-6)
    for left, right in zip(again.profile.groups, table.profile.groups, strict=True):
        np.testing.assert_allclose(left.reconstruction_error, right.reconstruction_error, atol=1e-6)
        assert left.dead_share == pytest.approx(right.dead_share)


def test_what_is_no_table_is_refused_in_one_line(table: Table, tmp_path) -> None:
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(ConfigError, match=r"text\.npz is no recorded table"):
        Table.load(tmp_path / "text.npz")
    with pytest.raises(ConfigError, match=r"no recorded table 'nothing'\. Known: [^:]*$"):
        Table.load("nothing")
    table.save(tmp_path / "old.npz")
    with np.load(tmp_path / "old.npz") as file:
        arrays = dict(file)
    arrays["meta"] = np.frombuffer(arrays["meta"].tobytes().replace(b'"format": 1', b'"format": 0'), dtype=np.uint8)
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(RunError, match="has format 0"):
        Table.load(tmp_path / "old.npz")


def test_between_the_records_the_truth_is_interpolated_within_its_stated_error(
    table: Table, truth: SyntheticLandscape
) -> None:
    landscape = tabular_landscape(table, budget="20..80%flops")
    unseen = truth.space.sample(60, np.random.default_rng(9))
    pairs = [(truth.accuracy(one), landscape.accuracy(one)) for one in unseen]
    error = np.sqrt(np.mean([(left - right) ** 2 for left, right in pairs]))
    recorded, left_out = landscape.left_out()
    stated = np.sqrt(np.mean((recorded - left_out) ** 2))
    assert len(recorded) == len(table) - 2
    assert error < 1.5 * stated < 0.03
    assert kendall_tau(pairs) > 0.9


def test_the_noise_is_a_function_of_the_structure_and_as_large_as_the_error(table: Table) -> None:
    landscape = tabular_landscape(table, seed=1)
    rung = landscape.ladder.top
    scores, means = [], []
    for number, structure in enumerate(landscape.space.sample(200, np.random.default_rng(1))):
        candidate = Candidate(number, structure, landscape.space.cost(structure), rung, number, "me")
        scores.append(landscape.evaluate(candidate).score)
        assert landscape.evaluate(candidate).score == scores[-1]
        means.append(landscape.accuracy(structure))
    logits = [np.log(np.array(values) / (1 - np.array(values))) for values in (scores, means)]
    assert np.std(logits[0] - logits[1]) == pytest.approx(landscape.noise, rel=0.3)


def test_a_lower_rung_is_cheaper_and_only_climbed_when_asked(table: Table) -> None:
    one, two = tabular_landscape(table), tabular_landscape(table, rungs=2)
    structure = one.space.uniform()

    def evaluated(landscape, rung):
        return landscape.evaluate(Candidate(0, structure, landscape.space.cost(structure), rung, 0, "me"))

    assert [rung.name for rung in one.ladder.rungs] == ["sequential"]
    first, last = (evaluated(two, rung) for rung in two.ladder.rungs)
    assert evaluated(one, one.ladder.top).score == last.score
    assert first.seconds < last.seconds
    assert first.score != last.score


@pytest.mark.parametrize("name", table_names())
def test_shipped_tables_are_small_say_where_they_come_from_and_foretell_what_they_have_not_seen(name: str) -> None:
    landscape = tabular_landscape(name, budget="50%flops")
    provenance = landscape.table.provenance
    assert {"command", "commit", "date", "weights", "data", "seed", "score"} <= provenance.keys()
    assert len(landscape.table) >= 150
    recorded, left_out = landscape.left_out()
    assert kendall_tau(list(zip(recorded, left_out, strict=True))) > 0.85
