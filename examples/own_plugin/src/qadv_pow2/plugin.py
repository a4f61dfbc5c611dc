"""What this distribution provides to qadv."""

import qadv
from qadv.components import Attack, Quantizer


@qadv.hookimpl
def qadv_quantizers():
    yield Quantizer(name="pow2", target="qadv_pow2.pow2:PowerOfTwo", summary="weights, 3-5 bits: powers of two")


@qadv.hookimpl
def qadv_attacks():
    yield Attack(name="sign-noise", target="qadv_pow2.sign_noise:SignNoise", summary="L-inf, random signs, no gradient")
