"""A network for each illness, the alert that names it, the cure, and the cured network.

Each pair of networks on scikit-learn's digits is the same but for what illnesses.py
says: one is ill, one is cured. The monitor watches both. Prints what it says and a
table, and writes a page for each pair, with a picture and both reports beside each
other, and an index of all.

    python sick_networks.py [--only TEXT [TEXT ...]] [--out DIR] [--gallery DIR]
"""

import argparse
import shutil
from pathlib import Path

import command
import gallery
from illnesses import ILLNESSES, train
from rich.progress import track


def text(given):
    """An argparse type: part of the name of an illness, or of its rule."""
    if any(matches(given, illness) for illness in ILLNESSES):
        return given
    names = ", ".join(illness.rule for illness in ILLNESSES)
    raise argparse.ArgumentTypeError(f"{given!r} is in none of {names}")


def matches(given, illness):
    """Whether an illness is meant by a text that is not empty."""
    return bool(given) and given in f"{illness.name} {illness.rule}"


def say(illness, sick, cured):
    """What the monitor says of both; returns a row of the table."""
    alert = sick.named(illness.rule)
    print(f"\n{illness.title}. The monitor says:")
    print(f"  {alert or sick.others()}")
    print(f"The cure: {illness.cure}. Then it says: {cured.others()}.")
    return (
        illness.name,
        illness.rule if alert else "not found",
        f"{sick.accuracy:.0%}",
        illness.cure,
        f"{cured.accuracy:.0%}",
        cured.others(),
    )


def put(picture, path):
    """Copy a picture; says whether one was there."""
    verb = "Replaced" if path.exists() else "Wrote"
    shutil.copyfile(picture, path)
    print(f"{verb} {path}")


def main():
    """Train every pair, print what the monitor says, write their pages."""
    parser = command.parser(__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        type=text,
        metavar="TEXT",
        help="part of an illness or of its rule; several are several",
    )
    command.add_out(parser, "sick-networks")
    parser.add_argument(
        "--gallery",
        type=command.existing_directory,
        metavar="DIR",
        help="a directory for a copy of each picture, named after the rule; those that "
        "are there are replaced",
    )
    options = parser.parse_args()
    chosen = [
        illness
        for illness in ILLNESSES
        if not options.only or any(matches(x, illness) for x in options.only)
    ]
    out = command.new_directory(parser, options.out)
    rows, found = [], []
    for illness in track(chosen, "Training"):
        place = out / illness.rule
        outcomes = [
            train(network, place / name)
            for name, network in (("sick", illness.sick), ("cured", illness.cured))
        ]
        rows.append(say(illness, *outcomes))
        gallery.write(illness, outcomes, place)
        found.append((illness, outcomes))
        if options.gallery:
            name = f"{illness.rule}.png"
            put(place / "picture.png", Path(options.gallery, name))
    gallery.write_index(found, out / "index.html")
    print("\n| illness | alert | accuracy | cure | then | alerts then |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\nOpen: {out / 'index.html'}")
    print(f"Now run: tensorboard --logdir {out}")


if __name__ == "__main__":
    main()
