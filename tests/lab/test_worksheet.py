"""The worksheet's numbers: the design's worked ones, torch's, and plain Python's."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from qkv.errors import QkvError
from qkv.lab.worksheet_copies import as_latex, as_numpy
from qkv.lab.worksheet_examples import Example, examples
from qkv.lab.worksheets import Worked, read_sheet, work

EXAMPLES = {example.id: example for example in examples()}


def worked(name: str, **changes: Any) -> Any:
    return work(read_sheet({**EXAMPLES[name].sheet, **changes}))


def drawn(rng: np.random.Generator, heads: int = 3) -> dict[str, Any]:
    """A sheet whose axes all have sizes of their own: T 5, D 7, C 2, Cv 4, out 11."""
    shapes = {
        "x": (5, 7), "w_q": (7, heads * 2), "w_k": (7, heads * 2), "w_v": (7, heads * 4),
        "w_o": (heads * 4, 11),
    }  # fmt: skip
    found: dict[str, Any] = {n: rng.normal(size=shape).tolist() for n, shape in shapes.items()}
    return {**found, "heads": heads}


# The design's table


@pytest.mark.parametrize(
    ("name", "weights", "mixed"),
    [
        ("third", [1 / 3, 1 / 3, 1 / 3, 0], [3]),
        ("third-unmasked", [0.0009, 0.0009, 0.0009, 0.997], [0.008]),
        ("third-zero", [0.297, 0.297, 0.297, 0.109], [2.67]),
        ("third-after", [0.0009, 0.0009, 0.0009, 0], [0.008]),
        ("second", [0.5, 0.5, 0], [3]),
        ("scaled", [0.140, 0.576, 0.284], [0.424, 1.436]),
        ("scaled-not", [0.090, 0.665, 0.245], [0.335, 1.575]),
    ],
)
def test_the_worked_numbers(name: str, weights: list[float], mixed: list[float]) -> None:
    done = worked(name)
    assert done.tables["pattern"][0, 0] == pytest.approx(weights, abs=6e-4)
    assert done.tables["mixed"][0, 0] == pytest.approx(mixed, abs=3e-3 if mixed == [2.67] else 6e-4)


def test_the_numbers_on_the_way() -> None:
    third, second, scaled = worked("third"), worked("second"), worked("scaled")
    assert third.tables["exponentials"][0, 0] == pytest.approx([math.e] * 3 + [0])
    assert third.total[0, 0] == pytest.approx(8.155, abs=5e-4)
    assert second.tables["scores"][0, 0].tolist() == [1, 1, 5]
    assert scaled.tables["scores"][0, 0].tolist() == [1, 3, 2]
    assert scaled.tables["scaled"][0, 0] == pytest.approx([0.707, 2.121, 1.414], abs=5e-4)
    assert worked("third-after").weights[0, 0] == pytest.approx(0.0027, abs=5e-5)


def test_without_the_scale_the_softmax_is_nearly_one_hot_and_its_gradient_nearly_gone() -> None:
    right, wrong = worked("wide"), worked("wide-not")
    later = slice(1, None)  # the first token has nothing to choose from
    assert (wrong.tables["pattern"][0, later].max(axis=-1) > 0.97).all()
    assert (wrong.gradient[0, later] < right.gradient[0, later] / 10).all()
    assert (wrong.entropy[0, later] < right.entropy[0, later] / 10).all()


# Against others


def test_it_is_torchs_attention(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    asked = drawn(rng)
    done = work(read_sheet(asked))
    x, w_q, w_k, w_v, w_o = (
        torch.tensor(asked[name], dtype=torch.float64) for name in ("x", "w_q", "w_k", "w_v", "w_o")
    )
    q, k, v = ((x @ w).unflatten(-1, (3, -1)).transpose(0, 1) for w in (w_q, w_k, w_v))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    output = mixed.transpose(0, 1).flatten(1) @ w_o
    assert np.allclose(done.tables["mixed"], mixed.numpy(), rtol=1e-12)
    assert done.output is not None
    assert np.allclose(done.output, output.numpy(), rtol=1e-12)


@pytest.mark.parametrize("mask", ["causal", "none", "zero", "after"])
@pytest.mark.parametrize("scale", [None, 1, -0.3])
def test_every_mask_and_scale_is_plain_pythons(
    rng: np.random.Generator, mask: str, scale: float | None
) -> None:
    asked = {**drawn(rng), "mask": mask, "scale": scale}
    done = work(read_sheet(asked))
    times = 2**-0.5 if scale is None else scale
    for h in range(3):
        q, k, v = (done.tables[name][h].tolist() for name in ("q", "k", "v"))
        for i in range(5):
            row = []
            for j in range(5):
                scaled = times * sum(a * b for a, b in zip(q[i], k[j], strict=True))
                shut = {"causal": -math.inf, "zero": 0.0}.get(mask, scaled)
                row.append(scaled if j <= i else shut)
            powers = [math.exp(x) for x in row]
            p = [power / sum(powers) for power in powers]
            entropy = -sum(x * math.log(x) for x in p if x > 0)
            slopes = [p[a] * ((a == b) - p[b]) for a in range(5) for b in range(5)]
            assert done.entropy[h, i] == pytest.approx(entropy)
            assert done.gradient[h, i] == pytest.approx(math.hypot(*slopes))
            if mask == "after":
                p = [x if j <= i else 0.0 for j, x in enumerate(p)]
            assert done.tables["pattern"][h, i] == pytest.approx(p)
            assert done.weights[h, i] == pytest.approx(sum(p))
            out = [sum(x * value[c] for x, value in zip(p, v, strict=True)) for c in range(4)]
            assert done.tables["mixed"][h, i] == pytest.approx(out)


def test_the_gradient_is_what_weights_do_when_scores_change() -> None:
    row, step = np.array([0.3, -1.2, 2.0, 0.7]), 1e-6

    def pattern(scores: np.ndarray[Any, Any]) -> Any:
        asked = {"scores": [scores.tolist()], "v": [[1]] * 4, "mask": "none"}
        return work(read_sheet(asked))

    columns = [
        (pattern(row + e).tables["pattern"] - pattern(row - e).tables["pattern"]).ravel() / 2e-6
        for e in np.eye(4) * step
    ]
    norm = float(np.linalg.norm(np.array(columns)))
    assert pattern(row).gradient[0, 0] == pytest.approx(norm, rel=1e-6)


# Changed by hand


def test_a_pinned_number_stands_and_what_follows_follows(rng: np.random.Generator) -> None:
    asked = drawn(rng)
    plain = work(read_sheet(asked))
    done = work(read_sheet({**asked, "pins": {"q.1.3.0": 9}}))
    assert done.tables["q"][1, 3, 0] == 9
    assert done.computed == {("q", 1, 3, 0): plain.tables["q"][1, 3, 0]}
    changed = ~np.isclose(done.tables["scores"], plain.tables["scores"])
    assert np.argwhere(changed).tolist() == [[1, 3, j] for j in range(5)]
    # q changed by x and W_Q instead gives the same.
    q, k, v = (np.concatenate(done.tables[name], axis=-1).tolist() for name in ("q", "k", "v"))
    again = work(read_sheet({"q": q, "k": k, "v": v, "w_o": asked["w_o"], "heads": 3}))
    assert np.allclose(again.output, done.output, rtol=1e-12)


@pytest.mark.parametrize("name", ["scores", "scaled", "masked", "exponentials", "pattern", "mixed"])
def test_what_came_before_a_pin_stays(rng: np.random.Generator, name: str) -> None:
    asked = drawn(rng)
    plain = work(read_sheet(asked))
    done = work(read_sheet({**asked, "pins": {f"{name}.2.4.1": 0.25}}))
    order = list(plain.tables)
    for at, table in enumerate(order):
        same = np.array_equal(done.tables[table], plain.tables[table])
        assert same == (at < order.index(name)), table
    assert not np.allclose(done.output, plain.output)


def test_a_pinned_score_of_a_later_token_moves_nothing(rng: np.random.Generator) -> None:
    asked = drawn(rng)
    done = work(read_sheet({**asked, "pins": {"scores.0.1.3": 1e6}}))
    assert np.array_equal(done.output, work(read_sheet(asked)).output)


def test_a_masked_number_may_be_hidden_or_shown(rng: np.random.Generator) -> None:
    asked = drawn(rng)
    plain = work(read_sheet(asked))
    hidden = work(read_sheet({**asked, "pins": {"masked.1.3.2": None}}))
    # Without the hidden token the others keep their shares of what is left.
    shares = np.delete(plain.tables["pattern"][1, 3], 2)
    assert hidden.tables["pattern"][1, 3, 2] == 0
    left = np.delete(hidden.tables["pattern"][1, 3], 2)
    assert left == pytest.approx(shares / shares.sum(), rel=1e-12)
    # A later token that is let in is looked at as if nothing had been masked in that row.
    scaled = plain.tables["scaled"][1, 0]
    pins = {f"masked.1.0.{at}": float(scaled[at]) for at in range(1, 5)}
    shown = work(read_sheet({**asked, "pins": pins}))
    free = work(read_sheet({**asked, "mask": "none"}))
    assert shown.tables["pattern"][1, 0] == pytest.approx(free.tables["pattern"][1, 0], rel=1e-12)


def test_exponentials_changed_by_hand_share_out_as_they_are() -> None:
    pins = {f"exponentials.0.0.{at}": value for at, value in enumerate([3, 0, 1])}
    asked = {"scores": [[1, 2, 3]], "v": [[4], [100], [8]], "pins": pins}
    done = work(read_sheet(asked))
    assert done.tables["pattern"].tolist() == [[pytest.approx([0.75, 0, 0.25])]]
    assert done.tables["mixed"].ravel().tolist() == pytest.approx([5])
    none = work(read_sheet({**asked, "pins": dict.fromkeys(pins, 0)}))
    assert none.tables["pattern"].tolist() == [[[0, 0, 0]]]
    # One that is beside a power too large for floats is as nothing.
    large = work(
        read_sheet({"scores": [[1e5, 1]], "v": [[1], [2]], "pins": {"exponentials.0.0.1": 9}})
    )
    assert large.tables["pattern"].tolist() == [[[1, 0]]]


def test_an_output_changed_by_hand_stands(rng: np.random.Generator) -> None:
    done = work(read_sheet({**drawn(rng), "pins": {"output.0.2.1": 7}}))
    assert done.output is not None
    assert done.output[2, 1] == 7
    assert np.allclose(np.delete(done.output, 1, 1), np.delete(_joined(done), 1, 1))
    assert list(done.computed) == [("output", 0, 2, 1)]


def _joined(done: Worked) -> Any:
    return np.concatenate(list(done.tables["mixed"]), axis=-1) @ done.sheet.given["w_o"]


# Copies


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_script_runs_and_prints_the_output(name: str, tmp_path: Path) -> None:
    done = worked(name)
    path = tmp_path / "sheet.py"
    path.write_text(as_numpy(done), encoding="utf-8")
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    last = done.tables["mixed"] if done.output is None else done.output
    numbers = [float(x) for x in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", ended.stdout)]
    assert numbers[-last.size :] == pytest.approx(last.ravel().tolist(), abs=6e-4)


def test_the_script_computes_what_is_shown_or_what_floats_can(tmp_path: Path) -> None:
    for largest in (3, 2000, -2000):
        given = {"scores": [[largest, largest - 1]], "v": [[1], [2]]}
        done = work(read_sheet(given))
        told: dict[str, Any] = {"print": lambda *_: None}
        exec(as_numpy(done), told)
        assert np.allclose(told["pattern"], done.tables["pattern"], rtol=1e-12)
    done = worked("whole")
    exec(as_numpy(done), told)
    assert np.allclose(told["exponentials"], done.tables["exponentials"], rtol=1e-12)


def test_the_script_has_what_was_changed_by_hand(rng: np.random.Generator) -> None:
    pins = {"q.1.3.0": 9, "scores.0.2.2": -1, "scaled.1.0.0": 2, "pattern.2.4.1": 0.5}
    done = work(read_sheet({**drawn(rng), "mask": "after", "pins": {**pins, "mixed.0.0.3": 7}}))
    told: dict[str, Any] = {"print": lambda *_: None}
    exec(as_numpy(done), told)
    assert np.allclose(told["output"], done.output, rtol=1e-12)
    late = {"masked.0.1.4": 0.5, "masked.2.1.0": None, "masked.2.1.1": None}
    late |= {"exponentials.1.2.0": 3, "output.0.4.1": -2}
    done = work(read_sheet({**drawn(rng), "pins": late}))
    exec(as_numpy(done), told)
    assert np.allclose(told["pattern"], done.tables["pattern"], rtol=1e-12)
    assert np.allclose(told["output"], done.output, rtol=1e-12)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=list(EXAMPLES))
def test_the_formulas_are_whole(example: Example) -> None:
    text = as_latex(work(read_sheet(example.sheet)))
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert not re.search(r"\^\{[^{}]*\}\^", text)  # two superscripts in a row stop TeX
    assert "−" not in text
    assert "∞" not in text


# Asked by a page


def test_a_page_is_told_every_step(client: TestClient) -> None:
    listed = client.get("/api/worksheet/examples").json()
    assert [one["id"] for one in listed] == list(EXAMPLES)
    for example in listed:
        told = client.post("/api/worksheet", json=example["sheet"]).json()
        assert set(told["tables"]) >= {"v", "scores", "scaled", "masked", "pattern", "mixed"}
        assert len(told["sentences"][0]) == len(told["places"])
    told = client.post("/api/worksheet", json=EXAMPLES["third"].sheet).json()
    assert told["tables"]["masked"] == [[[1, 1, 1, None]]]
    assert told["sentences"] == [
        ["Token 3 gives .333 to each of tokens 1, 2 and 3, and takes in 3."]
    ]
    assert told["sound"] is None
    wrong = client.post("/api/worksheet", json={**EXAMPLES["third"].sheet, "mask": "none"}).json()
    assert wrong["sound"]["entropy"] == told["rows"]["entropy"]


def test_numbers_beyond_floats_are_told_as_none(client: TestClient) -> None:
    asked = {"scores": [[1e6, 1]], "v": [[1], [2]]}
    told = client.post("/api/worksheet", json=asked).json()
    assert told["tables"]["exponentials"][0][0][0] is None
    assert told["tables"]["pattern"] == [[[1, 0]]]


@pytest.mark.parametrize("kind", ["latex", "numpy"])
def test_copies_are_handed_out(client: TestClient, kind: str) -> None:
    asked = {"kind": kind, "sheet": EXAMPLES["whole"].sheet}
    text = client.post("/api/worksheet/copy", json=asked).json()["text"]
    assert ("pmatrix" in text or "bmatrix" in text) == (kind == "latex")
    assert client.post("/api/worksheet/copy", json={**asked, "kind": "word"}).status_code == 400
    assert client.post("/api/worksheet/copy", json={"kind": kind}).status_code == 400


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": None}, "no q"),
        ({"v": [[1]]}, "one value for each key"),
        ({"x": [[1, 2]]}, "W_Q"),
        ({"x": []}, "no matrix"),
        ({"x": [[1], [1, 2]]}, "no matrix"),
        ({"x": [["1", 0, 0]]}, "a number from"),
        ({"x": [[True, 0, 0]]}, "a number from"),
        ({"x": [[10**400, 0, 0]]}, "a number from"),
        ({"x": [[float("nan"), 0, 0]]}, "a number from"),
        ({"x": [[0, 0, 0]] * 17}, "at most 16"),
        ({"heads": 0}, "1 to 8"),
        ({"heads": 3}, "multiple of the heads"),
        ({"mask": "future"}, "causal, none, zero, after"),
        ({"mask": []}, "causal, none, zero, after"),
        ({"scale": "1"}, "a number from"),
        ({"places": [1]}, "a place for each"),
        ({"places": [9, 9, 9, 9]}, "a place for each"),
        ({"places": "1"}, "a token's for each query"),
        ({"pins": []}, None),
        ({"pins": [1]}, "numbers by place"),
        ({"pins": {"q.0.9.9": 1}}, "a place in the table"),
        ({"pins": {"output.1.0.0": 1}}, "a place in the table"),
        ({"pins": {"joined.0.0.0": 1}}, "one of q"),
        ({"pins": {"scores.0.0.0": None}}, "a number from"),
        ({"pins": {"exponentials.0.0.0": -1}}, "0 or more"),
        ({"pins": {"q.0.0": 1}}, "one of q"),
        ({"pins": {"scores.0.0.0": "x"}}, "a number from"),
        ({"__class__": 1}, "__class__"),
        ({"w_o": [[1]]}, "W_O"),
    ],
)
def test_what_cannot_be_worked_is_said_in_a_line(
    client: TestClient, changes: dict[str, Any], says: str | None
) -> None:
    asked = {**EXAMPLES["whole"].sheet, **changes}
    if says is None:
        work(read_sheet(asked))
        return
    with pytest.raises(QkvError) as error:
        work(read_sheet(asked))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    if "nan" not in str(changes):  # which JSON has no word for
        assert client.post("/api/worksheet", json=asked).status_code == 400
