"""The view in a notebook: an anywidget that looks up what is stored, and asks Python for the rest.

anywidget is an extra (`pip install 'qkv[notebook]'`); the class is made when the first widget is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qkv.errors import ConfigError, QkvError
from qkv.views.reasons import arithmetic_of
from qkv.views.stored import levels_of

if TYPE_CHECKING:
    from qkv.lens import AttentionMap
    from qkv.views.gather import Gathered

__all__ = ["Answers", "create_widget", "has_widgets"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Reply: TypeAlias = "tuple[dict[str, Any], list[bytes]]"

TOP = 8
LARGEST_TILE = 1024
THUMBNAIL_SIDE = 48
# From here on the first tile takes seconds: progress is told.
SLOW_CELLS = 2**28


class Answers:
    """Answers what the view in a browser asks: tiles, rows, columns, cells, tracks, thumbnails.

    Args:
        maps: the heads by name.
        tell: is given {"kind": "progress", ...} while a long text is read.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> answers = Answers({"L0H0": AttentionMap.of(x, x, mask=Causal())})
    >>> reply, numbers = answers({"kind": "row", "id": 1, "head": "L0H0", "place": 1})
    >>> reply["kind"], np.frombuffer(numbers[0], "<f4").tolist()
    ('row', [0.5, 0.5, nan])
    """

    def __init__(
        self,
        maps: Mapping[str, AttentionMap],
        tell: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        self._maps, self._tell = maps, tell or (lambda _: None)
        self._seen: dict[tuple[int, int, int, int], Array] = {}

    def __call__(self, message: Any) -> Reply:
        """The reply to one message, and its numbers as float32, NaN where forbidden.

        Never raises for what a message says: such a reply is an error of one line.
        """
        asked = message if isinstance(message, dict) else {}
        number, kind = asked.get("id"), asked.get("kind")
        kinds = {
            "tile": self._tile,
            "row": self._row,
            "column": self._column,
            "cell": self._cell,
            "tracks": self._tracks,
            "thumbnail": self._thumbnail,
        }
        try:
            head = self._maps.get(asked.get("head", ""))
            if kind not in kinds or head is None:
                raise ConfigError(
                    f"{kind!r} of {asked.get('head')!r}", "a question about a head", "reload it"
                )
            reply, numbers = kinds[kind](head, asked)
        except QkvError as error:
            return {"kind": "error", "id": number, "message": str(error)}, []
        except (KeyError, TypeError, ValueError, IndexError) as error:
            return {"kind": "error", "id": number, "message": f"got {kind}: {error!r}"}, []
        data = [np.ascontiguousarray(x, dtype="<f4").tobytes() for x in numbers]
        return {**reply, "kind": kind, "id": number}, data

    def _tile(
        self, head: AttentionMap, asked: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Array]]:
        """Weights of blocks of 2^level by 2^level cells; "sum" is a mean over a block's queries."""
        level, how = int(asked["level"]), asked.get("how", "max")
        (top, bottom), (left, right) = asked["rows"], asked["cols"]
        if not (0 <= level < 32 and 0 < bottom - top <= LARGEST_TILE >= right - left > 0):
            raise ValueError(f"level {level}, rows {top}:{bottom}, cols {left}:{right}")
        block = 2**level
        rows = range(top * block, min(bottom * block, head.Q))
        cols = range(left * block, min(right * block, head.K))
        if head.Q * head.K > SLOW_CELLS and block > 1:
            head.pyramid(progress=lambda done: self._progress(head, done))
        if block == 1:
            values, allowed = head.tile(rows, cols), head.allowed(rows, cols)
        else:
            view = head.viewport(rows, cols, (bottom - top, right - left), how=how)
            values, allowed = view.values, view.allowed
        if how == "sum" and block > 1:
            queries = np.minimum(block, len(rows) - block * np.arange(len(values)))
            values = values / queries[:, None]
        return {"shape": list(values.shape)}, [np.where(allowed, values, np.nan)]

    def _progress(self, head: AttentionMap, done: float) -> None:
        self._tell({"kind": "progress", "head": head.name, "done": done})

    def _row(self, head: AttentionMap, asked: dict[str, Any]) -> tuple[dict[str, Any], list[Array]]:
        row, keys = [_place(asked["place"], head.Q)], range(head.K)
        return {}, [np.where(head.allowed(row, keys), head.tile(row, keys), np.nan)[0]]

    def _column(
        self, head: AttentionMap, asked: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Array]]:
        col, queries = [_place(asked["place"], head.K)], range(head.Q)
        return {}, [np.where(head.allowed(queries, col), head.tile(queries, col), np.nan)[:, 0]]

    def _cell(
        self, head: AttentionMap, asked: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Array]]:
        row, col = _place(asked["row"], head.Q), _place(asked["col"], head.K)
        cell = head.cell(row, col)
        weights, seen = head.row(row), head.allowed([row], range(head.K))[0]
        top = np.argsort(-weights, kind="stable")[:TOP]
        return {
            "allowed": cell.allowed,
            "weight": cell.weight,
            "count": int(seen.sum()),
            "top": [{"key": int(k), "weight": float(weights[k])} for k in top if weights[k] > 0],
            "arithmetic": arithmetic_of(head, cell),
        }, []

    def _tracks(self, head: AttentionMap, _: dict[str, Any]) -> tuple[dict[str, Any], list[Array]]:
        cell = head.strongest()
        strongest = None if cell is None else [cell.query, cell.key, cell.weight]
        return {"strongest": strongest}, [head.received(), head.entropy()]

    def _thumbnail(
        self, head: AttentionMap, _: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Array]]:
        block = 1 << (-(-max(head.Q, head.K) // THUMBNAIL_SIDE) - 1).bit_length()
        levels = levels_of(head.pool(block, "max")) + 1.0
        # Heads of a layer share their mask.
        shared = (id(head.mask), head.Q, head.K, block)
        if shared not in self._seen:
            self._seen[shared] = head.pool_allowed(block)
        picture = np.where(self._seen[shared], levels, 0.0)
        return {"rows": picture.shape[0], "cols": picture.shape[1]}, [picture]


def _place(value: Any, size: int) -> int:
    place = int(value)
    if not 0 <= place < size:
        raise ValueError(f"token {place} of {size}")
    return place


def has_widgets() -> bool:
    """Whether anywidget is installed."""
    from importlib.util import find_spec

    return find_spec("anywidget") is not None


def create_widget(gathered: Gathered) -> Any:
    """The widget of a trace or a map, as `gather` has put it together.

    Its `head` ("L3H7"), `cursor` ([query, key]) and `log` can be read and set from Python.

    Raises:
        ConfigError: where anywidget isn't installed.
    """
    if not has_widgets():
        raise ConfigError("no anywidget", "the extra for notebooks", "pip install 'qkv[notebook]'")
    header, body = gathered.wire()
    widget = _widget_class()(header=header, body=body, head=gathered.telling)
    answers = Answers(gathered.maps, tell=widget.send)

    def hear(_: Any, content: Any, __: Any) -> None:
        reply, numbers = answers(content)
        widget.send(reply, numbers)

    widget.on_msg(hear)
    return widget


@cache
def _widget_class() -> Any:
    import anywidget
    import traitlets

    from qkv.views.assets import bundle

    class HeadView(anywidget.AnyWidget):
        """Heads, one head's map, its reasons and its text."""

        _esm = bundle("widget")
        header = traitlets.Dict().tag(sync=True)
        body = traitlets.Bytes(b"").tag(sync=True)
        head = traitlets.Unicode("").tag(sync=True)
        cursor = traitlets.List(traitlets.Int()).tag(sync=True)
        log = traitlets.Bool(True).tag(sync=True)

    return HeadView
