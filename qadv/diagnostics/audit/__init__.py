"""The masking checks: is a network robust, or are its gradients only hidden from the attack? `qadv.audit` runs them."""
