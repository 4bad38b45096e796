"""Lessons as pages and as text; what is wrong with one is said with its line."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qkv.errors import QkvError
from qkv.learn.formulas import FormulaError, formula_text, mathml
from qkv.learn.library import Library, check_library, load_library, own_library
from qkv.learn.prose import ProseError, as_html, as_plain_markdown, as_text, check_prose, term_ids

VOID = {"br", "hr", "img"}


class Markup(HTMLParser):
    """What HTML is made of; fails where its tags don't close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def every_part(library: Library) -> list[str]:
    return [part for entry in library.entries() for part in entry.parts]


def test_words_have_hues_terms_and_notes() -> None:
    html = as_html("A [query]{.q .term}, a *[key]{.k}*. [By *the way*.]{.note}")
    assert (
        '<a class="q term" href="learn?page=glossary#term-query" data-term="query">query</a>'
        in html
    )
    assert '<em><span class="k">key</span></em>' in html
    assert '<small class="note" role=note>By <em>the way</em>.</small>' in html


def test_a_term_is_found_by_any_of_its_names() -> None:
    terms = term_ids(own_library())
    assert 'data-term="rnn"' in as_html("A [recurrent network]{.term}.", terms=terms)
    assert 'data-term="kv-cache"' in as_html("[Caches]{.term #kv-cache}", terms=terms)
    assert 'data-term="softmax"' in as_html("[Softmax]{.term}", terms=terms)


@pytest.mark.parametrize(
    "typed",
    ["<script>alert(1)</script>", '<img src=x onerror="x">', "[a](javascript:alert(1))",
     '[w]{.q onclick="x" style="y"}', '[w]{.term #a"onmouseover="x}',
     "```figure <b>\n```", '```ask "><b>\n```', "`<b>`", "$\\text{<b>x</b>}$"],
)  # fmt: skip
def test_what_is_typed_is_text(typed: str) -> None:
    try:
        found = Markup(as_html(f"Words {typed}\n\n{typed}\n"))
    except QkvError:
        return
    assert not {"script", "img", "b"} & set(found.tags)
    for _, name, value in found.attributes:
        assert not name.startswith("on")
        assert name != "style"
        assert not (name == "href" and str(value).startswith("javascript"))


def test_blocks_hold_a_place() -> None:
    html = as_html('```figure mask\ncaption = "A & b"\nrow = 2\n```\n\n```ask why-mask\n```\n')
    found = Markup(html)
    assert ("figure", "data-figure", "mask") in found.attributes
    assert ("figure", "data-options", '{"row": 2}') in found.attributes
    assert "<figcaption>A &amp; b</figcaption>" in html
    assert ("div", "data-ask", "why-mask") in found.attributes


def test_tables_are_aligned_by_classes() -> None:
    html = as_html("| a | b |\n|---|--:|\n| 1 | 2 |\n")
    assert '<th scope="col" class="right">b</th>' in html
    assert '<td class="right">2</td>' in html
    assert "style" not in html


def test_numbers_are_put_in_wherever_they_stand() -> None:
    facts = {"a": ".333"}
    assert as_text("{{a}}, *{{a}}*, $x = {{a}}$", facts) == ".333, .333, x = .333"


@pytest.mark.parametrize(
    ("markdown", "line", "said"),
    [
        ("One.\n\nTwo {{none-such}}.", 3, "{{none-such}}"),
        ("One\ntwo\nthree $x_{$.", 3, "x_{"),
        ("One.\n\n$$\n\\nosuch x\n$$\n", 3, "\\nosuch"),
        ("One.\n\n$$\n\\begin{aligned} x \\end{aligned}\n$$\n", 3, "aligned"),
        ("- a\n- b $\\boxed{x}$\n", 2, "boxed"),
        ("Words.\n\n```figure mask\nrow = = 2\n```\n", 3, ""),
    ],
)
def test_what_is_wrong_is_said_with_its_line(markdown: str, line: int, said: str) -> None:
    for show in (as_html, as_text):
        with pytest.raises(ProseError) as caught:
            show(markdown, {})
        assert caught.value.line == line
        assert said in caught.value.got


def test_a_folder_of_lessons_is_told_of_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "one.md"
    path.write_text(
        '+++\nkind = "faq"\nid = "a"\ntitle = "A"\n+++\nFine: $x$.\n\n'
        '+++\nkind = "card"\nid = "b"\nsection = "mask"\n+++\nFront.\n\n===\n\nBack\n$\\frac{1}$.\n'
    )
    (fault,) = check_library(tmp_path, (check_prose,))
    assert str(fault).startswith(f"got {path}:18: ")
    assert fault.line == 18


def test_markdown_that_any_program_reads() -> None:
    text = as_plain_markdown(
        "## Head\n\nThe [query]{.q}\n*asks* `f(x)` for d_head.[**Or** not.]{.note}\n\n"
        "- one $\\sqrt{2}$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\n"
        "```ask a\n```\n\n$$\nq \\cdot k\n$$\n"
    )
    assert text.split("\n\n") == [
        "## Head", "The query *asks* `f(x)` for d\\_head. (**Or** not)", "- one √2",
        "| a | b |\n|---|---|\n| 1 | 2 |", "```python\nx = 1\n```", "> q · k",
    ]  # fmt: skip


def test_text_for_a_terminal() -> None:
    text = as_text(
        "## Head\n\nThe [query]{.q}\nasks.[Or *not*.]{.note}\n\n- one $\\sqrt{2}$\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\n```ask a\n```\n\n"
        '```figure mask\ncaption = "Four ways."\n```\n\n$$\nq \\cdot k\n$$\n'
    )
    assert text.split("\n\n") == [
        "Head", "The query asks. (Or not)", "• one √2", "• two", "a   b\n1   2", "    x = 1",
        "[A live figure, in the lab: Four ways.]", "    q · k",
    ]  # fmt: skip


FORMULAS = [
    (r"\frac{\class{q}{q}_i \cdot \class{k}{k}_j}{\sqrt{d_{\text{head}}}}", "(qᵢ · kⱼ) / √d_head"),
    (r"\ln 65", "ln 65"),
    (r"1 - \tanh^2", "1 − tanh²"),
    (r"e^{-\infty} = 0", "e^(−∞) = 0"),
    (r"T \times d_{\text{model}}", "T × d_model"),
    (r"\begin{pmatrix} 0 & -\infty \\ 0 & 0 \end{pmatrix}", "(0  −∞; 0  0)"),
    (r"\operatorname{softmax}\left(QK^\top + M\right)", "softmax(QKᵀ + M)"),
    ("x = −2", "x = −2"),
    (r"w(1 - w)", "w(1 − w)"),
    (r"\sum_{j \le i} a_{ij}", "∑_(j ≤ i) aᵢⱼ"),
]


@pytest.mark.parametrize(("latex", "text"), FORMULAS)
def test_formulas_in_a_line(latex: str, text: str) -> None:
    assert re.sub(r" +", " ", formula_text(latex)) == re.sub(r" +", " ", text)


def test_names_in_formulas_are_names() -> None:
    drawn = mathml(r"\operatorname{softmax}(x) + \ln 65")
    assert "<mi>softmax</mi><mo" in drawn
    assert '<mi>ln</mi><mspace width="0.17em" /><mn>65</mn>' in drawn
    assert "xmlns" not in drawn


@pytest.mark.parametrize("latex", [r"\href{javascript:x}{y}", r"\style{color:red}{x}", "x" * 3000])
def test_formulas_that_are_refused(latex: str) -> None:
    with pytest.raises(FormulaError):
        mathml(latex)


def test_all_that_we_wrote_is_whole() -> None:
    assert check_library(load_library().folder, (check_prose,)) == []


def test_all_formulas_that_we_wrote_are_of_mathml_core() -> None:
    seen = 0
    for part in every_part(own_library()):
        for formula in re.findall(r"<math.*?</math>", as_html(part), re.DOTALL):
            found = Markup(formula)
            assert not {"mfenced", "menclose", "mglyph", "maction"} & set(found.tags)
            assert all(tag.startswith("m") for tag in found.tags)
            assert "\\" not in formula
            seen += 1
    assert seen > 100


def test_all_that_we_wrote_reads_well_in_a_terminal() -> None:
    for part in every_part(own_library()):
        text = as_text(part)
        assert text.strip() or not part.strip()
        code = part.split("```python")[0]
        if code == part:
            assert not re.search(r"\\[a-z]|\{\{|\]\{|\$", text), text


def test_none_of_it_needs_torch() -> None:
    program = """
import sys
from qkv.learn.library import own_library
from qkv.learn.prose import as_html
for entry in own_library().entries():
    for part in entry.parts:
        as_html(part)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
