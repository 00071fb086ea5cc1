"""Compares rope.c with transformers and with a plain PyTorch model (reference.py).

    compare.py DUMP_FLOAT DUMP_DOUBLE WORK

For each case: transformers makes a checkpoint; both builds of rope.c load it and are compared in loss, logits (whole
batch and token by token) and every gradient; rope.c writes it again, and transformers loads that and is compared; and
so as a GGUF file, and in bfloat16. The error of a tensor is max|a - b| / max|b|.
"""
import os
import shutil
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import reference

SINGLE, DOUBLE = 1e-4, 1e-8
BATCH, LENGTH = 3, 37

BASE = dict(vocab_size=211, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.15,
            tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
# name, class, settings, dtype stored, largest shard
CASES = [
    ("llama", LlamaForCausalLM, {}, torch.float32, None),
    ("llama-gqa-tied", LlamaForCausalLM, dict(num_key_value_heads=2, tie_word_embeddings=True), torch.float32, None),
    ("llama-head-size", LlamaForCausalLM, dict(head_dim=20, num_key_value_heads=1), torch.float32, None),
    ("llama-theta-bf16", LlamaForCausalLM, dict(rope_theta=500000.0), torch.bfloat16, None),
    ("llama-sharded-f16", LlamaForCausalLM, {}, torch.float16, "40KB"),
    ("llama-f64", LlamaForCausalLM, {}, torch.float64, None),
    ("qwen3", Qwen3ForCausalLM, dict(head_dim=16), torch.float32, None),
    ("qwen3-gqa-tied", Qwen3ForCausalLM, dict(head_dim=24, num_key_value_heads=2, tie_word_embeddings=True,
                                              rms_norm_eps=1e-6), torch.float32, None),
    ("qwen3-sharded-bf16", Qwen3ForCausalLM, dict(head_dim=12, num_key_value_heads=1), torch.bfloat16, "30KB"),
]


class Tally:
    def __init__(self):
        self.failed, self.compared, self.worst = 0, 0, {}

    def check(self, case, kind, what, a, b, limit):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-300) if a.shape == b.shape and a.size else np.inf
        self.compared += a.size
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error < limit:
            self.failed += 1
            print(f"  {case}: {kind}: {what}: error {error:.2e}, allowed {limit:.0e}")

    def equal(self, case, what, a, b):
        self.compared += 1
        if a != b:
            self.failed += 1
            print(f"  {case}: {what}: {a!r} instead of {b!r}")


def make(cls, settings, dtype, shard, directory):
    values = {**BASE, **settings}
    theta = values.pop("rope_theta", 10000.0)
    if int(transformers.__version__.split(".")[0]) >= 5:
        values["rope_parameters"] = dict(rope_type="default", rope_theta=theta)
    else:
        values["rope_theta"] = theta
    model = cls((LlamaConfig if cls is LlamaForCausalLM else Qwen3Config)(**values))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
    model = model.to(dtype)
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    if bool(shard) != os.path.exists(os.path.join(directory, "model.safetensors.index.json")):
        sys.exit(f"{directory}: wanted {'several files' if shard else 'one file'}")
    config = dict(layers=values["num_hidden_layers"], heads=values["num_attention_heads"],
                  kv_heads=values["num_key_value_heads"], theta=theta, epsilon=values["rms_norm_eps"],
                  head_dim=values.get("head_dim", values["hidden_size"] // values["num_attention_heads"]),
                  qk_norm=cls is Qwen3ForCausalLM, tie=values["tie_word_embeddings"])
    return model, config


def run(*arguments):
    subprocess.run(list(arguments), check=True)


def fresh(*parts):
    directory = os.path.join(*parts)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    return directory


def compare_with_reference(tally, case, out, weights, config, tokens, targets, dtype, limit, build):
    w = {name: value.detach().to(dtype).requires_grad_() for name, value in weights.items()}
    loss, logits = reference.loss(w, config, tokens, targets)
    loss.backward()
    tally.check(case, f"{build}: loss", "loss", np.fromfile(out + "/loss.bin"), [loss.item()], limit)
    expected = logits.detach().numpy()
    tally.check(case, f"{build}: logits", "logits", np.fromfile(out + "/logits.bin"), expected.ravel(), limit)
    tally.check(case, f"{build}: logits, decoder", "decoded", np.fromfile(out + "/decoded.bin"), expected[0].ravel(),
                limit)
    gradients, at, names = np.fromfile(out + "/gradients.bin"), 0, set()
    for line in open(out + "/tensors.txt"):
        name, _, rows, columns = line.split()
        size = int(rows) * int(columns)
        tally.check(case, f"{build}: gradients", name, gradients[at:at + size], w[name].grad.numpy().ravel(), limit)
        names.add(name)
        at += size
    tally.equal(case, "tensors", names, set(w))
    tally.equal(case, "numbers in gradients.bin", len(gradients), at)
    return expected


def compare_case(tally, dumps, work, case, cls, settings, dtype, shard):
    directory = fresh(work, case)
    model, config = make(cls, settings, dtype, shard, directory)
    tokens = torch.randint(0, BASE["vocab_size"], (BATCH, LENGTH))
    targets = torch.randint(0, BASE["vocab_size"], (BATCH, LENGTH))
    targets[0, 5:9] = -1
    batch = os.path.join(work, case + ".batch")
    np.concatenate([[BATCH, LENGTH], tokens.numpy().ravel(), targets.numpy().ravel()]).astype(np.int32).tofile(batch)

    weights = {name: value for name, value in model.named_parameters()}
    for build, precision, limit in (("float", torch.float32, SINGLE), ("double", torch.float64, DOUBLE)):
        out = fresh(work, case + "." + build)
        run(dumps[build], directory, batch, out)
        logits = compare_with_reference(tally, case, out, weights, config, tokens, targets, precision, limit, build)
        if build == "float":
            with torch.no_grad():
                theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)(tokens).logits.numpy()
            tally.check(case, "reference.py: logits against transformers", "logits", logits, theirs, SINGLE)
            tally.check(case, "float: logits against transformers", "logits", np.fromfile(out + "/logits.bin"),
                        theirs.ravel(), SINGLE)

    saved = fresh(work, case + ".saved")
    run(dumps["float"], directory, "--save", saved)
    loaded, info = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        tally.equal(case, "saved by rope.c: " + key, list(info[key]), [])
    tally.equal(case, "saved by rope.c: class", type(loaded), cls)
    tally.equal(case, "saved by rope.c: dtype", loaded.dtype, torch.float32)
    tally.equal(case, "saved by rope.c: bos, eos", (loaded.config.bos_token_id, loaded.config.eos_token_id), (1, 2))
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
        tally.equal(case, "saved by rope.c: " + key, getattr(loaded.config, key), getattr(model.config, key))
    with torch.no_grad():
        tally.check(case, "saved by rope.c, loaded by transformers: logits", "logits",
                    loaded(tokens).logits.numpy().ravel(),
                    np.fromfile(os.path.join(work, case + ".float", "logits.bin")), SINGLE)
    compare_gguf(tally, dumps, work, case, model, tokens)
    compare_bf16(tally, dumps, work, case, model)


# transformers reads the settings from the file too, and puts the rows of q and k back in its own order. Of qwen3 it does
# not read the size of a head, so that its own configuration is given.
def compare_gguf(tally, dumps, work, case, model, tokens):
    cls = type(model)
    directory = fresh(work, case + ".gguf")
    run(dumps["float"], os.path.join(work, case), "--gguf", os.path.join(directory, "model.gguf"))
    given = {"config": model.config} if cls is Qwen3ForCausalLM else {}
    loaded = AutoModelForCausalLM.from_pretrained(directory, gguf_file="model.gguf", dtype=torch.float32, **given)
    tally.equal(case, "GGUF: class", type(loaded), cls)
    with torch.no_grad():
        tally.check(case, "GGUF by rope.c, loaded by transformers: logits", "logits",
                    loaded(tokens).logits.numpy().ravel(),
                    np.fromfile(os.path.join(work, case + ".float", "logits.bin")), SINGLE)


def compare_bf16(tally, dumps, work, case, model):
    directory = fresh(work, case + ".bf16")
    run(dumps["float"], os.path.join(work, case), "--bf16", directory)
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    tally.equal(case, "BF16: dtype", loaded.dtype, torch.bfloat16)
    ours, theirs = loaded.state_dict(), model.state_dict()
    tally.equal(case, "BF16: tensors", set(ours), set(theirs))
    for name in ours:
        tally.equal(case, "BF16: " + name, torch.equal(ours[name], theirs[name].float().to(torch.bfloat16)), True)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    torch.manual_seed(1)
    transformers.utils.logging.disable_progress_bar()
    tally = Tally()
    print(f"oracle: torch {torch.__version__}, transformers {transformers.__version__}")
    for case in CASES:
        compare_case(tally, dict(float=sys.argv[1], double=sys.argv[2]), sys.argv[3], *case)
    for kind, error in tally.worst.items():
        print(f"  {kind}: largest error {error:.2e}")
    print(f"oracle: {len(CASES)} checkpoints, {tally.compared} numbers compared, {tally.failed} comparisons failed")
    sys.exit(tally.failed > 0 or tally.compared == 0)


main()
