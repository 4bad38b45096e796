"""The package for Anki, imported by Anki's own library."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qkv.learn.anki import as_anki, export_anki
from qkv.learn.library import own_library

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def take_in(collection: Any, package: Path) -> dict[str, int]:
    from anki.collection import ImportAnkiPackageOptions, ImportAnkiPackageRequest

    request = ImportAnkiPackageRequest(
        package_path=str(package), options=ImportAnkiPackageOptions()
    )
    log = collection.import_anki_package(request).log
    return {"new": len(log.new), "updated": len(log.updated), "same": len(log.duplicate)}


@pytest.mark.filterwarnings("ignore")  # of a library that isn't ours
def test_imported_again_it_updates_and_doubles_nothing(tmp_path: Path) -> None:
    reason = "Anki's own library isn't installed: pip install anki"
    Collection = pytest.importorskip("anki.collection", reason=reason).Collection
    cards = own_library().cards
    first, second = tmp_path / "first.apkg", tmp_path / "second.apkg"
    first.write_bytes(export_anki(cards, NOW))
    changed = dataclasses.replace(cards[0], parts=("Other words.", cards[0].parts[1]))
    second.write_bytes(export_anki([changed, *cards[1:]], NOW + timedelta(days=1)))

    collection = Collection(str(tmp_path / "collection.anki2"))
    try:
        assert take_in(collection, first) == {"new": 40, "updated": 0, "same": 0}
        assert take_in(collection, first) == {"new": 0, "updated": 0, "same": 40}
        assert take_in(collection, second) == {"new": 0, "updated": 40, "same": 0}
        assert (collection.note_count(), collection.card_count()) == (40, 40)
        (note,) = collection.find_notes('"Other words"')
        assert "Other words." in collection.get_note(note).fields[0]
        assert len(collection.find_notes("tag:qkv::mask")) == 8
        assert "qkv: causal self-attention" in {
            deck.name for deck in collection.decks.all_names_and_ids()
        }
    finally:
        collection.close()


def test_formulas_are_mathjax_with_hues_and_nothing_is_lost() -> None:
    assert as_anki("$\\class{q}{q_i} \\cdot x$, not \\$5.").strip() == (
        "<p>\\({\\color{#0067A5}{q_i}} \\cdot x\\), not $5.</p>"
    )
    assert "\\[\\frac{a}{b}\\]" in as_anki("$$\\frac{a}{b}$$")
    for card in own_library().cards:
        for part in card.parts:
            made = as_anki(part)
            assert "<math" not in made
            assert "$" not in made
            assert "\\class" not in made
            assert made.count("\\(") + made.count("\\[") == part.replace("$$", "$").count("$") // 2
