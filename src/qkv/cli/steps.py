"""`qkv steps`: one step of attention by hand, every number shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkv.cli.options import AsJson
from qkv.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from qkv.attention import Mask
    from qkv.views.worksheet import Worked

__all__ = ["steps_command"]

SPLIT = "split numbers by commas and tokens by semicolons"


def steps_command(  # noqa: PLR0917 (options have names)
    q: Annotated[
        str | None,
        typer.Option("--q", metavar="ROWS", help="The asking token's query, or each token's."),
    ] = None,
    k: Annotated[
        str | None, typer.Option("--k", metavar="ROWS", help="Each token's key, split by ;")
    ] = None,
    v: Annotated[
        str | None,
        typer.Option(
            "--v",
            "--values",
            metavar="ROWS",
            help="Each token's value, split by ; (single numbers by , too). _ where none is given.",
        ),
    ] = None,
    affinities: Annotated[
        str | None,
        typer.Option(metavar="ROWS", help="Scores already there, in place of --q and --k."),
    ] = None,
    token: Annotated[
        int | None,
        typer.Option(help="Which token asks, counted from 1; the last unless given."),
    ] = None,
    mask: Annotated[
        str, typer.Option(metavar="MASK", help="causal, none, prefix:N or window:N.")
    ] = "causal",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|none",
            help="What scores are multiplied by. Unless given: 1/√C for q and k of width C, and "
            "nothing for affinities.",
        ),
    ] = None,
    softcap: Annotated[
        float | None, typer.Option(help="Bends scores to softcap·tanh(score/softcap).")
    ] = None,
    bias: Annotated[
        str | None, typer.Option(metavar="ROWS", help="Added to scores: a number for each key.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every token's row.")] = False,
    light: Annotated[bool, typer.Option("--light", help="Colours for a light terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do one step of attention by hand: every number, and the formula it comes from.

    Numbers are split by commas or spaces, tokens by semicolons. To copy:

    [bold]qkv steps --affinities "1,1,1,8" --values "3,6,0,_" --token 3[/]

    [bold]qkv steps --q "1,2" --k "1,0; .5,.25; 1,2" --v "2; 4; _" --token 2[/]

    [bold]qkv steps --q "1,1" --k "1,0; 2,1; 1,1" --v "1,0; 0,2; 1,1"[/]

    [bold]qkv steps --q "1,0; 0,1" --k "1,0; 0,1" --v "1; 2" --all --scale none[/]
    """
    from qkv.cli.console import out, print_json

    scored = _read_scores(q, k, affinities)
    queries, keys = scored
    given = affinities is not None
    if v is None:
        raise ConfigError("no --v", "the tokens' values", 'add --v "3; 6; 0"')
    values = _read_values(v)
    tokens = len(keys)
    factor, said = _read_scale(scale, width=queries.shape[1], given=given)
    added = None if bias is None else _read_rows("--bias", bias)
    worked = [
        _work(
            place,
            _row_of(queries, place, tokens, "queries" if not given else "rows of affinities"),
            keys,
            values,
            mask=_read_mask(mask),
            seen=mask,
            factor=factor,
            said=said,
            softcap=softcap,
            bias=None if added is None else _row_of(added, place, tokens, "rows of bias"),
            given=given,
        )
        for place in _places(token, tokens, len(queries), every=every)
    ]
    if as_json:
        print_json({"tokens": tokens, "mask": mask, "rows": [_as_data(row) for row in worked]})
        return
    from qkv.views.worksheet import Worksheet

    console = out()
    for index, row in enumerate(worked):
        if index:
            console.print()
        console.print(Worksheet(row, light=light))


def _work(
    place: int,
    query: Any,
    keys: Any,
    values: Any,
    *,
    mask: Mask,
    seen: str,
    factor: float,
    said: str,
    softcap: float | None,
    bias: Any,
    given: bool,
) -> Worked:
    """One token's row, all of it by `qkv.attention`; values may be missing where none may look."""
    import numpy as np

    from qkv.attention import steps, steps_from_affinities
    from qkv.views.worksheet import Worked

    tokens = len(keys)
    allowed = mask.allowed([place], range(tokens), queries=tokens, keys=tokens)
    # Values don't matter until the softmax: their turn comes in steps_from_affinities, which knows
    # of missing ones.
    nothing = np.zeros((tokens, 1))
    try:
        with np.errstate(over="raise", invalid="raise"):
            done = steps(
                query, keys, nothing, mask=allowed, bias=bias, scale=factor, softcap=softcap
            )
            mixed = steps_from_affinities(done.biased[0], values, mask=allowed)
    except FloatingPointError:
        raise ConfigError(
            "numbers whose products are beyond 10^308", "smaller ones", "scale them down"
        ) from None
    return Worked(place + 1, tokens, seen, said, given, done, mixed)


def _as_data(worked: Worked) -> dict[str, Any]:
    """One row as JSON; null is −∞, and a value that isn't there."""
    done, mix = worked.steps, worked.mix
    return {
        "token": worked.token,
        "scale": done.scale,
        "softcap": done.softcap,
        "allowed": mix.allowed.tolist(),
        "scores": _finite(done.scores[0]),
        "scaled": _finite(done.scaled[0]),
        "capped": _finite(done.capped[0]),
        "biased": _finite(done.biased[0]),
        "masked": _finite(done.masked[0]),
        "exponentials": _finite(mix.exponentials),
        "sum": _finite(mix.total),
        "weights": _finite(mix.pattern),
        "values": _finite(mix.values),
        "mixed": _finite(mix.mixed),
        "lse": _finite(mix.lse),
    }


def _finite(numbers: Any) -> Any:
    import math

    import numpy as np

    array = np.asarray(numbers)
    if array.ndim:
        return [_finite(part) for part in array]
    return float(array) if math.isfinite(array) else None


def _read_scores(q: str | None, k: str | None, affinities: str | None) -> tuple[Any, Any]:
    """Queries (Q, C) and keys (K, C); affinities are queries before keys that are the identity."""
    import numpy as np

    if affinities is not None:
        if q is not None or k is not None:
            raise ConfigError(
                "--affinities with --q or --k", "one or the other", "leave out what is too much"
            )
        rows = _read_rows("--affinities", affinities)
        return rows, np.eye(rows.shape[1])
    if q is None or k is None:
        raise ConfigError(
            "neither --affinities nor both of --q and --k",
            "scores to start from",
            'try qkv steps --affinities "1,1,1,8" --values "3,6,0,_" --token 3',
        )
    queries, keys = _read_rows("--q", q), _read_rows("--k", k)
    if queries.shape[1] != keys.shape[1]:
        raise ShapeError(
            f"--q of width {queries.shape[1]}, --k of width {keys.shape[1]}", "one width", SPLIT
        )
    return queries, keys


def _read_number(name: str, text: str, *, missing: bool = False) -> float:
    import math

    if missing and text in ("_", "?"):
        return math.nan
    try:
        number = float(text.replace("−", "-"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        holes = ", or _ where a token's value isn't given" if missing else ""
        raise ConfigError(f"{name} {text!r}", f"a finite number{holes}", SPLIT)
    return number


def _read_rows(name: str, text: str, *, missing: bool = False) -> Any:
    """Numbers split by commas or spaces, in rows split by semicolons."""
    import numpy as np

    parts = [part.replace(",", " ").split() for part in text.split(";")]
    rows = [[_read_number(name, x, missing=missing) for x in part] for part in parts if part]
    if not rows:
        raise ConfigError(f"{name} {text!r}", "numbers", SPLIT)
    width = max(map(len, rows))
    for index, row in enumerate(rows):
        if missing and len(row) == 1 and row[0] != row[0]:
            rows[index] = row * width  # one _ stands for a whole vector
        elif len(row) != width:
            raise ShapeError(
                f"{name} with {len(row)} numbers in row {index + 1}, {width} in another",
                "rows of one length",
                SPLIT,
            )
    return np.array(rows)


def _read_values(text: str) -> Any:
    """Values (K,) or (K, Cv): numbers without a semicolon are one for each token."""
    rows = _read_rows("--v", text, missing=True)
    if ";" not in text:
        return rows[0]
    return rows[:, 0] if rows.shape[1] == 1 else rows


def _read_scale(text: str | None, *, width: int, given: bool) -> tuple[float, str]:
    """The scale and what it is called; the name is empty where scores stay as they are."""
    if text is None and not given:
        return width**-0.5, f"1/√{width}" if width > 1 else ""
    if text is None or text.lower() == "none":
        return 1.0, ""
    return _read_number("--scale", text), text


def _read_mask(text: str) -> Mask:
    from qkv.attention import Causal, Full, Prefix, Window

    kind, colon, size = text.partition(":")
    if not colon and kind in ("causal", "none"):
        return Causal() if kind == "causal" else Full()
    if kind in ("prefix", "window") and size.isdecimal():
        return Prefix(int(size)) if kind == "prefix" else Window(int(size))
    raise ConfigError(
        f"--mask {text}", "causal, none, prefix:N or window:N", "try --mask causal or window:2"
    )


def _places(token: int | None, tokens: int, queries: int, *, every: bool) -> list[int]:
    """Which tokens ask, counted from 0."""
    if every:
        if token is not None:
            raise ConfigError("--token with --all", "one or the other", "leave one out")
        if queries != tokens:
            raise ShapeError(
                f"{queries} queries for --all of {tokens} tokens", "one for each token", SPLIT
            )
        return list(range(tokens))
    asking = tokens if token is None else token
    if not 1 <= asking <= tokens:
        raise ConfigError(f"--token {asking}", f"1 to {tokens}", "count tokens from 1")
    return [asking - 1]


def _row_of(rows: Any, place: int, tokens: int, what: str) -> Any:
    """The asking token's row, (1, any): the only one, or its own of one for each token."""
    if len(rows) not in (1, tokens):
        raise ShapeError(f"{len(rows)} {what} for {tokens} tokens", f"1 or {tokens}", SPLIT)
    return rows[[place]] if len(rows) == tokens else rows
