"""The built-in captioner adapted to posters: are genres named in captions of movies that it was not shown?

    python benchmarks/adapt.py --data data/movielens [--out runs/adapt] [--minutes 10]

The data set is `captionary data movielens-posters`, split cold: a fifth of the movies held out. Writes
benchmarks/results/adapt.json: average precision per genre and over all, of the captioner as it was, of the adapted one
and of a linear probe on its encoder's features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
from result import write_result

from captionary.contract import open_dataset
from captionary.understand.adapt import AdaptConfig, adapt, catalogue_of, readable


def main() -> None:
    """Adapt, score and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/adapt"))
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    data = open_dataset(args.data)
    items, learnt = data.items(), data.items_in("cold", "train")
    shown, unseen = (
        readable(catalogue_of(items.filter(pa.array(side)), ["genres"], data.media_path))
        for side in (learnt, data.items_in("cold", "eval") & ~learnt)
    )
    result = adapt(
        shown, unseen, args.out, AdaptConfig(minutes=args.minutes), name=data.spec.name, columns=["genres"]
    )
    assert result.before is not None
    assert result.after is not None
    assert result.probe is not None
    assert result.drawn is not None
    print(result.to_markdown())
    figures = {
        "training_items": result.training_items,
        "held_out_items": result.held_out_items,
        "minutes": args.minutes,
        "as_it_was": result.before._asdict(),
        "adapted": result.after._asdict(),
        "drawn": result.drawn._asdict(),
        "probe": result.probe._asdict(),
        "adapted_over_probe": round(result.after.micro / result.probe.micro, 3),
        "drawn_over_probe": round(result.drawn.micro / result.probe.micro, 3),
    }
    print(write_result("adapt", figures))


if __name__ == "__main__":
    main()
