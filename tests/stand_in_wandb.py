"""In the place of the package wandb: it keeps what it is told.

`test_stand_in_takes_what_the_package_takes` compares the two, where wandb is installed.
"""


class Run:
    def __init__(self):
        self.rows, self.alerts, self.axes = [], [], {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def define_metric(self, name, step_metric=None, step_sync=None, hidden=None):
        self.axes[name] = step_metric

    def log(self, data):
        self.rows.append(data)

    def alert(self, title, text, level=None):
        self.alerts.append((title, text, level))


class Histogram:
    def __init__(self, sequence=None, np_histogram=None):
        self.counts, self.edges = np_histogram


class Html:
    def __init__(self, data, inject=True):
        self.html, self.is_changed = data, inject


def init(entity=None, project=None):
    return Run()
