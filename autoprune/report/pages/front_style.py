"""The page of the front: what it holds, and its style sheet, light and dark, desktop and phone."""

from autoprune.report.pictures.colours import THEME

#: The picture with its controls; the script fills the elements that have an id.
CHART = """<div class="bar">
<div class="segments" id="axis" role="group" aria-label="Horizontal axis"></div>
<div class="segments" id="frame" role="group" aria-label="Range of the accuracy"></div>
</div>
<div class="bar chips" id="strategies" role="group" aria-label="Show strategies"></div>
<div class="bar chips" id="rungs" role="group" aria-label="Show fidelities"></div>
<div id="plot"><svg id="svg" tabindex="0" role="img" @LABELLED@></svg><div id="tip" hidden></div></div>
<p class="hint" id="hint"></p>
"""

#: Goes into the body of an `html_page`; the script fills the elements that have an id.
FRONT_BODY = f"""<header><h1 id="title"></h1><p id="subtitle"></p></header>
<noscript><p>This page draws its picture with JavaScript. The same rows lie beside it in front.csv.</p></noscript>
<main>
<section class="card chart">
{CHART}</section>
<aside class="card" id="panel" aria-live="polite"></aside>
<section class="card wide"><h2>On the front</h2><div class="scroll"><table id="table"></table></div></section>
</main>
<div id="toast" role="status"></div>
<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>"""

STYLE = (
    THEME
    + """* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; padding: 24px 28px 40px; max-width: 1440px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0; font-size: 22px; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 15px; }
header p { margin: 4px 0 0; color: var(--soft); overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: minmax(0, 1fr) 340px; gap: 16px; margin-top: 18px; align-items: start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; min-width: 0; }
.wide { grid-column: 1 / -1; }
.bar { display: flex; flex-wrap: wrap; gap: 8px 12px; margin-bottom: 10px; }
.segments { display: inline-flex; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
button { font: inherit; color: inherit; background: none; border: 0; cursor: pointer; }
button:focus-visible, svg:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
svg:focus:not(:focus-visible) { outline: none; }
.segments button { padding: 5px 11px; border-left: 1px solid var(--line); color: var(--soft); }
.segments button:first-child { border-left: 0; }
.segments button[aria-pressed=true] { background: var(--hover); color: var(--ink); font-weight: 600; }
.chips { gap: 6px; align-items: center; }
.chips span.name { color: var(--soft); min-width: 62px; }
.chip {
  display: inline-flex; align-items: center; gap: 6px; padding: 3px 10px; border: 1px solid var(--line);
  border-radius: 999px; max-width: 100%;
}
.chip b { font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; max-width: 220px; }
.chip small { color: var(--soft); }
.chip[aria-pressed=false] { opacity: .45; text-decoration: line-through; }
.dot { width: 10px; height: 10px; border-radius: 50%; flex: none; border: 2px solid transparent; }
#plot { position: relative; height: min(62vh, 580px); min-height: 360px; touch-action: pan-y; }
svg { display: block; width: 100%; height: 100%; cursor: crosshair; user-select: none; -webkit-user-select: none; }
text { fill: var(--soft); font-size: 12px; }
text.label { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
text.budget { fill: var(--budget); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--line); }
.front { fill: none; stroke: var(--front); stroke-width: 1.6; stroke-linejoin: round; opacity: .8; }
.budget-line { stroke: var(--budget); stroke-dasharray: 5 4; stroke-width: 1.4; } .band { fill: var(--band); }
.dense-line { stroke: var(--soft); stroke-dasharray: 2 4; }
.brush { fill: var(--accent); opacity: .15; }
.ring { fill: none; stroke: var(--ink); stroke-width: 2; }
.error { fill: none; stroke-width: 1.4; }
.mark { fill: var(--card); stroke: var(--ink); stroke-width: 2; }
.hint { margin: 8px 0 0; color: var(--soft); font-size: 12.5px; }
#tip {
  position: absolute; left: 0; top: 0; width: 326px; max-width: 100%; padding: 10px 12px; z-index: 2;
  background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; box-shadow: 0 6px 24px rgba(0, 0, 0, .18); pointer-events: none;
}
.figures { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 6px 0 10px; }
.figures dt { color: var(--soft); white-space: nowrap; } .figures dd { margin: 0;
  white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums;
}
.who { display: flex; align-items: center; gap: 7px; font-weight: 600; overflow-wrap: anywhere; }
.tag {
  font-size: 11px; font-weight: 500; padding: 1px 7px; border-radius: 999px; background: var(--hover);
  color: var(--soft); white-space: nowrap;
}
.strip { display: flex; align-items: flex-end; gap: 1px; height: 44px; }
.strip i { flex: 1 1 0; min-width: 1px; max-width: 12px; background: var(--bar); position: relative; }
.strip i u { position: absolute; left: 0; right: 0; bottom: 0; background: var(--accent); border-radius: 1px; }
.caption { color: var(--soft); font-size: 12px; margin: 4px 0 0; }
#panel { position: sticky; top: 16px; max-height: calc(100vh - 32px); overflow: auto; }
.widths { display: grid; grid-template-columns: minmax(60px, auto) minmax(80px, 1fr) auto;
  gap: 3px 8px; align-items: center; }
.widths span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: 12px; }
.widths span.kept { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.rail { height: 8px; background: var(--bar); border-radius: 2px; min-width: 3px; }
.rail u { display: block; height: 100%; background: var(--accent); border-radius: 2px; }
.command { display: flex; gap: 8px; margin: 12px 0; align-items: stretch; }
.command code {
  flex: 1; min-width: 0; padding: 7px 10px; background: var(--page); border: 1px solid var(--line); border-radius: 8px;
  font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere;
}
.command button, td button {
  padding: 4px 12px; border: 1px solid var(--line); border-radius: 8px; color: var(--accent);
}
.scroll { overflow: auto; max-height: 480px; }
thead th { position: sticky; top: 0; background: var(--card); white-space: normal; vertical-align: bottom; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th.left, td.left { text-align: left; }
td .dot { display: inline-block; margin-right: 7px; }
tbody tr { cursor: pointer; } tbody tr:hover, tbody tr[aria-selected=true] { background: var(--hover); }
#toast {
  position: fixed; left: 50%; bottom: 24px; transform: translate(-50%, 20px); background: var(--ink);
  color: var(--page); padding: 9px 16px; border-radius: 10px; opacity: 0;
  transition: opacity .2s, transform .2s; pointer-events: none;
  width: max-content; max-width: calc(100vw - 32px); overflow-wrap: anywhere; z-index: 3;
}
#toast.on { opacity: 1; transform: translate(-50%, 0); }
@media (max-width: 940px) {
  main { grid-template-columns: minmax(0, 1fr); } #panel { position: static; max-height: none; }
}
@media (max-width: 560px) {
  body { padding: 14px 10px 28px; } .card { padding: 12px 10px; border-radius: 10px; } #plot { height: 400px; }
  h1 { font-size: 18px; } .segments button { padding: 6px 9px; } .chips span.name { width: 100%; }
  th, td { padding: 8px 6px; } td.name { max-width: 150px; overflow: hidden; text-overflow: ellipsis; }
  .hide-phone { display: none; }
}
@media (prefers-reduced-motion: reduce) { #toast { transition: none; } }
"""
)
