"""What the names that clients use mean: aliases, models that nodes call by names of their own, and who may answer instead.

All comparing is done on canonical names (`names.canonical`), so case, ``:latest`` and file endings do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sollol.core.types import Model, Resident, Survey
from sollol.errors import ConfigError

from .bodies import changed
from .names import canonical

Names = Mapping[str, str]


class Known(Struct, frozen=True):
    """What is special about a name. ``model`` is the (canonical) model that it stands for.

    ``told``: replies have to be told under the name that the client used, because a node may tell another one. ``fallbacks``
    may answer in place of the model, in this order.
    """

    model: str
    told: bool = False
    fallbacks: tuple[str, ...] = ()


class Catalogue:
    """The names that the settings make. ``special`` holds only those of which there is something to say.

    ``aliases``: a name -> a model, as people wrote them. ``names`` are tables by their path in the settings: what nodes call a
    model -> what it is called here. Raises `ConfigError`, which begins with a path, for an alias of an alias or of itself, for
    a fallback of itself, for an empty name, and for two spellings of one name that mean different things.
    """

    def __init__(
        self, aliases: Names, names: Mapping[str, Names] | None = None, fallbacks: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.aliases = _table("aliases", aliases)
        self.written: Final = {canonical(name): name for name in aliases}
        for name, model in self.aliases.items():
            self._check_alias(name, model)
        self.names: Final = {path: _table(path, table) for path, table in (names or {}).items()}
        for path, table in self.names.items():
            for model in table.values():
                self._no_alias(path, model)
        self.special: Final[dict[str, Known]] = {}
        instead = {canonical(model): self._instead(model, others) for model, others in (fallbacks or {}).items()}
        renamed = {model for table in self.names.values() for model in table.values()}
        for model in (*renamed, *instead):
            self.special[model] = Known(model, model in renamed, instead.get(model, ()))
        for name, model in self.aliases.items():
            self.special[name] = Known(model, True, instead.get(model, ()))

    def model(self, name: str) -> str:
        """The canonical name of the model that ``name`` stands for."""
        plain = canonical(name)
        return self.aliases.get(plain, plain)

    def is_alias(self, name: str) -> bool:
        return canonical(name) in self.aliases

    def _check_alias(self, name: str, model: str) -> None:
        if name == model:
            raise ConfigError(f"aliases: '{self.written[name]}' is an alias of itself")
        self._no_alias(f"aliases: '{self.written[name]}'", model)

    def _no_alias(self, where: str, model: str) -> None:
        if model in self.aliases:
            separator = " stands for" if where.startswith("aliases: ") else ":"
            meant = f"'{self.written[model]}', which is an alias of '{self.aliases[model]}'"
            raise ConfigError(f"{where}{separator} {meant}: name the model itself")

    def _instead(self, model: str, others: Sequence[str]) -> tuple[str, ...]:
        first = canonical(model)
        self._no_alias("fallbacks", first)
        found = tuple(dict.fromkeys(canonical(other) for other in others))
        for other in found:
            self._no_alias("fallbacks", other)
        if not first or "" in found:
            raise ConfigError("fallbacks: a name is empty")
        if first in found:
            raise ConfigError(f"fallbacks: '{model}' is named in place of itself")
        return found


def _table(path: str, table: Names) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, model in table.items():
        key, value = canonical(name), canonical(model)
        if not key or not value:
            raise ConfigError(f"{path}: a name is empty")
        if found.setdefault(key, value) != value:
            raise ConfigError(f"{path}: '{name}' stands there twice, as '{found[key]}' and as '{value}'")
    return found


def renamed(survey: Survey, names: Names) -> Survey:
    """A survey with the names that models have here; ``names`` is canonical on both sides.

    A name that another model of the node has already is not given a second time.
    """
    own = {model.name for model in survey.models}
    given: dict[str, str] = {}
    for model in survey.models:
        public = names.get(model.name)
        if public is not None and public not in own:
            given[model.name] = public
            own.add(public)
    if not given:
        return survey
    return replace(
        survey,
        models=tuple(_model(model, given) for model in survey.models),
        resident=tuple(_resident(resident, given) for resident in survey.resident),
    )


def _model(model: Model, given: Names) -> Model:
    public = given.get(model.name)
    return model if public is None else replace(model, name=public, renamed=True, raw=_entry(model.raw, public))


def _resident(resident: Resident, given: Names) -> Resident:
    public = given.get(resident.name)
    return resident if public is None else replace(resident, name=public, raw=_entry(resident.raw, public))


def _entry(raw: bytes, public: str) -> bytes:
    return changed(raw, {"name": public, "model": public}) if raw else raw
