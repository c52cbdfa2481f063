"""Rebuild the embedded demo assets from a seed: `python recipes/embedded/build.py`.

Writes the data files and the tiny model into `rir_mlx/embedded/`, and prints what it measured. Nothing is downloaded.
Needs torch, and the package installed. The same seed gives the same data files everywhere; the weights are the same
on the same machine and the same torch.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import corpus
import lexicon
import numpy as np
import torch
from checking import SEED, probe_words
from modelling import SPECIAL, VOCABULARY, new_model, save_folder, train_tokenizer, word_vectors
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM
from world import INSTRUCTION, draw_world, write_world

from rir_mlx.prompting.prompts import Piece, classifier_prompt, rgen_prompt
from rir_mlx.types import AnswerFormat

LIMIT = 8_000_000
"""Bytes that the model's folder may take."""

DATE = "26 Jul 2024"
TARGET = Path(__file__).resolve().parents[2] / "rir_mlx" / "embedded"


def constant_texts() -> list[str]:
    """What every prompt repeats: the chat template's own words and the instructions."""
    constants = [
        "system", "user", "assistant", f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n",
        "Which of these labels fits the text? Which emotion does the text express? Which category is it?",
        "joy, sadness, anger, fear, love, surprise, positive, negative, neutral, yes, no",
    ]  # fmt: skip
    labels = dict.fromkeys(("joy", "sadness", "anger", "fear", "love", "surprise"), "")
    for asked in get_args(AnswerFormat)[:2]:
        prompt = classifier_prompt("", labels, INSTRUCTION, asked)
        constants.append("".join(piece.text for piece in prompt.prefix) + "\nLabel: " + "\nReasoning: ")
    prompt = rgen_prompt("", "")
    constants.append("".join(piece.text for piece in (*prompt.prefix, *prompt.tail, Piece(" Choices: Text:"))))
    return [*constants, *corpus.WHY, *corpus.HOW]


def tokenizer_texts(documents: list[corpus.Document]) -> Iterator[str]:
    """What the tokenizer learns from: the documents, each word of the lexicon, and the constant texts often."""
    for document in documents:
        yield document.text
        yield document.ask
    for word in lexicon.all_words():
        yield f" {word}" * 40
        yield from [word] * 2
    for text in constant_texts():
        yield from [text] * 400


Tokens = tuple[list[int], list[int]]
"""Token ids, and a 1 for each that is learned."""
Packed = tuple[torch.Tensor, torch.Tensor]
"""The same for rows of tokens."""


def encode(tokenizer: Tokenizer, document: corpus.Document) -> Tokens:
    """A document, or a turn of a chat."""
    start, end = "<|begin_of_text|>", "<|end_of_text|>"
    if document.ask:
        start = (
            f"<|start_header_id|>user<|end_header_id|>\n\n{document.ask}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        end = "<|eot_id|>"
    ids, learned = list[int](), list[int]()
    for text, wanted in ((start, False), *document.pieces, (end, bool(document.ask))):
        part = tokenizer.encode(text, add_special_tokens=False).ids
        ids += part
        learned += [int(wanted)] * len(part)
    return ids, learned


def pack(tokenizer: Tokenizer, documents: list[corpus.Document], width: int) -> Packed:
    """Rows of `width` tokens, each of whole documents or a chat of several turns: ids, and a 1 for each learned one."""
    pad = tokenizer.token_to_id("<|finetune_right_pad_id|>")
    header = tokenizer.encode(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        f"Today Date: {DATE}\n\n<|eot_id|>",
        add_special_tokens=False,
    ).ids
    rows: list[Tokens] = []
    open_rows: dict[bool, list[Tokens]] = {False: [], True: []}
    for document in documents:
        ids, learned = encode(tokenizer, document)
        chat = bool(document.ask)
        start = header if chat else []
        if len(start) + len(ids) > width:
            continue
        row = next((row for row in open_rows[chat] if len(row[0]) + len(ids) <= width), None)
        if row is None:
            row = (list(start), [0] * len(start))
            rows.append(row)
            open_rows[chat] = [row, *open_rows[chat][:7]]
        row[0].extend(ids)
        row[1].extend(learned)
    filled = [(ids + [pad] * (width - len(ids)), learned + [0] * (width - len(ids))) for ids, learned in rows]
    return torch.tensor([ids for ids, _ in filled]), torch.tensor([learned for _, learned in filled])


class Trainer:
    """AdamW over the whole model; decay on the matrices of the layers alone."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        named = dict(model.named_parameters())
        words = named.pop("model.embed_tokens.weight")
        matrices = [weight for weight in named.values() if weight.ndim > 1]
        vectors = [weight for weight in named.values() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": 0.05},
            {"params": vectors, "weight_decay": 0.0},
            {"params": [words], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def step(self, ids: torch.Tensor, learned: torch.Tensor, rate: float, words: bool = True) -> float:
        """One update on the mean loss of the learned tokens, of the embeddings only with `words`."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = learned[:, 1:].bool()
        loss = torch.nn.functional.cross_entropy(self.model.lm_head(hidden[wanted]), ids[:, 1:][wanted])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.param_groups[-1]["lr"] = rate * words
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def learn_to_copy(trainer: Trainer, words: int, seed: int, steps: int, rate: float = 2e-3) -> None:
    """Random tokens, said twice, to settle the copying that the model was wired with."""
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    for step in range(steps):
        length = 8 + step % 13
        once = torch.randint(words, (32, length), generator=generator)
        learned = torch.ones(32, 2 * length, dtype=torch.long)
        learned[:, : length + 1] = 0
        loss = trainer.step(torch.cat([once, once], 1), learned, rate * min(1.0, (step + 1) / 50), words=False)
    print(f"  copying: last loss {loss:.3f} after {steps} steps")


def read(trainer: Trainer, packed: Packed, watch: Callable[[], str], peak: float = 3e-3, batch: int = 8) -> None:
    """One pass over the rows with a cosine schedule. What `watch` says is printed now and then."""
    ids, learned = packed
    steps = len(ids) // batch
    start = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        rows = slice(step * batch, (step + 1) * batch)
        recent = [*recent[-99:], trainer.step(ids[rows], learned[rows], rate)]
        if step % 100 == 99 or step == steps - 1:
            print(
                f"  step {step + 1}/{steps}  loss {np.mean(recent):.3f}  {time.monotonic() - start:.0f} s  {watch()}",
                flush=True,
            )


def open_folder(folder: Path) -> tuple[LlamaForCausalLM, Tokenizer]:
    """The model of a folder in float32, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.no_grad()
def complete(model: LlamaForCausalLM, tokenizer: Tokenizer, texts: list[str], tokens: int = 3) -> list[str]:
    """How the model goes on after each text, greedily."""
    was_training = model.training
    model.eval()
    start = tokenizer.token_to_id("<|begin_of_text|>")
    prompts = [[start, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    ends: dict[int, str] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[place] for place in places])
        for _ in range(tokens):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        ends |= {place: tokenizer.decode(row[length:].tolist()) for place, row in zip(places, ids, strict=True)}
    model.train(was_training)
    return [ends[place] for place in range(len(texts))]


def measure_words() -> float:
    """Test accuracy of TF-IDF with logistic regression: what the words alone give."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    splits, _ = draw_world(SEED)
    texts, labels = (
        [[getattr(row, key) for row in splits[name]] for name in ("train", "test")] for key in ("text", "label")
    )
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=3, max_iter=2000))
    return float(np.mean(pipeline.fit(texts[0], labels[0]).predict(texts[1]) == np.array(labels[1])))


def prefix_length(folder: Path) -> int:
    """Tokens that every classifier prompt of the demo starts with."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = classifier_prompt("", dict.fromkeys(("joy", "sadness", "anger", "fear"), ""), INSTRUCTION, "label")
    content = "".join(piece.text for piece in prompt.prefix) + "\0"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, date_string=DATE, add_generation_prompt=True
    )
    return len(tokenizer(chat.split("\0")[0], add_special_tokens=False).input_ids)


def main() -> None:
    """Build everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to write to")
    parser.add_argument("--documents", type=int, default=36_000, help="documents to read in pre-training")
    parser.add_argument("--copying-steps", type=int, default=150, help="steps on random tokens before that")
    parser.add_argument("--threads", type=int, default=1, help="the weights depend on it, by rounding")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    start = time.monotonic()
    options.target.mkdir(parents=True, exist_ok=True)
    write_world(options.target, SEED)
    reader = corpus.reader(SEED)
    documents = [reader.document() for _ in range(options.documents)]
    tokenizer = train_tokenizer(tokenizer_texts(documents[:8_000]))
    ids, learned = pack(tokenizer, documents, width=192)
    model = new_model(tokenizer, SEED, word_vectors(tokenizer, ids, SEED))
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{count:,} weights; {ids.numel():,} tokens to read, {int(learned.sum()):,} of them learned")
    trainer = Trainer(model)
    learn_to_copy(trainer, VOCABULARY - len(SPECIAL), SEED, options.copying_steps)

    def unknown_words() -> dict[str, str]:
        return probe_words(lambda texts: complete(model, tokenizer, texts))

    read(trainer, (ids, learned), lambda: f"{len(unknown_words())} words unknown")
    folder = options.target / "tiny-llama"
    save_folder(folder, tokenizer, model)
    unknown = unknown_words()
    print(f"{len(unknown)} words of the lexicon are not completed by a sign of their feeling: {', '.join(unknown)}")
    print(f"words alone: {measure_words():.1%} of the test rows")
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT:
        raise AssertionError(f"{folder} takes {size:,} bytes, at most {LIMIT:,} are allowed")
    print(f"{size:,} bytes; a classifier prompt starts with {prefix_length(folder)} constant tokens")
    print(f"built in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
