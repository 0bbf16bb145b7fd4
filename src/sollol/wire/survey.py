"""What nodes say about themselves: replies of Ollama, llama.cpp, vLLM, LM Studio and others, read into values.

Every function raises `ValueError` with plain words for broken JSON, a wrong type or an absurd value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from sollol.core.types import Model, NodeKind, Resident

from .names import canonical
from .unreadable import UNREADABLE

MAX_MODELS: Final = 10_000
# keep_alive -1 shows as a year some centuries ahead
_LAST_YEAR: Final = 2200
_UNITS: Final = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_OWNERS: Final = {"vllm": NodeKind.VLLM, "llamacpp": NodeKind.LLAMACPP}
_PARAMETERS: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMBT]?)", re.IGNORECASE)

Name = Annotated[str, Meta(max_length=4_096)]
Size = Annotated[int, Meta(ge=0, le=1 << 60)]
Tokens = Annotated[int, Meta(ge=0, le=1 << 40)]
Some = TypeVar("Some")


class _Details(Struct):
    parameter_size: str | None = ""
    context_length: Tokens | None = None


class _Tag(Struct):
    name: Name = ""
    model: Name = ""
    modified_at: Name | None = ""
    size: Size | None = 0
    digest: Name | None = ""
    details: _Details | None = None
    capabilities: list[Name] | None = None


class _Loaded(Struct):
    name: Name = ""
    model: Name = ""
    size: Size | None = 0
    size_vram: Size | None = 0
    digest: Name | None = ""
    expires_at: Name | None = ""
    context_length: Tokens | None = None


class _Entries(Struct):
    models: list[msgspec.Raw] | None = None


class _Version(Struct):
    version: Name | None = None


class _Settings(Struct):
    n_ctx: Tokens | None = None


class _Modalities(Struct):
    vision: bool | None = None


class _Template(Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = False


class _Props(Struct):
    build_info: Name | None = None
    model_path: Name | None = None
    total_slots: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    default_generation_settings: _Settings = field(default_factory=_Settings)
    modalities: _Modalities = field(default_factory=_Modalities)
    chat_template_caps: _Template = field(default_factory=_Template)


class _Meta(Struct):
    n_ctx_train: Tokens | None = None
    n_params: Size | None = None
    size: Size | None = None


class _Status(Struct):
    value: Name | None = None


class _Entry(Struct):
    id: Name = ""
    owned_by: Name | None = ""
    max_model_len: Tokens | None = None
    meta: _Meta | None = None
    status: _Status | None = None


class _List(Struct):
    data: Annotated[list[_Entry], Meta(max_length=MAX_MODELS)]


class _StudioEntry(Struct):
    id: Name = ""
    type: Name | None = ""
    state: Name | None = ""
    max_context_length: Tokens | None = None
    loaded_context_length: Tokens | None = None


class _StudioList(Struct):
    data: Annotated[list[_StudioEntry], Meta(max_length=MAX_MODELS)]


class _Show(Struct):
    capabilities: list[Name] | None = None
    model_info: dict[str, Any] | None = None


class _ErrorText(Struct):
    message: Name = ""


class _Error(Struct):
    error: _ErrorText | Name | None = None


class Props(Struct, frozen=True):
    """What llama.cpp says about itself. ``context_length`` is of one slot; ``build`` "b1234-abcdef".

    ``capabilities`` of its model: whether it sees pictures is told, of the others only what is there; empty: nothing is told.
    """

    build: str
    model_path: str
    slots: int | None
    context_length: int | None
    capabilities: frozenset[str] = frozenset()


class Listing(Struct, frozen=True):
    """A reply to ``/v1/models`` or a kin of it: which kind its signs speak for, models, and those that are loaded."""

    kind: NodeKind
    models: tuple[Model, ...]
    resident: tuple[Resident, ...]


def _read(body: bytes, form: type[Some], what: str) -> Some:
    try:
        return msgspec.json.decode(body, type=form)
    except UNREADABLE as error:
        raise ValueError(f"{what}: {error}") from None


def parse_version(body: bytes) -> str:
    """The version in a reply to ``/api/version`` or ``/version``."""
    version = _read(body, _Version, "version").version
    if not version:
        # LM Studio answers 200 to every path, with a text that there is no such path
        raise ValueError("version: the reply names none")
    return version


def parse_tags(body: bytes) -> tuple[Model, ...]:
    """The models in a reply to ``/api/tags``, each with the node's own entry kept. At most 10,000."""
    models = []
    for raw in _entries(body, "tags"):
        tag = _read(bytes(raw), _Tag, "tags")
        native = tag.name or tag.model
        if not native:
            raise ValueError("tags: a model without a name")
        details = tag.details or _Details()
        models.append(
            Model(
                name=canonical(native),
                native=native,
                size=tag.size or 0,
                digest=tag.digest or "",
                capabilities=frozenset(tag.capabilities or ()),
                context_length=details.context_length or None,
                parameters=parse_parameters(details.parameter_size or ""),
                modified_at=tag.modified_at or "",
                raw=bytes(raw),
            )
        )
    return tuple(models)


def parse_ps(body: bytes, wall: float) -> tuple[Resident, ...]:
    """The loaded models in a reply to ``/api/ps``; `wall` is the node's clock when it wrote it, seconds since the epoch."""
    residents = []
    for raw in _entries(body, "ps"):
        loaded = _read(bytes(raw), _Loaded, "ps")
        if not (loaded.name or loaded.model):
            raise ValueError("ps: a model without a name")
        residents.append(
            Resident(
                name=canonical(loaded.name or loaded.model),
                size=loaded.size or 0,
                size_vram=loaded.size_vram or 0,
                context_length=loaded.context_length or None,
                expires_in=_seconds_left(loaded.expires_at or "", wall),
                digest=loaded.digest or "",
                raw=bytes(raw),
            )
        )
    return tuple(residents)


def parse_show(body: bytes, model: Model) -> Model:
    """`model` with the capabilities, context length and number of parameters of a reply to ``/api/show``."""
    show = _read(body, _Show, "show")
    info = show.model_info or {}
    context = next((value for key, value in info.items() if key.endswith(".context_length")), None)
    count = info.get("general.parameter_count")
    return msgspec.structs.replace(
        model,
        capabilities=frozenset(show.capabilities) if show.capabilities else model.capabilities,
        context_length=_within(context, 1 << 40) or model.context_length,
        parameters=_within(count, 1 << 60) or model.parameters,
    )


def parse_props(body: bytes) -> Props:
    """A reply to llama.cpp's ``/props``; another server's reply there is a `ValueError`."""
    props = _read(body, _Props, "props")
    if props.build_info is None and (props.total_slots is None or props.model_path is None):
        raise ValueError("props: not llama.cpp's")
    return Props(
        build=props.build_info or "",
        model_path=props.model_path or "",
        slots=props.total_slots or None,
        context_length=props.default_generation_settings.n_ctx or None,
        capabilities=_llamacpp_capabilities(props),
    )


def _llamacpp_capabilities(props: _Props) -> frozenset[str]:
    """A template without tools says nothing: the server may have its own way of telling the model about them."""
    template = props.chat_template_caps
    told = {"vision": props.modalities.vision, "tools": template.supports_tools and template.supports_tool_calls}
    if props.modalities.vision is None:
        return frozenset()
    return frozenset({"completion", *(name for name, there in told.items() if there)})


def parse_models(body: bytes, kind: NodeKind | None = None) -> Listing:
    """A reply to ``/v1/models``. ``kind`` None: told by ``owned_by``. All is loaded, but what a node says is not.

    Capabilities stay empty, which means unknown: these servers do not tell.
    """
    entries = [entry for entry in _read(body, _List, "models").data if entry.id]
    owners = {(entry.owned_by or "").lower() for entry in entries}
    told = next((known for owner, known in _OWNERS.items() if owner in owners), NodeKind.OPENAI)
    models, resident = [], []
    for entry in entries:
        meta = entry.meta or _Meta()
        context = entry.max_model_len or meta.n_ctx_train or None
        name = canonical(entry.id)
        count = float(meta.n_params) if meta.n_params else None
        models.append(Model(name, entry.id, size=meta.size or 0, context_length=context, parameters=count))
        if entry.status is None or entry.status.value == "loaded":
            resident.append(Resident(name, size=meta.size or 0, context_length=context))
    return Listing(kind or told, tuple(models), tuple(resident))


def parse_lmstudio(body: bytes) -> Listing:
    """A reply to LM Studio's ``/api/v0/models``; an OpenAI list without its ``state`` is a `ValueError`."""
    entries = [entry for entry in _read(body, _StudioList, "models").data if entry.id]
    if not any(entry.state for entry in entries) and entries:
        raise ValueError("models: not LM Studio's")
    models, resident = [], []
    for entry in entries:
        name = canonical(entry.id)
        models.append(
            Model(
                name,
                entry.id,
                capabilities=_studio_capabilities(entry.type or ""),
                context_length=entry.max_context_length or None,
            )
        )
        if entry.state == "loaded":
            resident.append(Resident(name, context_length=entry.loaded_context_length or entry.max_context_length or None))
    return Listing(NodeKind.LMSTUDIO, tuple(models), tuple(resident))


def is_loading(status: int, body: bytes) -> bool:
    """Whether a reply is llama.cpp's word that its model is being loaded."""
    return status == 503 and "loading model" in error_text(body).lower()


def speaks(status: int, body: bytes) -> bool:
    """Whether the reply to an empty request ("{}") says that the path is served: the request is what was wrong.

    LM Studio answers 200 to every path; llama.cpp answers 501 where its model cannot do it, and 500 to some empty requests.
    """
    return status in (400, 422) or (status == 500 and "is required" in error_text(body))


def error_text(body: bytes) -> str:
    """The text of an error reply in Ollama's or OpenAI's shape; "" when it has neither."""
    try:
        error = _read(body, _Error, "error").error
    except ValueError:
        return ""
    if isinstance(error, _ErrorText):
        return error.message
    return error or ""


def parse_parameters(text: str) -> float | None:
    """The number of parameters in words like "7B", "253.15M", "478K"; None where there is none."""
    match = _PARAMETERS.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2].upper()] or None if match else None


def _entries(body: bytes, what: str) -> list[msgspec.Raw]:
    try:
        body.decode()  # entries are passed on as they are, and the parser does not look into what it skips
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: not UTF-8: {error.reason}") from None
    entries = _read(body, _Entries, what).models or []
    if len(entries) > MAX_MODELS:
        raise ValueError(f"{what}: more than {MAX_MODELS:,} models")
    return entries


def _seconds_left(expires_at: str, wall: float) -> float | None:
    try:
        at = datetime.fromisoformat(expires_at) if expires_at else None
    except ValueError:
        raise ValueError(f"ps: {expires_at[:40]!r} is no time") from None
    if at is None or at.year > _LAST_YEAR:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - wall)


def _within(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None


def _studio_capabilities(kind: str) -> frozenset[str]:
    if kind in {"embeddings", "embedding"}:
        return frozenset({"embedding"})
    # It has every model that speaks call tools, by the model's own template or by one of its own.
    speaks = {"completion", "tools"}
    return frozenset(speaks | {"vision"} if kind == "vlm" else speaks if kind == "llm" else ())
