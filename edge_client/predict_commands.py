"""``bramble-edge predict``, ``watch`` and ``serve``: asking the released model on the device."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
import threading
from pathlib import Path

from compression.command_line import Commands, command, count, seconds, stop_on_signals
from edge_client.config import EdgeConfig, load_config
from edge_client.data import DataError
from edge_client.inference.camera import camera_command, take_picture
from edge_client.inference.live import LiveModel
from edge_client.inference.predict import MAX_STDIN_BYTES, STDIN, Prediction, predict_files
from edge_client.inference.slots import FOLDER
from edge_client.inference.watch import Camera, Results, Watcher, watch
from edge_client.inference.web import PredictionServer, is_loopback
from edge_client.options import add_config

NOT_CLINICAL = "not for clinical use"


def add_predict(commands: Commands) -> None:
    """``predict``: answers for files, folders, standard input or the camera."""
    parser = command(
        commands,
        "predict",
        _predict,
        f"answer for pictures or table rows with the released model; {NOT_CLINICAL}",
        "bramble-edge predict --config edge.toml scan.png more-scans/",
        json="print one JSON object a line",
    )
    add_config(parser)
    parser.add_argument(
        "paths", type=Path, nargs="*", metavar="FILE|DIR|-", help="pictures, tables, folders, standard input"
    )
    parser.add_argument("--camera", metavar="COMMAND", help="take a picture first; {file} is where to")
    parser.set_defaults(usage_error=parser.error)


def add_watch(commands: Commands) -> None:
    """``watch``: answers for what comes into a folder."""
    parser = command(
        commands,
        "watch",
        _watch,
        f"answer for every picture or table that comes into a folder, until stopped; {NOT_CLINICAL}",
        "bramble-edge watch inbox --out results.jsonl",
        json="print each answer as JSON too",
    )
    add_config(parser)
    parser.add_argument("folder", type=Path, metavar="DIR", help="subfolders are left out")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON lines; what is in it is not asked again"
    )
    parser.add_argument(
        "--every", type=seconds, default=2.0, help="seconds between looks (default: %(default)s)"
    )
    parser.add_argument("--camera", metavar="COMMAND", help="take a picture at each look; {file} is where to")
    parser.add_argument("--keep", type=count, default=100, help="camera pictures (default: %(default)s)")


def add_serve(commands: Commands) -> None:
    """``serve``: the page and its endpoint."""
    parser = command(
        commands,
        "serve",
        _serve,
        f"a page to try a picture, and POST /predict, on this machine; {NOT_CLINICAL}",
        "bramble-edge serve --port 8080",
        json=None,
    )
    add_config(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any free one (default: %(default)s)")


def open_model(config: EdgeConfig) -> LiveModel:
    """The device's active model; raise `SlotError` before the first release."""
    return LiveModel(Path(config.state) / FOLDER, threads=config.threads)


# ---- predict ----


def _predict(arguments: argparse.Namespace) -> int:
    if not arguments.paths and not arguments.camera:
        arguments.usage_error("nothing to answer for: give a file, a folder, - or --camera")
    with tempfile.TemporaryDirectory() as folder, open_model(load_config(arguments.config)) as model:
        paths = list(arguments.paths)
        if arguments.camera:
            shot = Path(folder) / "camera.jpg"
            take_picture(camera_command(arguments.camera), shot)
            paths.append(shot)
        rows = predict_files(model, paths, _standard_input() if STDIN in paths else b"")
        if not arguments.json:
            print(_header(model))
        failed = False
        for row in rows:
            failed = failed or row.error is not None
            print(json.dumps(dataclasses.asdict(row)) if arguments.json else _line(row), flush=True)
    return 1 if failed else 0


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if not 0 < len(data) <= MAX_STDIN_BYTES:
        raise DataError(f"standard input holds {len(data)} bytes or more, 1 to {MAX_STDIN_BYTES} are taken")
    return data


def _header(model: LiveModel) -> str:
    active = model.model
    heads = f"{'label':20} {'probability':>11} {'ms':>9}"
    return f"{heads}  file   (model {active.version}, {active.spec.name})"


def _line(row: Prediction) -> str:
    if row.refused and row.unlike is not None:
        return f"{'refused':20} {'':11} {'':9}  {row.file}: {refusal_in_words(row.unlike)}"
    if row.label is None or row.probability is None or row.latency_ms is None:
        return f"{'no answer':20} {'':11} {'':9}  {row.file}: {row.error}"
    return f"{row.label:20.20} {row.probability:11.3f} {row.latency_ms:9.3f}  {row.file}"


def refusal_in_words(unlike: float) -> str:
    """Why an input was refused."""
    return f"unlike the training images (distance {unlike:.2f}, up to 1 is answered)"


# ---- watch ----


def _watch(arguments: argparse.Namespace) -> int:
    if not arguments.folder.is_dir():
        raise DataError(f"{arguments.folder} is not a folder")
    camera = Camera(camera_command(arguments.camera), arguments.keep) if arguments.camera else None
    _log_warnings()
    stop = stop_on_signals()
    with open_model(load_config(arguments.config)) as model:
        watcher = Watcher(arguments.folder, Results(arguments.out), model)
        if not arguments.json:
            print(_header(model), flush=True)
        for row in watch(watcher, arguments.folder, stop, every_s=arguments.every, camera=camera):
            print(json.dumps(dataclasses.asdict(row)) if arguments.json else _line(row), flush=True)
    return 0


# ---- serve ----


def _serve(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    _log_warnings()
    stop = stop_on_signals()
    with (
        open_model(config) as model,
        PredictionServer(model, arguments.host, arguments.port, device=config.name) as server,
    ):
        if not is_loopback(arguments.host):
            warning = "anyone who reaches this address can ask the model, and nothing is encrypted"
            print(f"warning: {warning}", file=sys.stderr)
        print(f"try a picture: {server.url}   (Ctrl-C ends)", flush=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        stop.wait()
        server.shutdown()
        thread.join()
    return 0


def _log_warnings() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
