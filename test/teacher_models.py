"""Tiny teachers of the real architectures, with random weights, saved in the hub's format."""

import torch
import transformers

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def save_dino(folder, family="dinov2", patch=14, seed=0):
    """Writes config.json and model.safetensors; returns the model, in evaluation mode."""
    torch.manual_seed(seed)
    model = {
        "dinov2": lambda: transformers.Dinov2Model(
            transformers.Dinov2Config(**SMALL, patch_size=patch, image_size=4 * patch)
        ),
        "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=patch, image_size=4 * patch)
        ),
        "dinov3": lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**SMALL, intermediate_size=64, patch_size=patch, num_register_tokens=4)
        ),
    }[family]()
    model.save_pretrained(folder)
    return model.eval()
