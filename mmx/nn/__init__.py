"""Layers that every modality shares: attention, decoder, Conformer, adapters, LoRA, quantized layers."""
