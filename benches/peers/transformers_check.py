"""Loads a folder that `qat llm quantize` wrote in Hugging Face's transformers, and compares the perplexity of a part of a text
with that of `qat llm eval`: `transformers_check.py FOLDER TEXT CHARS WINDOWS QAT`, such as
`transformers_check.py .cache/model-3bit .cache/lcet10.txt 20000..40000 2 target/release/qat`."""

import json
import math
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 512


def main():
    folder, path, chars, windows, qat = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    text = open(path, encoding="utf-8", newline=None).read()
    start, end = map(int, chars.split(".."))
    tokens = tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
    losses = []
    with torch.no_grad():
        for i in range(int(windows)):
            window = torch.tensor(tokens[i * WINDOW : (i + 1) * WINDOW])
            logits = model(window[None, :-1]).logits[0].float()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
    theirs = math.exp(sum(losses) / len(losses))
    command = [qat, "llm", "eval", folder, "--text", path, "--chars", chars, "--windows", windows, "--json"]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["perplexity"]
    print(f"perplexity in transformers {theirs:.6f}, of qat llm eval {ours:.6f}, ratio {ours / theirs:.8f}")
    if abs(ours / theirs - 1) > 1e-4:
        sys.exit("they disagree")


main()
