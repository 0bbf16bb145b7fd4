"""LangChain over all nodes: a gateway in this program, and its address as the base_url of LangChain's own classes.

pip install langchain-ollama
python examples/langchain_chat.py
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import ChatOllama, OllamaEmbeddings

from sollol import SOLLOL, SOLLOLConfig

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")
EMBEDDER = os.environ.get("SOLLOL_EMBEDDER", "nomic-embed-text")


def main() -> None:
    with SOLLOL(SOLLOLConfig(gateway_port=0)) as gateway:
        prompt = ChatPromptTemplate.from_messages([("system", "You answer in one sentence."), ("human", "{question}")])
        chain = prompt | ChatOllama(model=MODEL, base_url=gateway.address) | StrOutputParser()
        questions = [{"question": f"What is {thing}?"} for thing in ("a river", "a bridge", "a gateway")]
        for question, answer in zip(questions, chain.batch(questions), strict=True):
            print(question["question"], answer)
        vectors = OllamaEmbeddings(model=EMBEDDER, base_url=gateway.address).embed_documents(["a river", "a bridge"])
        print(len(vectors), "vectors of", len(vectors[0]), "numbers")


if __name__ == "__main__":
    main()
