"""The ordinary use of the litellm package, at each address that is named; prints what it got as one JSON object.

It is a program of its own because litellm keeps threads that nothing ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing it asks the internet for prices

import litellm

litellm.suppress_debug_info = True

HELLO = [{"role": "user", "content": "Why is the sky blue?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": PARAMETERS},
}
ANSWER = {"type": "object", "properties": {"colour": {"type": "string"}, "number": {"type": "integer"}}, "required": ["colour"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER}}


def used(model: str, embedder: str, address: str) -> dict[str, Any]:
    # With tools, this version looks for MCP first, in a package that it does not bring.
    to: Any = {"api_base": address, "api_key": "none", "max_retries": 0, "_skip_mcp_handler": True}
    whole = litellm.completion(model, HELLO, max_tokens=20, temperature=0, **to)
    parts = list(litellm.completion(model, HELLO, max_tokens=20, temperature=0, stream=True, **to))
    called = litellm.completion(model, HELLO, tools=[WEATHER], **to).choices[0].message
    gathered = litellm.stream_chunk_builder(list(litellm.completion(model, HELLO, tools=[WEATHER], stream=True, **to)))
    structured = litellm.completion(model, HELLO, response_format=FORMAT, **to)
    embedded = litellm.embedding(embedder, ["good day", "good night"], **to)
    return {
        "text": whole.choices[0].message.content,
        "written": whole.usage.completion_tokens,
        "streamed": "".join(part.choices[0].delta.content or "" for part in parts),
        "calls": [[call.function.name, json.loads(call.function.arguments)] for call in called.tool_calls],
        "streamed calls": [
            [call.function.name, json.loads(call.function.arguments)] for call in gathered.choices[0].message.tool_calls
        ],
        "structured": json.loads(structured.choices[0].message.content),
        "embedded": [[round(number, 6) for number in item["embedding"]] for item in embedded.data],
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    results = {}
    for provider, host in asked["hosts"]:
        address = f"{host}/v1" if provider == "openai" else host
        embeds = "ollama" if provider == "ollama_chat" else provider
        results[f"{provider} {host}"] = used(f"{provider}/{asked['model']}", f"{embeds}/{asked['embedder']}", address)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
