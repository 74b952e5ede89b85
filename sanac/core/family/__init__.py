"""The SANA family: architectures, tensor names and layouts."""
