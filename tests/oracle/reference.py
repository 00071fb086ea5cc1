"""A plain Llama/Qwen3 in PyTorch, in any precision, for autograd.

transformers computes its softmax, its norms and its rotation in single precision whatever the model's dtype, so it
cannot judge a double build. This can: nothing here is cast. compare.py holds it against transformers first.
"""
import torch


def rms_norm(x, weight, epsilon):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)


def rotate(x, theta):
    """x (B, heads, T, D): pairs (p, p + D/2) of token t turn by t * theta^(-2p/D)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency[None, :]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, w, prefix, c):
    batch, length, _ = x.shape

    def heads(name, count):
        return (x @ w[prefix + name + "_proj.weight"].T).view(batch, length, count, c["head_dim"]).transpose(1, 2)

    q, k, v = heads("q", c["heads"]), heads("k", c["kv_heads"]), heads("v", c["kv_heads"])
    if c["qk_norm"]:
        q = rms_norm(q, w[prefix + "q_norm.weight"], c["epsilon"])
        k = rms_norm(k, w[prefix + "k_norm.weight"], c["epsilon"])
    q, k = rotate(q, c["theta"]), rotate(k, c["theta"])
    group = c["heads"] // c["kv_heads"]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    logits = q @ k.transpose(-1, -2) / c["head_dim"] ** 0.5
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    weights = logits.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(batch, length, -1) @ w[prefix + "o_proj.weight"].T


def logits(w, c, tokens):
    """w: name -> tensor; tokens (B, T). Returns (B, T, V)."""
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(c["layers"]):
        p = f"model.layers.{layer}."
        x = x + attention(rms_norm(x, w[p + "input_layernorm.weight"], c["epsilon"]), w, p + "self_attn.", c)
        y = rms_norm(x, w[p + "post_attention_layernorm.weight"], c["epsilon"])
        gate, up = y @ w[p + "mlp.gate_proj.weight"].T, y @ w[p + "mlp.up_proj.weight"].T
        x = x + (torch.nn.functional.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    x = rms_norm(x, w["model.norm.weight"], c["epsilon"])
    return x @ w["model.embed_tokens.weight" if c["tie"] else "lm_head.weight"].T


def loss(w, c, tokens, targets):
    """Mean cross-entropy over targets that are not -1."""
    out = logits(w, c, tokens)
    return torch.nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten(), ignore_index=-1), out
