"""The SANA family: tensor names, shapes and couplings."""
