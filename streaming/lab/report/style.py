"""The colours and the style sheet of a page; must not know what is on it."""

COLOURS = {"ctr": "#2b66a8", "cvr": "#c4621b", "ctcvr": "#2d8068"}
TRUTH = "#20242c"
INK = "#272b33"
MUTED = "#6b7280"
FAINT = "#a9b0ba"
LINES = "#e6e9ee"
FONT = 'Inter, "Segoe UI", system-ui, -apple-system, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'

STYLE = """
:root { --ink: #272b33; --muted: #6b7280; --lines: #e6e9ee; --ctr: #2b66a8; --cvr: #c4621b; --ctcvr: #2d8068; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.55 FONT; }
header { padding: 48px 40px 26px; border-bottom: 1px solid var(--lines); }
h1 { margin: 0 0 4px; font-size: 28px; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--muted); overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 0 48px; max-width: 1400px; padding: 0 40px; }
nav { position: sticky; top: 0; align-self: start; padding-top: 44px; font-size: 13.5px; }
nav ol { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: 5px 0; color: var(--muted); text-decoration: none; }
nav a:hover { color: var(--ink); }
section { padding: 40px 0 34px; border-bottom: 1px solid var(--lines); }
section:last-child { border-bottom: 0; }
h2 { margin: 0 0 6px; font-size: 20px; font-weight: 640; letter-spacing: -.01em; }
h3 { margin: 0; font-size: 14.5px; font-weight: 620; }
.lead { margin: 0 0 26px; max-width: 76ch; color: #4b5563; }
.caption { margin: 2px 0 6px; color: var(--muted); font-size: 13px; max-width: 84ch; }
figure { margin: 0 0 12px; min-width: 0; }
.plot { width: 100%; overflow: hidden; }
.pair > div, .grid > div { min-width: 0; }
.name { white-space: nowrap; }
.pair { display: grid; grid-template-columns: minmax(0, 1.6fr) minmax(0, 1fr); gap: 36px; align-items: start; margin: 0 0 28px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 32px; margin: 0 0 22px; }
.card { border: 1px solid var(--lines); border-top: 3px solid var(--tone, #a9b0ba); border-radius: 6px; padding: 16px 20px 14px; height: 100%; }
.card h3 { color: var(--tone, var(--ink)); }
.card .big { margin: 6px 0 0; font-size: 32px; font-weight: 620; letter-spacing: -.02em; line-height: 1.2; }
.card .big .none { font-size: 22px; }
.card .big small { font-weight: 400; font-size: 13px; letter-spacing: 0; }
.card .what { margin: 0; color: var(--muted); font-size: 13px; }
.card dl { display: flex; gap: 26px; margin: 14px 0 0; }
dt { color: var(--muted); font-size: 12.5px; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 16px 24px; margin: 0 0 30px; }
.facts dd { font-size: 16px; overflow-wrap: anywhere; }
.tone-ctr { --tone: var(--ctr); } .tone-cvr { --tone: var(--cvr); } .tone-ctcvr { --tone: var(--ctcvr); }
.chip { display: inline-block; width: 9px; height: 9px; margin-right: 8px; border-radius: 50%; background: var(--tone, #20242c); }
.chip.truth { border-radius: 0; transform: rotate(45deg); width: 7px; height: 7px; background: #20242c; margin-left: 1px; }
.table { overflow: auto; margin: 0 0 22px; }
.table.tall { max-height: 430px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #fff; font-weight: 560; font-size: 12.5px; color: var(--muted); text-align: left;
     box-shadow: inset 0 -1px #cfd5dd; white-space: nowrap; }
th, td { padding: 6px 14px 6px 0; vertical-align: top; }
th:last-child, td:last-child { padding-right: 2px; }
td { border-bottom: 1px solid #f0f2f5; unicode-bidi: isolate; }
.number { text-align: right; white-space: nowrap; }
.none { color: var(--muted); }
.interval { margin-left: 10px; color: #8b93a0; }
small.none, .none small { display: block; font-size: 11.5px; white-space: normal; }
.below { display: block; font-size: 11.5px; color: var(--muted); white-space: nowrap; }
.soft, .soft td { color: #8b93a0; }
.tag { margin-left: 6px; padding: 0 6px; border-radius: 8px; background: #eef1f4; color: var(--muted); font-size: 11.5px; }
.empty { display: flex; flex-direction: column; align-items: center; justify-content: center; min-height: 150px; text-align: center;
         padding: 20px; border: 1px dashed #d5dae1; border-radius: 6px; color: var(--muted); }
.note { margin: 0 0 18px; color: var(--muted); font-size: 13px; max-width: 90ch; }
details { margin: 0 0 12px; } summary { cursor: pointer; color: #4b5563; font-size: 13.5px; padding: 3px 0; }
code, pre { font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
pre.settings { padding: 16px 18px; background: #f8f9fb; border-radius: 6px; }
.samples td { overflow-wrap: anywhere; } .samples td:nth-child(-n+3) { min-width: 110px; }
@media (max-width: 1040px) { .pair { grid-template-columns: minmax(0, 1fr); gap: 10px; } }
@media (max-width: 820px) {
  header { padding: 28px 18px 18px; } h1 { font-size: 23px; }
  .columns { display: block; padding: 0 18px; }
  nav { position: static; padding: 14px 0 4px; } nav ol { display: flex; flex-wrap: wrap; gap: 0 18px; }
  section { padding: 30px 0 22px; } .grid { grid-template-columns: minmax(0, 1fr); }
}
@media print { nav { display: none; } .columns { display: block; } section { break-inside: avoid; } .table.tall { max-height: none; } }
""".replace("FONT", FONT)
