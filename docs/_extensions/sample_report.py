"""Trains a sick network and its cure, and writes their report beside the pages."""

import logging
import tempfile
from pathlib import Path

import kbn
from kbn_command import demo

PLACE = "sample/report.html"  # to which docs/sample.md links
EPOCHS = 4


def sick_and_cured(logs, epochs):
    """Log the demo's network without batch norm below `logs`, twice.

    First at learning rate 2, then at that of the first alert. Returns both directories.
    """
    digits = demo.load_digits(0)
    sick, cured = Path(logs, "sick"), Path(logs, "cured")
    demo.train(digits, False, epochs, 0, sick, learning_rate=2.0)
    alert, *_ = kbn.callbacks.Report.read(sick).open_alerts
    demo.train(digits, False, epochs, 0, cured, learning_rate=float(alert.remedy.new))
    return sick, cured


def write(app, exception):
    """After the pages: the report of both."""
    if exception is None and app.builder.format == "html":
        out = Path(app.outdir, PLACE)
        out.parent.mkdir(exist_ok=True)
        logging.getLogger("kbn").disabled = True  # its alerts are none of the build
        with tempfile.TemporaryDirectory() as logs:
            kbn.callbacks.Report.read(*sick_and_cured(logs, EPOCHS)).save(out)


def setup(app):
    """Registers it with the end of the build."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
