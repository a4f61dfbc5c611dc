"""`qadv demo`: the main job from end to end on real images."""

from qadv.demo.run import run_demo

__all__ = ["run_demo"]
