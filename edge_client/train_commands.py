"""``bramble-edge train --once``: a round by hand, for teaching and for sites without a network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compression.command_line import Commands, command, count, fraction, rate
from compression.progress import progress_bar
from compression.records import to_plain
from compression.updates import PROFILES
from compression.weights_file import read_weights
from edge_client.data.source import find_source
from edge_client.files import write_atomically
from edge_client.wire.rounds import TrainingPlan
from edge_client.wire.update_file import UpdateFile


def add_train(commands: Commands) -> None:
    """Add ``train``."""
    parser = command(
        commands,
        "train",
        run_train,
        "train on this site's examples and write an update file for `bramble-server aggregate`",
        "bramble-edge train --once --bundle bundle/ --weights bundle/weights.npz --data scans/ "
        "--site clinic-a --out clinic-a.bin",
    )
    parser.add_argument("--once", action="store_true", required=True, help="without a broker: files only")
    parser.add_argument("--bundle", type=Path, required=True, help="as `bramble-compress trainable` made it")
    parser.add_argument("--weights", type=Path, required=True, metavar="NPZ", help="the global weights")
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="a folder by class, an npz, a table, or KIND:PATH"
    )
    parser.add_argument("--labels", type=Path, metavar="CSV", help="of path and label, for pictures in PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the update")
    _add_training(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--site", default="site", help="its name, a different one each (default: site)")
    parser.add_argument("--round", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--epochs", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--learning-rate", type=rate, default=1e-3, metavar="R", help="default: %(default)g")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--validation-fraction",
        type=fraction,
        default=0.0,
        metavar="F",
        help="held out, to say how the global weights do here (default: none)",
    )
    parser.add_argument(
        "--codec",
        choices=sorted(PROFILES),
        default="lossless",
        help="default: %(default)s; with a smaller one give --residual too",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="decoded pictures and features, from one round to the next"
    )
    parser.add_argument(
        "--residual", type=Path, metavar="NPZ", help="what a codec kept back, from one round to the next"
    )


def run_train(arguments: argparse.Namespace) -> int:
    """Train and write; 0."""
    from edge_client.by_hand import Site, extractor_beside, read_bundle_file, train_once  # noqa: PLC0415 - loads the runtime

    plan = TrainingPlan(
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        codec=arguments.codec,
        seed=arguments.seed,
    )
    site = Site(
        arguments.site,
        find_source(arguments.data, arguments.labels),
        arguments.validation_fraction,
        arguments.threads,
        arguments.cache,
    )
    with progress_bar() as report:
        update = train_once(
            read_bundle_file(arguments.bundle),
            read_weights(arguments.weights).weights,
            site,
            plan,
            round_number=arguments.round,
            residual=arguments.residual,
            extractor=extractor_beside(arguments.bundle),
            report=report,
        )
    data = update.to_bytes()
    write_atomically(arguments.out, data)
    facts = {"file": str(arguments.out), "bytes": len(data), **to_plain(update.header)}
    print(json.dumps(facts, indent=2) if arguments.json else _text(arguments.out, len(data), update))
    return 0


def _text(path: Path, size: int, update: UpdateFile) -> str:
    training, held_out = update.header.training, update.header.evaluation
    text = (
        f"{path}: {size} bytes, {update.header.codec}; {training.examples} examples, {training.steps} steps, "
        f"loss {training.loss:.3f}, {training.seconds:.1f} s"
    )
    if held_out is None or held_out.accuracy is None:
        return text
    return (
        f"{text}\nthe weights it began from: accuracy {held_out.accuracy:.3f} on {held_out.examples} held out"
    )
