"""Attacks on the stored weights of quantized networks, for qadv."""
