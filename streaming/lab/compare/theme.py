"""How a comparison's page looks by day and by night, and each method's colour; must not know what is on it."""

from __future__ import annotations

from streaming.lab.report.page import Page

# One colour a method on every page, each readable on white and on near black (contrast 3 or more on both).
COLOURS = {
    "oracle": "#768194",
    "window": "#d9702f",
    "pretrained": "#a3803f",
    "survival": "#3a9d4b",
    "es_dfm": "#2f84cc",
    "defer": "#d9534f",
    "defuse": "#2a9d8f",
    "ddfm": "#8a68cf",
    "fnw": "#b58900",
    "fnc": "#cc5fa0",
    "bi_defuse": "#5b8c9e",
    "dfm": "#a0714f",
    "mature": "#6f8f2e",
}
_OTHERS = ("#c0578a", "#4f7fd6", "#8d8a2b", "#cf6b4a", "#4a9aa8", "#9a72b8")


def colour(method: str, others: int = 0) -> str:
    """A method's own; for a user's own method one of a few, the `others`-th."""
    return COLOURS.get(method, _OTHERS[others % len(_OTHERS)])


class ThemedPage(Page):
    """A report's page that follows the reader's choice of light or dark, pictures included."""

    def render(self) -> str:
        """The whole page, as a report's."""
        before, mark, after = (
            super().render().rpartition("</head>")
        )  # the last: what plotly's code may hold comes before
        return f"{before}<style>{_STYLE}</style><script>{_PICTURES}</script>{mark}{after}"


_STYLE = """
:root { color-scheme: light dark; }
.chip { background: var(--tone); }
.tag { white-space: nowrap; }
.pair { grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); }
.pair .interval { display: block; margin: 0; font-size: 11.5px; }
.interval { white-space: nowrap; }
@media (max-width: 1040px) { .pair { grid-template-columns: minmax(0, 1fr); } }
.good { color: #2c7a3a; } .bad { color: #b4441f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe3e9; --muted: #98a1ae; --lines: #2b313a; }
  body { background: #15181d; }
  th { background: #15181d; box-shadow: inset 0 -1px #3b424d; }
  td { border-bottom-color: #242a32; }
  .lead, summary { color: #b3bac5; }
  .interval, .soft, .soft td { color: #8b95a3; }
  .tag { background: #262c35; }
  .empty { border-color: #3b424d; }
  .good { color: #6cc37c; } .bad { color: #ee8f6a; }
}
"""

# Text and grid of the pictures follow the page; lines keep their colours, which read on both. Runs after the report's own drawing.
_PICTURES = """addEventListener("DOMContentLoaded", () => {
  const wish = matchMedia("(prefers-color-scheme: dark)");
  const dress = () => {
    const [ink, muted, lines, paper] = wish.matches
      ? ["#dfe3e9", "#98a1ae", "#2b313a", "#20252d"] : ["#272b33", "#6b7280", "#e6e9ee", "#ffffff"];
    for (const box of document.querySelectorAll(".plot")) {
      const wanted = {"font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink};
      for (const axis of ["xaxis", "yaxis"]) {
        wanted[axis + ".tickfont.color"] = box.layout[axis].type === "category" ? ink : muted;
        wanted[axis + ".title.font.color"] = muted;
        wanted[axis + ".linecolor"] = lines;
        if (!box.layout[axis].gridcolor.startsWith("rgba")) wanted[axis + ".gridcolor"] = lines;
      }
      Plotly.relayout(box, wanted);
    }
  };
  setTimeout(dress);
  wish.addEventListener("change", dress);
});"""
