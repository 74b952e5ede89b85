"""The SANA forward pass in torch (as functions over tensors), quantized layers, weight streaming, calibration."""
