"""Packaging: two installs from one source tree, ``bramble[edge]`` and ``bramble[server]``.

``pip install .[edge]`` is what a Raspberry Pi carries: a few tens of megabytes and no TensorFlow.
``pip install .[server]`` is the workstation: the compiler, the broker, the aggregator, the reports.
"""

from pathlib import Path

from setuptools import find_packages, setup

# LiteRT has no 32-bit Arm wheel and tflite-runtime stops at Python 3.11 and NumPy 1.
ON_64_BIT = "platform_machine in 'x86_64 AMD64 aarch64 arm64'"
ON_32_BIT_ARM = "platform_machine in 'armv7l armv6l'"

EDGE = [
    "cryptography>=42",
    "paho-mqtt>=2.2,<3",
    "pillow>=10",
    f"ai-edge-litert>=2.1; {ON_64_BIT}",
    f"tflite-runtime==2.14.0; {ON_32_BIT_ARM} and python_version < '3.12'",
    f"numpy>=1.24,<2; {ON_32_BIT_ARM}",
    f"numpy>=1.24; {ON_64_BIT}",
]

SERVER = [
    *EDGE,
    "aiohttp>=3.10",  # the enrolment service
    "amqtt==0.12.1",  # the behaviour relied on was measured on this version: docs/adr/0003
    "isal>=1.7",
    "jsonschema>=4.18",
    "bsdiff4>=1.2",
    "matplotlib>=3.8",
    "PyYAML>=6",
    "packaging>=23",
    "psutil>=5.9",
    "rich>=13",
    "scikit-learn>=1.4",
    "tensorflow>=2.19,<2.22",
    "tensorflow-model-optimization>=0.8,<0.9",
    "tomli-w>=1",
    "tomlkit>=0.13",
    "tf-keras>=2.19,<2.22",
    "xxhash>=3.4",
    "zstandard>=0.23",
]

MLFLOW = ["mlflow-skinny>=2.14"]  # the client; a server is whatever the house has

METER = ["pyserial>=3.5"]  # a USB meter in a Pi's supply line, for `bramble-bench energy`

DEV = [
    *SERVER,
    *MLFLOW,
    *METER,
    "hypothesis>=6.100",
    "mypy>=1.11",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "types-jsonschema",
    "types-psutil",
    "types-pyserial",
    "types-PyYAML",
]

# For `bramble-bench peers`, in an environment of its own: its versions are not ours.
PEERS = ["flwr>=1.40,<2"]

PACKAGES = ["benchmarks", "broker_server", "compression", "edge_client", "provisioning"]

setup(
    name="bramble",
    version="0.1.0",
    description="Federated learning on Raspberry Pis: from a blank card to a trained, signed int8 model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11,<3.14",  # from 3.14 the standard library has a package named compression
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={name: ["py.typed"] for name in PACKAGES}
    | {"provisioning.customise": ["firstrun.sh", "schemas/*"], "edge_client.inference": ["page.html"]},
    install_requires=["numpy>=1.24"],
    extras_require={"edge": EDGE, "server": SERVER, "mlflow": MLFLOW, "meter": METER, "dev": DEV},
    entry_points={
        "console_scripts": [
            "bramble-server = broker_server.cli:main",
            "bramble-edge = edge_client.cli:main",
            "bramble-provision = provisioning.cli:main",
            "bramble-compress = compression.cli:main",
            "bramble-bench = benchmarks.cli:main",
        ]
    },
)
