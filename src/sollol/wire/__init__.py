"""Protocols as bytes and structs: what Ollama, OpenAI and llama.cpp say and mean. No sockets here."""
