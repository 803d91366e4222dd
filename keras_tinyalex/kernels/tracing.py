"""Whether PyTorch computes, or reads operations for later."""


def is_traced_by_torch() -> bool:
    """Whether `torch.compile` or an exporter reads the operations of a layer."""
    import torch

    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())
