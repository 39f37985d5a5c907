"""Packaging of Gestalt: one import package, three console scripts, drivers as entry points."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

RUNTIME = [
    "APScheduler>=3.10,<4",
    "click>=8.1",
    "cryptography>=42",
    "docker>=7.1",
    "grpcio>=1.62",
    "grpcio-health-checking>=1.62",
    "grpcio-reflection>=1.62",
    "kazoo>=2.10",
    "numpy>=1.26",
    "protobuf>=4.25",
    "psutil>=5.9",
    "pydantic>=2.7",
    "PyYAML>=6.0",
    "regex>=2024.4",
    "rich>=13.7",
]

DEVELOPMENT = [
    "hypothesis>=6.100",
    "import-linter>=2.0",
    "jsonschema>=4.21",
    "mypy>=1.11",
    "pytest>=8.2",
    "pytest-asyncio>=0.24",
    "pytest-timeout>=2.3",
    "ruff>=0.6",
    "types-docker",
    "types-psutil",
    "types-PyYAML",
    "types-protobuf",
    "types-regex",
    "grpc-stubs",
]

setup(
    name="gestalt",
    version="0.1.0",
    description="Turns a set of RHEL-family machines into one resilient place to run applications",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["gestalt", "gestalt.*"]),
    package_data={"gestalt": ["py.typed", "spec/*.json", "systemd/*.service"], "gestalt.proto": ["**/*.proto", "**/*.pyi"]},
    install_requires=RUNTIME,
    extras_require={"dev": DEVELOPMENT},
    entry_points={
        "console_scripts": [
            "gestaltctl=gestalt.ctl.main:main",
            "gestalt-agent=gestalt.agent.main:main",
            "gestalt-coordinator=gestalt.coordinator.main:main",
            "gestalt-fence=gestalt.agent.fence.main:main",
        ],
        "gestalt.runtime": [
            "docker=gestalt.plugins.runtime.docker:DockerRuntime",
            "process=gestalt.plugins.runtime.process:ProcessRuntime",
        ],
        "gestalt.loadbalancer": ["haproxy=gestalt.plugins.loadbalancer.haproxy:HaproxyLoadBalancer"],
        "gestalt.check": [
            "http=gestalt.plugins.check.http:HttpCheck",
            "https=gestalt.plugins.check.http:HttpCheck",
            "tcp=gestalt.plugins.check.tcp:TcpCheck",
            "grpc=gestalt.plugins.check.grpc:GrpcCheck",
            "exec=gestalt.plugins.check.exec:ExecCheck",
            "docker=gestalt.plugins.check.docker:DockerCheck",
        ],
    },
)
