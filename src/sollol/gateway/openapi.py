"""The OpenAPI document of SOLLOL's own API, made from the same structs that read and write it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

import sollol
from sollol.core.ports import Sink
from sollol.gateway import cache_page, explain, shapes
from sollol.gateway.answers import send_json
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request

PATH: Final = "/api/openapi.json"
_REF: Final = "#/components/schemas/{name}"
_ONE: Final = "/api/nodes/{node}"


class Error(Struct):
    """What went wrong, in words."""

    error: str


class Operation(Struct, frozen=True):
    """One method of one path. ``done`` is the struct of a good answer (None: any object); ``refusals`` the other statuses."""

    method: str
    path: str
    summary: str
    done: type[Struct] | None = None
    status: int = 200
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    refusals: tuple[int, ...] = ()


OPERATIONS: Final = (
    Operation("get", "/api/health", "Whether the gateway can answer requests now", shapes.Health),
    Operation("get", "/api/stats", "What was counted since the start"),
    Operation("get", "/api/nodes", "All nodes, and where others were searched", shapes.NodeList),
    Operation("post", "/api/nodes", "Add a node", shapes.NodeInfo, 201, shapes.NewNode, refusals=(400, 409, 413)),
    Operation("get", _ONE, "One node, by id or name", shapes.NodeInfo, refusals=(400, 404)),
    Operation("patch", _ONE, "Change a node", shapes.NodeInfo, body=shapes.NodeChange, refusals=(400, 404, 409, 413)),
    Operation("delete", _ONE, "Forget a node", shapes.Removed, refusals=(400, 404)),
    Operation("get", "/api/queue", "Requests that wait for a node", shapes.Queue),
    Operation("post", "/api/reload", "Read the settings again and take them", shapes.Reloaded, refusals=(400, 409)),
    Operation("get", cache_page.PATH, "What the response cache holds and did", cache_page.CacheState),
    Operation(
        "delete",
        cache_page.PATH,
        "Drop kept answers",
        cache_page.Cleared,
        query=cache_page.Which,
        refusals=(400,),
    ),
    Operation(
        "get",
        "/api/routing/explain",
        "Where a request would go, and why; nothing is sent",
        explain.Explanation,
        query=explain.Question,
        refusals=(400,),
    ),
)
_WORDS: Final = {
    200: "Done",
    201: "Added",
    400: "The request makes no sense",
    401: "Keys are on, and no valid one was sent",
    403: "This needs an admin key, or comes from a foreign page",
    404: "No such node",
    409: "It exists already, or cannot be done here",
    413: "The body is too large",
}


async def openapi(gateway: Gateway, request: Request, sink: Sink) -> None:
    """The document."""
    send_json(sink, document())


def document() -> dict[str, Any]:
    """The document as a dict."""
    named: list[type[Struct]] = [Error]
    named += [kind for operation in OPERATIONS for kind in (operation.done, operation.body) if kind is not None]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(named)), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SOLLOL",
            "version": sollol.__version__,
            "description": "The gateway's own API. Everything else that it answers is Ollama's, OpenAI's and Anthropic's.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"} if operation.done is None else _ref(operation.done)
    responses = {str(operation.status): _response(operation.status, schema)}
    for status in (*operation.refusals, 401, 403):
        responses[str(status)] = _response(status, _ref(Error) if status != 403 else {})
    found: dict[str, Any] = {
        "operationId": f"{operation.method}{operation.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "summary": operation.summary,
        "responses": responses,
    }
    parameters = _parameters(operation)
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(operation.body)}}}
    return found


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if operation.path == _ONE:
        found.append({"name": "node", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    if operation.query is not None:
        (_,), schemas = msgspec.json.schema_components([operation.query], ref_template=_REF)
        shape = schemas[operation.query.__name__]
        found += [
            {"name": name, "in": "query", "required": name in shape.get("required", ()), "schema": _inline(schema, schemas)}
            for name, schema in shape["properties"].items()
        ]
    return found


def _inline(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without references, and without null: a query has no word for that, one leaves it out."""
    if "$ref" in schema:
        return dict(schemas[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        kept = [_inline(option, schemas) for option in schema["anyOf"] if option != {"type": "null"}]
        return kept[0] if len(kept) == 1 else {"anyOf": kept}
    return {key: value for key, value in schema.items() if key != "default" or value is not None}


def _ref(kind: type[Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _response(status: int, schema: dict[str, Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _WORDS[status]}
    if schema:
        response["content"] = {"application/json": {"schema": schema}}
    return response
