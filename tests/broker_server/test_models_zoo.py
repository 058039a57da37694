"""The zoo by name, a user's model by module:function, and everything else refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker_server.models import MODELS, ModelError, build_model

USER_MODULE = """
import tf_keras

def net(shape, classes):
    return tf_keras.Sequential([tf_keras.layers.Input(shape), tf_keras.layers.Dense(classes)])

def broken(shape, classes):
    raise ValueError("needs at least 8 columns")

def nothing(shape, classes):
    return None

number = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_models.py").write_text(USER_MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "users_models", raising=False)


def test_small_cnn_is_the_one_described() -> None:
    model = build_model("small_cnn", (64, 64, 1), 2)
    assert model.count_params() == 71_489
    assert [layer.filters for layer in model.layers if hasattr(layer, "filters")] == [8, 16, 32]


def test_a_users_model_is_found_in_the_working_directory(user_module: None) -> None:
    assert build_model("users_models:net", (5,), 3).output_shape == (None, 3)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet9000", "unknown model 'resnet9000': use one of small_cnn"),
        ("small_mlp", "takes table data, this is image data: use small_cnn"),
        ("users_models:broken", "cannot be built for input .*: needs at least 8 columns"),
        ("users_models:nothing", "returned NoneType"),
        ("users_models:number", "not a function"),
        ("users_models:absent", "cannot be loaded"),
        ("no_such_module:net", "cannot be loaded"),
        (":net", "is not module:function"),
    ],
)
def test_what_is_no_model_is_refused(user_module: None, reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(reference, (64, 64, 1), 2)


def test_listing_the_zoo_does_not_import_tensorflow() -> None:
    code = "import sys, broker_server.models as m; print(len(m.MODELS), 'tensorflow' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(MODELS)), "False"]
