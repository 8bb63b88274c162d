"""A sick network beside the cured one: their picture, their reports, and an index."""

import html
import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, NullLocator

import kbn

SICK, CURED = "#a4001d", "#00634a"  # as the report's "critical" and "healthy"
# Of a cell of the report's map: what it is called, its colour and its height. Height
# says what colour says, for eyes that cannot tell the colours.
GRAVE = {
    0: ("healthy", "#9dbfca", 0.25),
    1: ("outside guide values", "#d9b64a", 0.55),
    2: ("beyond guide values", "#d55e00", 1.0),
    3: ("NaN or Inf", "#5b1e6d", 1.0),
}
GUESSING = np.log(10)  # nats: the loss of ten equal probabilities
NAMED = 9  # rows of a map, of which each is named
PLAIN = {"fontsize": 11, "frameon": False}


def draw(illness, runs, outcomes, path):
    """One picture: the sick run on the left, the cured one on the right.

    runs: of a `Report` each.
    """
    figure = Figure(figsize=(6.4, 6.8), layout="constrained")
    figure.suptitle(f"{illness.title}\n{illness.rule}", weight="bold", size=15)
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(4, 5))
    panels[0, 1].sharey(panels[0, 0])  # not the layers: the other run may have others
    for column, (run, outcome, name, colour) in enumerate(
        zip(runs, outcomes, ("Sick", "Cured"), (SICK, CURED), strict=True)
    ):
        title = f"{name}: {outcome.accuracy:.0%} right"
        panels[0, column].set_title(title, color=colour, weight="bold", size=15)
        draw_losses(panels[0, column], run, colour)
        draw_layers(panels[1, column], run)
    panels[0, 1].tick_params(labelleft=False)
    panels[0, 1].text(
        1, GUESSING, "guessing", va="top", ha="right", color="0.4", size=11
    ).set_transform(panels[0, 1].get_yaxis_transform())
    panels[0, 0].set_ylabel("loss (nats)", size=12)
    panels[1, 0].set_ylabel("layers, input at the top", size=12)
    figure.legend(handles=legend(runs), loc="outside lower center", ncols=2, **PLAIN)
    figure.savefig(path, dpi=125, metadata={"Software": None})


def legend(runs):
    """What the lines are, and the colours of the layers that are met."""
    met = {
        cell.severity for run in runs for row in run.health.rows for cell in row.cells
    }
    colours = {word: colour for i, (word, colour, _) in GRAVE.items() if i in met}
    return [
        Line2D([], [], color="0.3", lw=2.5, label="training"),
        Line2D([], [], color="0.3", lw=2.5, linestyle=":", label="validation"),
        *(Patch(color=colour, label=word) for word, colour in colours.items()),
        Patch(fill=False, edgecolor="black", lw=1.5, label="alert"),
    ]


def draw_losses(axes, run, colour):
    """Of each epoch, in training and, dotted, in validation."""
    (loss,) = [metric for metric in run.metrics if metric.name == "loss"]
    known = dict(loss.courses)
    for kind, style in (("training", "-"), ("validation", ":")):
        course = known[kind]
        axes.plot(course.steps, course.values, style, color=colour, lw=2.5)
    if not any(len(course.finite) for course in known.values()):
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "NaN", color=colour, size=15, **middle)
    axes.axhline(GUESSING, color="0.6", linestyle="--", lw=1, zorder=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def draw_layers(axes, run):
    """The report's map: a row a layer, its health over the steps."""
    health = run.health
    columns = [*itertools.pairwise([*health.steps, health.last + 1])]
    for number, row in enumerate(health.rows):
        bottom = number + 0.45  # rows are counted downwards
        for cell, (left, right) in zip(row.cells, columns, strict=True):
            if cell.severity in GRAVE:
                _, colour, height = GRAVE[cell.severity]
                box = (left, bottom - 0.9 * height), right - left, 0.9 * height
                axes.add_patch(Rectangle(*box, color=colour, lw=0))
        since = [alert.step for alert in row.alerts if alert.is_open]
        if since:
            box = (min(since), bottom - 0.9), health.last + 1 - min(since), 0.9
            axes.add_patch(Rectangle(*box, fill=False, edgecolor="black", lw=1.5))
    names = [row.layer for row in health.rows]
    places = range(len(names)) if len(names) <= NAMED else (0, len(names) - 1)
    axes.set_yticks(places, [names[i] for i in places])
    axes.tick_params(labelsize=10, left=False)
    axes.set_xlim(0, health.last + 1)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("training step", size=12)
    axes.spines[["top", "right", "left"]].set_visible(False)


CSS = """
:root{color-scheme:light dark;--rule:#8886;--sick:#a4001d;--cured:#00634a}
@media(prefers-color-scheme:dark){:root{--sick:#ff8095;--cured:#5fd3ae}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1500px;padding:14px 18px 40px;
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.2rem;margin:0 0 .3em}
p{margin:.4em 0}.sick{color:var(--sick)}.cured{color:var(--cured)}
.cards{display:grid;gap:18px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.card{border:1px solid var(--rule);border-radius:8px;padding:12px 14px}
img{width:100%;height:auto;display:block;border-radius:4px;background:#fff}
.pair{display:grid;gap:14px;margin-top:14px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
iframe{width:100%;height:82vh;border:1px solid var(--rule);border-radius:6px}
"""


def document(title, body):
    """A page that loads nothing from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def words(illness, outcomes):
    """What both pages say of an illness."""
    sick, cured = outcomes
    alert = sick.named(illness.rule) or f"Not found. Other alerts: {sick.others()}."
    return (
        f'<p class="sick"><b>Sick: {sick.accuracy:.0%} right.</b> '
        f"{html.escape(str(alert))}</p>\n"
        f"<p>The cure: {html.escape(illness.cure)}.</p>\n"
        f'<p class="cured"><b>Cured: {cured.accuracy:.0%} right.</b> '
        f"Alerts: {html.escape(cured.others())}.</p>\n"
    )


def write(illness, outcomes, directory):
    """The picture, both reports, and a page with the reports beside each other.

    The logs are in `directory`/sick and `directory`/cured.
    """
    runs = []
    for name in ("sick", "cured"):
        report = kbn.callbacks.Report.read(directory / name)
        report.save(directory / f"{name}.html")
        runs += report.runs
    draw(illness, runs, outcomes, directory / "picture.png")
    frames = "".join(
        f'<iframe src="{name}.html" title="Report of the {name} network"></iframe>'
        for name in ("sick", "cured")
    )
    back = '<p><a href="../index.html">All illnesses</a></p>'
    body = f'{words(illness, outcomes)}<div class="pair">{frames}</div>{back}'
    (directory / "index.html").write_text(document(illness.title, body), "utf-8")


def write_index(found, path):
    """Of all illnesses; found: (illness, its two outcomes) each."""
    cards = "\n".join(
        f'<section class="card"><h2>{html.escape(illness.title)}</h2>\n'
        f"{words(illness, outcomes)}"
        f'<a href="{illness.rule}/index.html">'
        f'<img src="{illness.rule}/picture.png" alt="Loss and health of the layers, '
        f'sick and cured">Both reports</a></section>'
        for illness, outcomes in found
    )
    body = f'<div class="cards">{cards}</div>'
    path.write_text(document("Sick networks, and their cures", body), "utf-8")
