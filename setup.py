"""The project's metadata; pyproject.toml holds the settings of the tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
#: What builds the documentation; a test does, too.
DOCS = ["sphinx>=8", "myst-parser>=4", "furo", "sphinx-click>=6", "sphinx-copybutton"]
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "rsreg" / "__init__.py").read_text())

setup(
    name="rsreg",
    version=VERSION[1],
    description="Service registry for test and measurement labs",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["rsreg", "rsreg.*"]),
    package_data={"rsreg": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "pyzmq>=27",
        "msgspec>=0.20",
        "psutil>=6",
        # pyzmq needs it for asyncio there.
        'tornado>=6.4; sys_platform == "win32"',
        "gevent>=25.9",
        "peewee>=4.5",
        "packaging>=24",
        "click>=8.1",
        "rich>=14",
    ],
    extras_require={
        "docs": DOCS,
        "shell": ["ipython"],
        "test": [
            *DOCS,
            "pytest>=8",
            "pytest-timeout",
            "pytest-randomly",
            "pytest-xdist",
            "pytest-cov>=7",
            "hypothesis",
            "mypy",
            "ruff",
            "types-gevent",
            "types-psutil",
        ],
    },
    entry_points={
        "console_scripts": ["rs_cs = rsreg.cli:main"],
        # Named like the module, so that "-p rsreg.pytest_plugin" is the same and no second one.
        "pytest11": ["rsreg.pytest_plugin = rsreg.pytest_plugin"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Operating System :: Microsoft :: Windows",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
