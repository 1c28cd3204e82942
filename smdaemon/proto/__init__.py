"""Message classes: `smdaemon.proto.tensorflow` (TensorFlow's) and `smdaemon.proto.v1` (smdaemon's own)."""
