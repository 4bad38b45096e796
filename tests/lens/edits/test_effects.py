"""What an edit does to the loss and to the next token, against the changed model itself."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.errors import ConfigError, QkvError, ShapeError
from qkv.lens.edits.edits import Edits
from qkv.lens.edits.effects import effect, effects
from qkv.models import Transformer, TransformerConfig

V, B, T = 17, 3, 7
IDS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def model() -> Transformer:
    torch.manual_seed(5)
    config = TransformerConfig(vocab=V, context=13, layers=2, width=24, heads=3, kv_heads=3)
    made = Transformer(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


@torch.no_grad()
def losses(made: nn.Module, ids: Tensor = IDS) -> np.ndarray[Any, Any]:
    logits = made.eval()(ids).double()
    found = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return found.view(len(ids), -1).numpy()


def test_effect_is_that_of_the_changed_model() -> None:
    made, by_hand = model(), model()
    made.train()
    made.blocks[1].eval()
    done = effect(made, IDS, Edits(ablate="L1H2"))
    assert made.training
    assert not made.blocks[1].training
    before = losses(by_hand)
    with torch.no_grad():
        by_hand.blocks[1].attention.output.weight[:, 16:] = 0
        after, last = losses(by_hand), by_hand(IDS)[-1, -1].double().log_softmax(-1)
        first = model().eval()(IDS)[-1, -1].double().log_softmax(-1)
    assert done.losses_before == pytest.approx(before, abs=1e-5)
    assert done.losses_after == pytest.approx(after, abs=1e-5)
    assert (done.loss_before, done.loss_after) == pytest.approx((before.mean(), after.mean()))
    change = after - before
    assert done.change == pytest.approx(change.mean(), abs=1e-5)
    assert done.error == pytest.approx(change.std(ddof=1) / math.sqrt(change.size), rel=1e-4)
    assert done.before == pytest.approx(first.numpy(), abs=1e-5)
    assert done.after == pytest.approx(last.numpy(), abs=1e-5)
    kl = F.kl_div(last, first, reduction="sum", log_target=True)
    assert done.divergence == pytest.approx(float(kl), rel=1e-4)
    moves = np.abs(np.exp(done.after) - np.exp(done.before))
    moved = done.moved(4)
    assert [one.token for one in moved] == np.argsort(-moves)[:4].tolist()
    assert [abs(one.change) for one in moved] == pytest.approx(np.sort(moves)[::-1][:4].tolist())
    assert done.edits == "without L1H2"


def test_an_edit_that_does_nothing_has_no_effect() -> None:
    done = effect(model(), IDS[0], Edits(scale=8**-0.5))
    assert done.losses_before.shape == (1, T - 1)
    assert (abs(done.change), abs(done.divergence)) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_every_head_alone(how: Any, tmp_path: Path) -> None:
    made, seen = model(), []
    found = effects(made, IDS, how=how, progress=seen.append)
    assert seen == pytest.approx([i / 6 for i in range(1, 7)])
    assert len(found) == 6
    assert [row.change for row in found] == sorted((row.change for row in found), reverse=True)
    for row in found:
        alone = Edits(ablate=row.name) if how == "zero" else Edits(mean=row.name)
        assert row.change == pytest.approx(effect(made, IDS, alone).change)
        assert row.module == f"blocks.{row.layer}.attention"
    assert found.loss == pytest.approx(losses(made).mean(), abs=1e-5)
    assert found["L1H2"].loss == pytest.approx(found.loss + found["L1H2"].change)
    assert found.tokens == B * (T - 1)
    table = list(csv.DictReader(io.StringIO(found.to_csv(tmp_path / "heads.csv"))))
    assert (tmp_path / "heads.csv").read_text() == found.to_csv()
    assert [line["name"] for line in table] == [row.name for row in found]
    told = json.loads(found.to_json(tmp_path / "heads.json"))
    assert told["how"] == how
    assert told["heads"][0]["change"] == found.rows[0].change
    with pytest.raises(ConfigError, match="head 'L9H9'"):
        found["L9H9"]


def test_some_heads() -> None:
    assert {row.name for row in effects(model(), IDS, "L1, L0H2")} == {
        "L0H2", "L1H0", "L1H1", "L1H2",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="L0H3"):
        effects(model(), IDS, "L0H3")
    with pytest.raises(ConfigError, match="L2, a layer"):
        effects(model(), IDS, "L2")
    with pytest.raises(ConfigError, match="how='half'"):
        effects(model(), IDS, how="half")  # type: ignore[arg-type]


def test_tables_for_people() -> None:
    found = effects(model(), IDS, "L0H1")
    change = f"{found.rows[0].change:+.4f}"
    assert str(found).splitlines()[1].split()[:2] == ["L0H1", change]
    assert f"<td>{change}</td>" in found._repr_html_()
    if importlib.util.find_spec("pandas"):
        assert found.to_pandas().change.tolist() == [found.rows[0].change]


class Wrapped(nn.Module):
    """Gives whatever a function makes of the logits, as models of others do."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner, self.wrap = model(), wrap

    def forward(self, ids: Tensor) -> Any:
        return self.wrap(self.inner(ids))


def test_models_that_return_objects_and_what_is_refused() -> None:
    edits = Edits(ablate="L0")
    wrapped = effect(Wrapped(lambda x: SimpleNamespace(logits=x)), IDS, edits)
    assert wrapped.loss_after == pytest.approx(effect(model(), IDS, edits).loss_after)
    for wrap in (lambda x: (x,), lambda x: x[:, -1:], lambda x: None):
        with pytest.raises(ShapeError, match="logits of every position"):
            effect(Wrapped(wrap), IDS, edits)
    with pytest.raises(QkvError, match="no number"):
        effect(Wrapped(lambda x: x * math.nan), IDS, edits)
    for ids in (IDS[:, :1], IDS[0].float(), IDS[None], []):
        with pytest.raises(ShapeError):
            effect(model(), ids, edits)
