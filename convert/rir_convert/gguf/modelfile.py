"""An Ollama Modelfile whose template gives the prompt that the classifier learned.

Format: https://docs.ollama.com/modelfile. Ollama tokenises the rendered template as one string; training tokenised the
text separately. The prompt is cut at line breaks, so both give the same ids except for texts that begin with a line
break or spell out a control token.
"""

from __future__ import annotations

import re

from rir_convert.gguf.vocabulary import adds_bos
from rir_convert.prompt_parts import prompt_around
from rir_mlx.backends.base import Tokens
from rir_mlx.prompting.codec import Codec
from rir_mlx.prompting.prompts import Prompt


def around(codec: Codec, prompt: Prompt) -> tuple[str, str]:
    """The prompt before and after a row's text, without the first token if the tokenizer adds it."""
    before, question, after = prompt_around(codec, prompt)
    return without_first_token(codec, before + question), after


def without_first_token(codec: Codec, prompt: str) -> str:
    """A prompt as given to llama.cpp and Ollama: if the tokenizer adds the first token, so do they."""
    return prompt.removeprefix(codec.tokenizer.bos_token) if adds_bos(codec.tokenizer) else prompt


def joint_ids(codec: Codec, text: str, before: str, after: str) -> Tokens:
    """The ids of the whole prompt as one string, as Ollama and llama.cpp make them."""
    return tuple(codec.tokenizer(before + text + after)["input_ids"])


def modelfile(codec: Codec, prompt: Prompt, file: str, *, max_tokens: int, context: int) -> str:
    """The Modelfile for `file` beside it. `max_tokens` may be written, `context` read and written."""
    before, after = around(codec, prompt)
    stops = "".join(f'PARAMETER stop "{codec.decode([token])}"\n' for token in codec.stops)
    numbers = {"temperature": 0, "repeat_penalty": 1, "num_predict": max_tokens, "num_ctx": context}
    parameters = stops + "".join(f"PARAMETER {name} {value}\n" for name, value in numbers.items())
    return f'FROM ./{file}\nTEMPLATE """{_constant(before)}{{{{ .Prompt }}}}{_constant(after)}"""\n{parameters}'


def _constant(text: str) -> str:
    """Text that a Go template prints as it is, inside three quotes."""
    braces = re.sub(r"\{+", lambda run: f'{{{{ "{run[0]}" }}}}', text) if "{{" in text else text
    return braces.replace('"""', '{{ "\\"\\"\\"" }}')
