"""Which faults `make mutants` puts into the code, and which tests it asks."""

import ast

import pytest

from tests.support.mutants import __main__ as mutants
from tests.support.mutants.coverage_map import CoverageMap
from tests.support.mutants.faults import faults


def faulty(source):
    """Returns each fault of a source with what the source becomes."""
    return {fault.what: fault.applied(source) for fault in faults(source)}


@pytest.mark.parametrize(
    ("source", "what", "after"),
    [
        ("a < b", "< becomes <=", "a <= b"),
        ("é = [ä, c] is not d", "is not becomes is", "é = [ä, c] is d"),
        ("a and b and c", "and becomes or", "a and b or c"),
        ("a + b", "+ becomes -", "a - b"),
        ("(a) // (b)", "// becomes *", "(a) * (b)"),
        ("not a", "not dropped", "a"),
        ("a[0]", "0 becomes 1", "a[1]"),
        ("a = False", "False becomes True", "a = True"),
        ("if a or b: c", "condition negated", "if (not (a or b)): c"),
        ("max(a)", "max becomes min", "min(a)"),
        ("f(a, b, key=c, d=e)", "key= dropped", "f(a, b, d=e)"),
        ("try: a\nexcept B as c: d", "B not caught", "try: a\nexcept () as c: d"),
        ("try: a\nexcept (B, C): d", "C not caught", "try: a\nexcept (B): d"),
        ("with suppress(A, B): c", "A not caught", "with suppress(B): c"),
        ("a.b = c", "statement deleted", "pass"),
        ("for a in b:\n  raise C", "statement deleted", "for a in b:\n  pass"),
    ],
)
def test_a_fault_is_one_small_change(source, what, after):
    assert faulty(source)[what] == after


@pytest.mark.parametrize(
    "source",
    [
        "assert a < b",
        '"""A docstring."""',
        "_log.info(a + b, c=1)",
        "import a",
        "x: 'Literal[0]'",
        "a = zip(b, c, strict=True)",
        "f'{a + b}'",
        "a = 30",
        "[a] + b",
    ],
)
def test_what_only_a_person_or_a_checker_reads_is_left_as_it_is(source):
    assert faults(source) == []


@pytest.fixture(scope="module")
def drawn():
    return mutants.sample(60, seed=1)


def test_each_fault_of_the_package_is_valid_python_on_the_line_that_it_names(drawn):
    for mutant in drawn[:25]:
        source = (mutants.REPOSITORY / mutant.module).read_text()
        changed = mutant.fault.applied(source)
        ast.parse(changed)
        pairs = enumerate(zip(source.splitlines(), changed.splitlines(), strict=False), start=1)
        first = next(number for number, (before, after) in pairs if before != after)
        assert first <= mutant.fault.line, mutant


def test_a_sample_is_the_same_for_the_same_seed_and_takes_two_mutants_of_a_module_at_most(drawn):
    assert drawn == mutants.sample(60, seed=1)
    modules = [mutant.module for mutant in drawn]
    assert len(drawn) == 60 and max(map(modules.count, modules)) <= 2


def test_a_line_concerns_the_tests_that_execute_it_and_those_whose_fixture_did_the_fastest_first():
    measured = CoverageMap(
        contexts={"a.py": {1: ["", "slow"], 2: ["fixture job"], 3: [""]}},
        durations={"slow": 2.0, "uses": 0.1, "other": 0.1},
        users={"job": {"uses", "deselected"}},
    )
    assert measured.tests("a.py", 1) == ["slow"]
    assert measured.tests("a.py", 2) == ["uses"]
    assert measured.tests("a.py", 3) == ["uses", "slow"]  # Executed by an import alone.
    assert measured.tests("b.py", 1) == []
