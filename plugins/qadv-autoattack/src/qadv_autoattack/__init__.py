"""The official AutoAttack as ART attacks: `auto_attack.AutoAttack`, and its parts in `apgd`, `fab` and `square`."""
