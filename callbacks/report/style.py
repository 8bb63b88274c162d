"""The style of the page: light, dark, in print, on a phone, and in a notebook.

All of it is below `.kbn`. A page follows the system's colours; a part of another page,
those of Jupyter, VS Code, Colab or Sphinx.
"""

LIGHT = """--bg:#fff;--card:#f6f7f8;--ink:#1b1f23;--dim:#5a646e;
--rule:#d5dadf;--g0:#9dbfca;--g1:#d9b64a;--g2:#d55e00;--g3:#5b1e6d;--accent:#0072b2;
--critical:#a4001d;--warning:#b34700;--info:#00588a;--healthy:#00634a"""
DARK = """--bg:#14171a;--card:#1d2226;--ink:#e8ebee;
--dim:#9aa5b0;--rule:#3a4249;--g0:#3d5f6a;--g1:#a98a2c;--g2:#f5813a;--g3:#d9a3ee;
--accent:#56b4e9;--critical:#ff8095;--warning:#ffa263;--info:#79c4f2;--healthy:#5fd3ae"""
RULES = """
*{box-sizing:border-box}
color:var(--ink);font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere;
&.page{margin:0 auto;max-width:1180px;padding:16px 20px 60px;background:var(--bg)}
h1{font-size:1.15rem;margin:.2em 0;color:var(--dim);font-weight:600}
h2{font-size:1.05rem;margin:1.3em 0 .5em;border-bottom:1px solid var(--rule)}
.verdict{font-size:1.35rem;line-height:1.3;font-weight:650;margin:.3em 0 .6em;
padding:.5em .7em;border-left:6px solid currentColor;background:var(--card)}
.critical{color:var(--critical)}.warning{color:var(--warning)}.info{color:var(--info)}
.healthy{color:var(--healthy)}.unknown{color:var(--dim)}
.mark{font-weight:700}
.alert{margin:.4em 0;padding:.35em .7em;background:var(--card);
border-left:4px solid currentColor}
.alert p{margin:.25em 0 0}.ink{color:var(--ink)}
summary{cursor:pointer}summary h2{display:inline-block;margin:.6em 0 .2em;border:0}
nav{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:.87rem}
a{color:var(--accent)}
.dim{color:var(--dim);font-size:.87rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr));
gap:14px;margin-bottom:14px}
.charts figure{max-width:520px}
figure{margin:0;padding:8px;background:var(--card);border-radius:6px;break-inside:avoid}
figcaption{font-weight:600;font-size:.87rem}
figure svg{width:100%;height:auto;display:block}
.line{fill:none;stroke:var(--accent);stroke-width:1.8;stroke-linejoin:round}
.grid{stroke:var(--rule)}.tick{font-size:10px;fill:var(--dim)}.end{text-anchor:end}
.level{stroke:var(--dim);stroke-dasharray:4 3}.middle{text-anchor:middle}
.guide{fill:var(--healthy);fill-opacity:.1}
.spot{fill:transparent}.spot:hover{fill:var(--dim);fill-opacity:.16}
.lost{fill:var(--g3);font-size:12px;text-anchor:middle}
.outer,.inner{fill:var(--accent);stroke:none!important;fill-opacity:.22}
.inner{fill-opacity:.34}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.82rem;margin:.2em 0 .5em}
.legend .key,svg.key{width:24px;height:10px;display:inline-block;margin-right:5px}
svg.key line{stroke-width:2.4}
.heat{font-size:.82rem}
.row{display:grid;grid-template-columns:minmax(92px,20%) 1fr minmax(0,24%);gap:8px;
align-items:center;min-height:19px;color:var(--dim)}
.row svg{width:100%;height:15px;display:block}
.row .name{white-space:nowrap;overflow:hidden;text-overflow:ellipsis;text-align:right}
.row .why{font-size:.78rem;line-height:1.15}
.row.critical,.row.warning,.row.info{font-weight:650}
.row.critical{color:var(--critical)}.row.warning{color:var(--warning)}
.row.info{color:var(--info)}
.ends{display:flex;justify-content:space-between}
.heat summary{cursor:pointer;color:var(--dim);padding:2px 0}
.g0{fill:var(--g0)}.g1{fill:var(--g1)}.g2{fill:var(--g2)}.g3{fill:var(--g3)}
.open{fill:none;stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
.scroll{overflow-x:auto;max-width:100%;background:
linear-gradient(90deg,var(--bg) 30%,transparent) 0/40px 100%,
linear-gradient(270deg,var(--bg) 30%,transparent) 100%/40px 100%,
linear-gradient(90deg,var(--dim),transparent) 0/9px 100%,
linear-gradient(270deg,var(--dim),transparent) 100%/9px 100%;
background-repeat:no-repeat;background-attachment:local,local,scroll,scroll}
.sort th{cursor:pointer}
table{border-collapse:collapse;font-size:.84rem}
th,td{padding:3px 9px 3px 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--rule);overflow-wrap:break-word}
th{color:var(--dim);font-weight:600}td.n,th.n{text-align:right}
td{white-space:nowrap}
td:first-child{max-width:320px;overflow:hidden;
text-overflow:ellipsis}
.spark{width:60px;height:16px;vertical-align:-3px;margin-right:4px}
.spark polyline{fill:none;stroke:var(--dim);stroke-width:1.3}
td.s2,td.s3{color:var(--warning);font-weight:700}td.s1{color:var(--ink)}
td.words{white-space:normal;min-width:180px}
details.run{margin-top:2em}details.run>summary{font-size:1.2rem;font-weight:650;
cursor:pointer;border-bottom:2px solid var(--rule)}
.swatch{display:inline-block;width:.75em;height:.75em;margin-right:.4em;
vertical-align:-.05em}
@media(max-width:560px){&.page{padding:10px 10px 40px}td:first-child{max-width:150px}
.verdict{font-size:1.12rem}
.row{grid-template-columns:96px 1fr}.row .why{grid-column:1/-1;padding-left:104px}
.row .why:empty{display:none}}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
&.page{max-width:none;font-size:11px}.spot{display:none}
tr,.alert,.row{break-inside:avoid}}
"""
AROUND = "[data-jp-theme-light=false],.vscode-dark,[theme=dark],[data-theme=dark]"
CSS = (
    f".kbn{{{LIGHT}}}:is({AROUND}) .kbn{{{DARK}}}"
    ":root:has(.page){color-scheme:light dark}"
    f"@media screen and (prefers-color-scheme:dark){{.kbn.page{{{DARK}}}}}"
    f".kbn{{{RULES}}}"
)
