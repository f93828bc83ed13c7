"""Attacks that follow gradients through the features, the encoder, the decoder, the steering and the gate."""
