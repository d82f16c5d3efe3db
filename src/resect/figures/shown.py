"""What a notebook shows of a result: sentences, a small figure, and the first rows of a table."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from resect.errors import InputError
from resect.words import plural

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_ROWS = 12
_DPI = 150  # two pixels a point of the page: 690 points for figures of the usual width


class Shown:
    """A result that a notebook shows as its `summary()` over its `plot()` and the first rows of its `table`."""

    __slots__ = ()

    def __repr__(self: Any) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def _repr_html_(self: Any) -> str:
        try:
            figure = image(self.plot()) if len(self.table) else ""
        except InputError:  # of metrics that have no figure
            figure = ""
        return f"<p>{escape(self.summary())}</p>{figure}{first_rows(self.table)}"


def image(ax: Axes) -> str:
    """The figure that axes lie on, as an HTML image that needs no other file."""
    from PIL import Image  # as matplotlib does for all its pictures

    drawn, small = io.BytesIO(), io.BytesIO()
    ax.figure.savefig(drawn, format="png", dpi=_DPI)  # type: ignore[union-attr]  # of a figure's own axes
    picture = Image.open(drawn).convert("RGB").quantize()  # a third of the bytes, in every notebook that is kept
    picture.save(small, "png", optimize=True)
    source = base64.b64encode(small.getvalue()).decode()
    return f'<img width="{picture.width // 2}" style="max-width: 100%" alt="" src="data:image/png;base64,{source}">'


def first_rows(table: pd.DataFrame) -> str:
    """The first rows of a table as HTML, and how many more it has."""
    more = len(table) - _ROWS
    rest = f"<p>and {plural(more, 'more row')}</p>" if more > 0 else ""
    return table.head(_ROWS).to_html(index=False) + rest
