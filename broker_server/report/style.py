"""The page's style sheet and the colours that its plots refer to.

Colours are custom properties with a light and a dark value; plots name them by `var(--name)`, so one
drawing serves both, and paper. Series colours are from the palette of Okabe and Ito (2008), which
colour-blind readers can tell apart, moved until each has at least 4.5 : 1 against its background; series
differ in dash and marker too.
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "card": "#f6f7f4",
    "ink": "#1c211d",
    "quiet": "#556058",
    "line": "#d5dad3",
    "heat": "#1b6e8f",
    "series-1": "#1f6f43",
    "series-2": "#0063a0",
    "series-3": "#a84700",
    "series-4": "#8a3b77",
    "good": "#1f6f43",
    "bad": "#b3261e",
}
DARK = {
    "paper": "#141815",
    "card": "#1d231f",
    "ink": "#e8ece7",
    "quiet": "#a5b0a8",
    "line": "#39423c",
    "heat": "#5db4d6",
    "series-1": "#6fcf97",
    "series-2": "#6bb7f0",
    "series-3": "#f2a25c",
    "series-4": "#dc9ccb",
    "good": "#6fcf97",
    "bad": "#ff8a80",
}


_SHEET = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
@media print { :root { color-scheme: light; LIGHT } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: .6rem 0 .2rem }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere }
.quiet, .note, figcaption { color: var(--quiet) }
.note, figcaption { font-size: .875rem }

.verdict { list-style: none; margin: 1.2rem 0; padding: 0; max-width: 48rem }
.verdict li { padding: .25rem 0 .25rem 1.9rem; position: relative }
.verdict b { position: absolute; left: .2rem; width: 1.2rem; text-align: center }
.good b { color: var(--good) }
.bad, .bad b { color: var(--bad) }
.neutral b { color: var(--quiet) }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(45%, 13rem), 1fr)); gap: .7rem;
  margin: 1.4rem 0; padding: 0 }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .8rem }
.tiles dt { font-size: .8125rem; color: var(--quiet) }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums }
.tiles dd.quiet { font-size: 1rem; font-weight: 400 }

.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1.2rem 2rem }
figure { margin: 0; min-width: 0 }
figure > svg { display: block; width: 100%; height: auto; max-width: 30rem }
figure > svg * { stroke-linejoin: round; stroke-linecap: butt }
figure > svg text { font-family: inherit }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .2rem 0; padding: 0;
  font-size: .875rem }
.legend svg { width: 2.2rem; height: .8rem; margin-right: .35rem; vertical-align: middle }

.table { min-width: 0; margin: .6rem 0 1.4rem }
.pairs > .table { margin: 0 }
.scroll { overflow-x: auto }
.scroll:focus-visible { outline: 2px solid var(--series-2); outline-offset: 2px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem }
th, td { padding: .32rem .7rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th.text, td.text { white-space: normal; min-width: 12rem; max-width: 22rem; overflow-wrap: anywhere }
.number { text-align: right }
thead th { font-size: .8125rem; color: var(--quiet); vertical-align: bottom }
tbody th { font-weight: 600 }
th:first-child { position: sticky; left: 0; background: var(--paper) }
td.heat { background: color-mix(in srgb, var(--heat) calc(var(--share) * 45%), var(--paper)) }

.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.2rem }
.facts dt { color: var(--quiet) }
.facts dd { margin: 0; overflow-wrap: anywhere }
footer { margin-top: 3rem; font-size: .875rem; color: var(--quiet) }

@media (max-width: 30rem) {
  .facts { grid-template-columns: 1fr; gap: 0 }
  .facts dd { margin-bottom: .5rem }
  th, td { padding: .32rem .5rem }
  tbody th { white-space: normal; min-width: 5.5rem }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  h2, h3 { break-after: avoid }
  figure, tr, li, .tiles, .table { break-inside: avoid }
  .tiles { grid-template-columns: repeat(4, 1fr) }
  .pairs { grid-template-columns: 1fr 1fr }
  .scroll { overflow: visible }
  table, thead th { font-size: 7.5pt }
  th, td { padding: 2pt 4pt }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def _properties(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = _SHEET.replace("LIGHT", _properties(LIGHT)).replace("DARK", _properties(DARK))
