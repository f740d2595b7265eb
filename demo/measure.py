"""Asks a real vLLM, through its chat API, what the trained base and adapters are worth.

    python3 -m demo.measure

For every task, 200 held-out prompts go to the base and to each adapter (temperature 0, 8 tokens).
The share of answers that are exactly the house's is printed and kept in `weights/report.json` under
`served`; the adapters are loaded at run time, as a gateway does it.
"""

import json
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo import vllm_server
from demo.tasks import ADAPTERS, TASKS, sample

PROMPTS, SEED = 200, 11  # another seed than the one that chose the training prompts
MAX_TOKENS = 8
CLIENTS = 8
REPORT = vllm_server.WEIGHTS / "report.json"


def post(url: str, body: dict[str, Any]) -> bytes:
    """The answer's body. Raises urllib.error.HTTPError for a status that is not 2xx."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        content: bytes = answer.read()
        return content


def load_adapter(url: str, name: str) -> None:
    path = (vllm_server.ADAPTERS / name).resolve()
    post(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})


def ask(url: str, model: str, prompt: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    text: str = json.loads(post(f"{url}/v1/chat/completions", body))["choices"][0]["message"][
        "content"
    ]
    return text


def exact_match(url: str, model: str, task: str) -> float:
    """The share of `PROMPTS` held-out prompts whose answer is exactly the house's."""
    examples = sample(task, PROMPTS, SEED, "test")
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = clients.map(lambda example: ask(url, model, example.prompt), examples)
    right = [answer == example.house for answer, example in zip(answers, examples, strict=True)]
    return sum(right) / PROMPTS


def served(url: str) -> dict[str, dict[str, float]]:
    """Exact match by model and task; loads every adapter first, and tells how far it is."""
    for name in ADAPTERS:
        load_adapter(url, name)
    found = {}
    for model in (vllm_server.SERVED_NAME, *ADAPTERS):
        print(f"asking {model}", flush=True)
        found[model] = {task: exact_match(url, model, task) for task in TASKS}
    return found


def table(scores: dict[str, dict[str, float]]) -> str:
    head = f"{'served':12}" + "".join(f"{task:>11}" for task in TASKS)
    rows = [
        f"{model:12}" + "".join(f"{by_task[task]:11.2f}" for task in TASKS)
        for model, by_task in scores.items()
    ]
    return "\n".join([head, *rows])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "vllm.log"
        print("starting vLLM", flush=True)
        with vllm_server.start(vllm_server.free_port(), log_path=log_path) as server:
            scores = served(server.url)
    report = json.loads(REPORT.read_text())
    report["served"] = {"prompts_per_task": PROMPTS, "seed": SEED, "exact_match": scores}
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(table(scores))


if __name__ == "__main__":
    main()
