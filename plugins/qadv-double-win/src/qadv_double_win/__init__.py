"""Double-Win Quant for qadv: a switchable quantizer, random precision training and random precision inference."""
