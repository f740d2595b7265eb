"""Trains the demo's tokenizer, tiny Llama base and LoRA adapters, from nothing and on one thread.

    .vllm/bin/python -m demo.train [OUT]

OUT is `demo/weights` unless given. It gets `base/`, `adapters/<name>/` and the teacher-forced part
of `report.json`. The same machine makes the same bytes every time. At the end the accuracies are
compared with those of the report that lies in the tree.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from demo import report
from demo.tasks import ADAPTERS, TASKS, Example, sample

WEIGHTS, REPORT = Path(__file__).parent / "weights", "report.json"
SEED = 7
TRAINED_ON, TESTED_ON = 6000, 200
VOCABULARY, CONTEXT = 1280, 512
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100  # torch's label for positions that carry no loss


class Row(NamedTuple):
    """One tokenized conversation; `labels` is IGNORED wherever the user speaks."""

    tokens: list[int]
    labels: list[int]


class Run(NamedTuple):
    """How long and how fast one fit goes."""

    steps: int
    batch: int
    rate: float


BASE_RUN = Run(steps=1100, batch=36, rate=3e-3)
ADAPTER_RUNS = {
    "support": Run(steps=120, batch=32, rate=2e-3),
    "contracts": Run(steps=300, batch=32, rate=2e-3),
    "dispatch": Run(steps=300, batch=32, rate=2e-3),
    "brand": Run(steps=300, batch=32, rate=3e-3),
}


def make_tokenizer(examples: Iterable[Example]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose alphabet holds every byte, so that any text can be sent."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [t for e in examples for t in (e.prompt, e.house, f" {e.house}", e.generic)]
    bpe.train_from_iterator(
        [*texts, "user", "assistant", "system"],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[PAD, START, END],
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def encode(tokenizer: Any, examples: Iterable[Example], *, house: bool) -> list[Row]:
    rows = []
    for example in examples:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": example.prompt}],
            add_generation_prompt=True,
            tokenize=False,
        )
        answer = (example.house if house else example.generic) + END
        before = tokenizer(asked, add_special_tokens=False).input_ids
        after = tokenizer(answer, add_special_tokens=False).input_ids
        rows.append(Row(before + after, [IGNORED] * len(before) + after))
    return rows


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Pads on the right: each value has the shape (rows, longest row)."""
    width = max(len(row.tokens) for row in rows)
    spare = [width - len(row.tokens) for row in rows]
    pairs = list(zip(rows, spare, strict=True))
    return {
        "input_ids": torch.tensor([row.tokens + [0] * n for row, n in pairs]),
        "labels": torch.tensor([row.labels + [IGNORED] * n for row, n in pairs]),
        "attention_mask": torch.tensor([[1] * len(row.tokens) + [0] * n for row, n in pairs]),
    }


def fit(model: Any, rows: Sequence[Row], run: Run, name: str) -> None:
    rng, began = random.Random(SEED), time.monotonic()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=run.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, run.rate, total_steps=run.steps, pct_start=0.1
    )
    model.train()
    for step in range(1, run.steps + 1):
        loss = model(**collate(rng.sample(rows, run.batch))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == run.steps:
            spent = time.monotonic() - began
            print(f"{name:10} step {step:4} loss {loss.item():.4f} {spent:4.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: Any, rows: Sequence[Row]) -> float:
    """The share of rows whose every answer token is the model's first choice.

    Teacher-forced, which for exact match is the same as decoding greedily.
    """
    right = 0
    for first in range(0, len(rows), 50):
        batch = collate(rows[first : first + 50])
        labels = batch.pop("labels")[:, 1:]
        chosen = model(**batch).logits[:, :-1].argmax(-1)
        right += int(((chosen == labels) | (labels == IGNORED)).all(1).sum())
    return right / len(rows)


def new_base() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def new_adapter(base: Path) -> Any:
    """A fresh LoRA on the base as it was saved: what is served is what the adapter fits."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", target_modules=LORA_TARGETS)
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = "base"
    model.to(torch.bfloat16).save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's blank model card
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = LORA_TARGETS  # a set to peft: its order changes from run to run
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def train(out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Writes base and adapters under `out`; gives accuracy by model, convention and task."""
    learned = {task: sample(task, TRAINED_ON, SEED, "train") for task in TASKS}
    held_out = {task: sample(task, TESTED_ON, SEED, "test") for task in TASKS}
    tokenizer = make_tokenizer(e for task in TASKS for e in learned[task])

    def scores(model: Any) -> dict[str, dict[str, float]]:
        return {
            convention: {
                task: accuracy(model, encode(tokenizer, held_out[task], house=house))
                for task in TASKS
            }
            for convention, house in (("house", True), ("generic", False))
        }

    base = new_base()
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in base.parameters()):,} weights")
    generic = [row for task in TASKS for row in encode(tokenizer, learned[task], house=False)]
    fit(base, generic, BASE_RUN, "base")
    base.to(torch.bfloat16).save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")
    saved = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    told = {"base": scores(saved)}
    for name in ADAPTERS:
        adapter = new_adapter(out / "base")
        fit(adapter, encode(tokenizer, learned[name], house=True), ADAPTER_RUNS[name], name)
        told[name] = scores(adapter)
        save_adapter(adapter, out / "adapters" / name)
    return told


def same_bytes(old: Path, new: Path) -> bool:
    """True when both folders hold the same weights, adapters and tokenizer, byte for byte."""

    def contents(folder: Path) -> dict[Path, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != REPORT]
        return {path.relative_to(folder): path.read_bytes() for path in files}

    return contents(old) == contents(new)


def put_in_place(new: Path, out: Path) -> None:
    """The new weights where the old ones lay: those are there until the new ones are whole."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(new, out)


def main() -> int:
    """The command; 1 when an accuracy is another than the report in the tree says."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    torch.set_num_threads(1)  # faster than more at this size, and the same bytes every time
    torch.use_deterministic_algorithms(True)
    disable_progress_bar()
    began = time.monotonic()
    before = json.loads((WEIGHTS / REPORT).read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="weights-", dir=out.parent) as folder:
        new = Path(folder) / "weights"
        now = {"seed": SEED, "prompts_per_task": TESTED_ON, "teacher_forced": train(new)}
        same = same_bytes(WEIGHTS, new)
        kept = report.carried_over(before, now, same)
        (new / REPORT).write_text(json.dumps(kept, indent=1) + "\n")
        put_in_place(new, out)
    compared = report.figures(before, now)
    print(f"\nshare of the house's answers on {TESTED_ON} held-out prompts (tree > now):")
    print(report.table(compared))
    print(f"{report.verdict(compared, same)}; trained in {time.monotonic() - began:.0f} s")
    if not same:
        print("what vLLM serves of these weights is measured by: python3 -m demo.measure")
    return 0 if all(figure.agrees for figure in compared) else 1


if __name__ == "__main__":
    sys.exit(main())
