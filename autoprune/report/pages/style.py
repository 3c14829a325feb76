"""Style sheet of the report: what it has beyond the page of the front, on screens, phones and paper."""

from __future__ import annotations

from autoprune.report.pages.front_style import CHART

#: The interactive picture of the front: the elements that its script fills.
FRONT = f"""<div class="interactive">
<div class="card chart">
{CHART}</div>
<aside class="card" id="panel" aria-live="polite"></aside>
</div>
<p class="caption">@CAPTION@</p>
<details class="card"><summary>All networks on the front</summary>
<div class="scroll"><table id="table"></table></div></details>
<p hidden><span id="title"></span><span id="subtitle"></span></p>
<div id="toast" role="status"></div>
<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>
"""

REPORT_STYLE = """
body.report { max-width: 1120px; padding: 32px 28px 56px; line-height: 1.55; }
.report h1 { font-size: 28px; }
.report header .lead { font-size: 16px; color: var(--ink); margin: 10px 0 0; max-width: 72ch; }
.report section { margin-top: 36px; }
.report h2 { font-size: 19px; margin: 0 0 6px; letter-spacing: -.005em; }
.report section > p { margin: 0 0 12px; max-width: 76ch; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 22px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums;
  letter-spacing: -.01em; }
.tile span { color: var(--soft); font-size: 13px; }
.tile small { display: block; color: var(--soft); font-size: 12px; margin-top: 3px; }
figure { margin: 0; } figure.card { padding: 18px 16px 14px; }
figcaption { margin-top: 10px; color: var(--soft); font-size: 13px; max-width: 84ch; }
figcaption b, p.caption b { color: var(--ink); }
.report section > p.caption { margin: 10px 0 0; font-size: 13px; max-width: 84ch; }
figure svg.fig { width: 100%; height: auto; cursor: default; user-select: auto; -webkit-user-select: auto; }
figure .narrow { display: none; }
.report .interactive { display: grid; grid-template-columns: minmax(0, 1fr) 336px; gap: 14px; align-items: start; }
.report #panel { position: static; max-height: 640px; }
.report #panel h2 { font-size: 15px; margin-bottom: 10px; }
.report #plot { height: 440px; min-height: 0; }
.report details.card { margin-top: 14px; } summary { cursor: pointer; color: var(--accent); }
.report details .scroll { margin-top: 10px; }
.report tbody tr { cursor: default; } .report tbody tr:hover { background: none; }
.report #table tbody tr { cursor: pointer; } .report #table tbody tr:hover { background: var(--hover); }
.table { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.table table td, .table table th { padding: 9px 14px; }
.table.many { font-size: 13px; } .table.many table td, .table.many table th { padding: 9px 8px; }
.table tbody tr:last-child td { border-bottom: 0; }
.table tr.result td { font-weight: 650; background: var(--hover); }
.table thead th { position: static; }
.table td.text, .table th.text { text-align: left; } td.wrap { white-space: normal; overflow-wrap: anywhere; }
.meter { display: inline-block; width: 64px; height: 8px; margin-left: 8px; background: var(--bar);
  border-radius: 2px; }
.meter i { display: block; height: 100%; background: var(--accent); border-radius: 2px; }
pre.command { display: block; margin: 0 0 14px; padding: 12px 14px; background: var(--card); white-space: pre-wrap;
  border: 1px solid var(--line); border-radius: 10px; overflow-wrap: anywhere;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0 0 14px; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
ul.notes { margin: 0; padding-left: 18px; color: var(--soft); max-width: 84ch; }
footer { margin-top: 44px; color: var(--soft); font-size: 12.5px; }
@media (max-width: 900px) { .report .interactive { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 640px) {
  body.report { padding: 18px 12px 36px; } .report h1 { font-size: 22px; } .report section { margin-top: 28px; }
  figure .wide { display: none; } figure .narrow { display: block; } figure.card { padding: 12px 8px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 11px 12px; } .tile b { font-size: 20px; }
  .report #plot { height: 380px; } .table table td, .table table th { padding: 8px 9px; }
  dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; } dl.facts dd { margin-bottom: 8px; }
}
@media print {
  :root { --page: #fff; } body.report { padding: 0; max-width: none; } .report section { break-inside: avoid; }
  .bar, #hint, .command button, td button, details { display: none !important; }
  .card, .tile, .table { border-color: #ccc; }
}
"""
