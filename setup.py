"""The one thing pyproject.toml cannot say: the folders devices/, latency_tables/ and export/ travel in the wheel as hwnas/_data/.

`hwnas.data.shipped` finds them there, or beside the package in a checkout and in an editable install.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("devices", "latency_tables", "export")


class BuildWithData(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in FOLDERS:
            target = Path(self.build_lib, "hwnas", "_data", folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", "build", ".*", "*.sqlite*"))


setup(cmdclass={"build_py": BuildWithData})
