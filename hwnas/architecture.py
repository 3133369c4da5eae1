"""One architecture with names: for people, files and logs. Algorithms use codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hwnas.errors import DamagedFile
from hwnas.files import read_json
from hwnas.space import Codes, SearchSpace, Value


@dataclass(frozen=True, slots=True)
class Architecture:
    """A point of a named space: values by choice name."""

    space: str
    values: Mapping[str, Value] = field(hash=False)

    @classmethod
    def of(cls, space: SearchSpace, code: Codes) -> Architecture:
        return cls(space.name, space.decode(code))

    def code(self, space: SearchSpace) -> Codes:
        """Codes (1, choices). Raises InputError where the architecture belongs to another space."""
        if self.space != space.name:
            raise DamagedFile(f"this architecture is of {self.space}, not of {space.name}")
        return space.encode(self.values)

    def to_json(self) -> str:
        return json.dumps({"format": "hwnas.architecture/1", "space": self.space, "values": dict(self.values)}, indent=1)

    @classmethod
    def load(cls, path: Path) -> Architecture:
        """Raises DamagedFile."""
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != "hwnas.architecture/1":
            raise DamagedFile(f"{path} is no architecture file of this version (format 'hwnas.architecture/1')")
        space, values = data.get("space"), data.get("values")
        if not isinstance(space, str) or not isinstance(values, dict):
            raise DamagedFile(f"{path} lacks 'space' or 'values'")
        return cls(space, values)
